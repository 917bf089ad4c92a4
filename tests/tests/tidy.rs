//! The house rules that a program can check.

mod dependencies;
mod documents;
mod files;
mod sources;
