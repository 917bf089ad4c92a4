//! Running programs and judging how they ended.

use std::{
    ffi::OsStr,
    process::{Command, Output, Stdio},
};

use crate::binary;

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; none after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ended {
    fn from_output(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// It must have ended well.
    pub fn expect_ok(self, what: &str) -> Self {
        assert_eq!(
            self.code,
            Some(0),
            "{what} failed:\n{}{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// It must have failed with this code and have said all of these on standard error.
    pub fn expect_error(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        assert!(
            self.stderr.contains("penstock: ") || code == 2,
            "no program name: {}",
            self.stderr
        );
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "`{part}` is not in: {}",
                self.stderr
            );
        }
        self
    }
}

/// Runs `command` to its end.
pub fn run(command: &mut Command) -> Ended {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    Ended::from_output(output)
}

/// Runs a program that must end well.
pub fn ok<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> Ended {
    run(Command::new(program).args(args)).expect_ok(program)
}

/// Runs `penstock`.
pub fn penstock<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Ended {
    let mut command = Command::new(binary::path());
    // Nobody's own cluster must be found instead of the one named.
    command
        .env_remove("PENSTOCK_DATA")
        .env_remove("PENSTOCK_CLUSTER");
    run(command.args(args))
}

/// Whether a program is installed. Says so when it is not, as the test then shows nothing.
pub fn installed(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        assert!(
            std::env::var_os("CI").is_none(),
            "{program} is not installed; CI must test everything"
        );
        note(&format!("SKIPPED: {program} is not installed"));
    }
    found
}

/// Prints a figure or a remark into the test's output.
pub fn note(text: &str) {
    use std::io::Write as _;
    // Straight to standard error: the test harness hides what a passing test prints, and a figure that nobody
    // sees is none. A closed standard error takes the remark with it.
    let _gone = writeln!(std::io::stderr().lock(), "    {text}").is_err();
}
