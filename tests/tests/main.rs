//! The tests of the whole: the house rules, a real cluster at work and under failures, bad input.

mod bad_input;
mod e2e;
mod tidy;
