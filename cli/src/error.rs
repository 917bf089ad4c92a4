//! How a command fails: exit code 1, or 2 when the usage was wrong. The text is one line
//! "what: why; what to do", built by `anyhow` contexts from the outside in.

use std::fmt;

/// Exit code of a command that could not do what was asked.
pub(crate) const FAILED: u8 = 1;
/// Exit code of a command that was asked in the wrong way.
pub(crate) const WRONG_USAGE: u8 = 2;

/// Wrong usage that clap could not see: an unknown service name, an unknown configuration key.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The exit code of an error.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<Usage>().is_some() {
        WRONG_USAGE
    } else {
        FAILED
    }
}

/// The whole chain of causes on one line. Some libraries repeat their cause in their own text; what was
/// said already is not said again.
pub(crate) fn text(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let part = cause.to_string();
        if text.is_empty() {
            text = part;
        } else if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn wrong_usage_is_told_apart_below_contexts() {
        let usage = anyhow::Error::new(Usage("no such key".to_owned())).context("read the file");
        assert_eq!(exit_code(&usage), WRONG_USAGE);
        assert_eq!(text(&usage), "read the file: no such key");
        assert_eq!(exit_code(&anyhow::anyhow!("disk on fire")), FAILED);
    }

    #[test]
    fn a_repeated_cause_is_said_once() {
        let inner: Result<(), _> = Err(std::io::Error::other("port taken"));
        let error = inner.context("start: port taken").unwrap_err();
        assert_eq!(text(&error), "start: port taken");
    }
}
