//! Mount options, as `-o a,b=c` gives them.

use std::{fmt::Write as _, str::FromStr, time::Duration};

/// How to mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// Nothing can be changed through this mount.
    pub read_only: bool,
    /// Whether other users may use it; by default when root mounts.
    pub allow_other: Option<bool>,
    /// Whether setuid programs keep their power here.
    pub suid: bool,
    /// Whether programs can be run from here.
    pub exec: bool,
    /// How long the kernel believes attributes and names before it asks again.
    pub cache: Duration,
    /// Threads that take requests from the kernel; 0 chooses by the number of processors.
    pub threads: usize,
    /// Read-aheads and other requests in the background that the kernel has under way.
    pub background_max: u16,
    /// Requests of all kinds under way.
    pub requests_max: usize,
    /// How far the kernel reads ahead of a sequential reader.
    pub readahead_kib: u32,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            allow_other: None,
            suid: false,
            exec: true,
            cache: Duration::from_secs(1),
            threads: 0,
            background_max: 128,
            requests_max: 512,
            readahead_kib: 4096,
        }
    }
}

/// Why options were refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// No such option.
    #[error("unknown mount option `{name}`{}; `-o help` lists all", suggest(nearest.as_deref()))]
    Unknown {
        /// The option.
        name: String,
        /// The right name it is nearest to.
        nearest: Option<String>,
    },
    /// The value does not fit.
    #[error("mount option `{name}` wants {wants}, not `{value}`")]
    Value {
        /// The option.
        name: String,
        /// What it is given.
        value: String,
        /// What it takes.
        wants: &'static str,
    },
    /// The list of options was asked for.
    #[error("mount options:\n{}", help())]
    Help,
}

/// Every option: name, what it takes after `=`, what it does.
const OPTIONS: [(&str, Option<&str>, &str); 17] = [
    ("ro", None, "nothing can be changed through this mount"),
    ("rw", None, "files can be changed (default)"),
    (
        "allow_other",
        None,
        "other users may use it (default for root)",
    ),
    ("noallow_other", None, "only the user who mounts may use it"),
    ("suid", None, "setuid programs keep their power"),
    (
        "nosuid",
        None,
        "setuid programs are ordinary ones (default)",
    ),
    ("exec", None, "programs can be run (default)"),
    ("noexec", None, "programs cannot be run"),
    ("nodev", None, "there are no device nodes (always so)"),
    (
        "atime",
        None,
        "accepted; reading never changes access times",
    ),
    (
        "noatime",
        None,
        "accepted; reading never changes access times",
    ),
    (
        "cache",
        Some("milliseconds"),
        "how long the kernel believes attributes and names (1000)",
    ),
    (
        "threads",
        Some("a number"),
        "threads that take requests; 0: by processors (0)",
    ),
    (
        "background",
        Some("a number of 1 to 65535"),
        "background requests of the kernel (128)",
    ),
    (
        "requests",
        Some("a number above 0"),
        "requests under way (512)",
    ),
    (
        "readahead",
        Some("KiB"),
        "how far sequential readers are read ahead (4096)",
    ),
    ("defaults", None, "accepted"),
];

impl FromStr for MountOptions {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let mut options = Self::default();
        for option in text
            .split(',')
            .map(str::trim)
            .filter(|option| !option.is_empty())
        {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option, None),
            };
            options.set(name, value)?;
        }
        Ok(options)
    }
}

impl MountOptions {
    fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), OptionError> {
        if name == "help" {
            return Err(OptionError::Help);
        }
        let Some((name, wants, _)) = OPTIONS.iter().find(|known| known.0 == name) else {
            return Err(unknown(name));
        };
        let refused = |wants| OptionError::Value {
            name: (*name).to_owned(),
            value: value.unwrap_or_default().to_owned(),
            wants,
        };
        let Some(wants) = *wants else {
            if value.is_some() {
                return Err(refused("no value"));
            }
            self.set_flag(name);
            return Ok(());
        };
        let number: Option<u32> = value.and_then(|value| value.parse().ok());
        let number = number.ok_or_else(|| refused(wants))?;
        self.set_number(name, number).ok_or_else(|| refused(wants))
    }

    fn set_flag(&mut self, name: &str) {
        match name {
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "allow_other" => self.allow_other = Some(true),
            "noallow_other" => self.allow_other = Some(false),
            "suid" => self.suid = true,
            "nosuid" => self.suid = false,
            "exec" => self.exec = true,
            "noexec" => self.exec = false,
            _ => {}
        }
    }

    /// `None` when the number is out of range.
    fn set_number(&mut self, name: &str, number: u32) -> Option<()> {
        match name {
            "cache" => self.cache = Duration::from_millis(u64::from(number)),
            "threads" => self.threads = usize::try_from(number).ok()?,
            "background" => self.background_max = u16::try_from(number).ok().filter(|n| *n > 0)?,
            "requests" => self.requests_max = usize::try_from(number).ok().filter(|n| *n > 0)?,
            "readahead" => self.readahead_kib = number,
            _ => {}
        }
        Some(())
    }
}

fn unknown(name: &str) -> OptionError {
    let distances = OPTIONS
        .iter()
        .map(|known| (strsim::levenshtein(name, known.0), known.0));
    let nearest = distances.min().filter(|(distance, _)| *distance <= 3);
    OptionError::Unknown {
        name: name.to_owned(),
        nearest: nearest.map(|(_, name)| name.to_owned()),
    }
}

fn suggest(nearest: Option<&str>) -> String {
    nearest
        .map(|name| format!(" (did you mean `{name}`?)"))
        .unwrap_or_default()
}

fn help() -> String {
    OPTIONS
        .iter()
        .fold(String::new(), |mut text, (name, value, what)| {
            let name = match value {
                Some(value) => format!("{name}={value}"),
                None => (*name).to_owned(),
            };
            writeln!(text, "  {name:<34} {what}").expect("writing to a string succeeds");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_in_order() {
        let options: MountOptions = "ro,noexec,cache=0,rw,,threads=3,background=7"
            .parse()
            .unwrap();
        assert_eq!(
            options,
            MountOptions {
                exec: false,
                cache: Duration::ZERO,
                threads: 3,
                background_max: 7,
                ..MountOptions::default()
            }
        );
        assert_eq!("".parse(), Ok(MountOptions::default()));
        assert_eq!("defaults,noatime".parse(), Ok(MountOptions::default()));
    }

    #[test]
    fn an_unknown_option_is_told_with_the_right_one() {
        let error = "alow_other".parse::<MountOptions>().unwrap_err();
        assert!(error.to_string().contains("`allow_other`"), "{error}");
        let error = "quux_frobnicate".parse::<MountOptions>().unwrap_err();
        assert!(!error.to_string().contains("did you mean"), "{error}");
    }

    #[test]
    fn values_that_do_not_fit_are_refused() {
        for text in [
            "cache",
            "cache=x",
            "background=0",
            "background=70000",
            "ro=1",
            "requests=0",
        ] {
            let error = text.parse::<MountOptions>().unwrap_err();
            assert!(
                matches!(error, OptionError::Value { .. }),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn help_lists_every_option() {
        let text = "help".parse::<MountOptions>().unwrap_err().to_string();
        assert!(
            OPTIONS.iter().all(|(name, _, _)| text.contains(name)),
            "{text}"
        );
    }
}
