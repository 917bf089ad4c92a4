//! A whole server against a manager that is only what the test says.
