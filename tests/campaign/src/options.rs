//! The command line.

use std::path::PathBuf;

pub(crate) const HELP: &str = "\
A cluster of real processes in which things break, one after the other, while clients work and everything is checked.

penstock-campaign [OPTIONS]

  --seconds N  how long things break (default: 180)
  --seed N     what breaks and when (default: drawn, and printed)
  --dir DIR    a new or empty directory for everything (needed)
  --help       this text

Each server, client and the mount has a network namespace with an address of its own, each storage node a disk of its own.
Needs root. Nothing is left behind: processes, mounts, loop devices and networks end with this program. What it
writes stays in DIR: configurations, disks, and logs/HOST.log.
The program that is tested is PENSTOCK_BIN, or built.

Exit codes: 0 nothing lost, nothing wrong, no stall above 5 s; 1 something was; 2 wrong usage; 3 it cannot run here.
";

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) seconds: u64,
    pub(crate) seed: Option<u64>,
    pub(crate) dir: PathBuf,
}

/// Reads the arguments; `None` when help is wanted.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn parse(
    mut arguments: impl Iterator<Item = String>,
) -> Result<Option<Options>, String> {
    let (mut seconds, mut seed, mut dir) = (180, None, None);
    while let Some(argument) = arguments.next() {
        if argument == "--help" {
            return Ok(None);
        }
        let known = ["--seconds", "--seed", "--dir"].contains(&argument.as_str());
        if !known {
            return Err(format!("there is no option {argument}; see --help"));
        }
        let value = arguments.next();
        let value = value.ok_or_else(|| format!("{argument} needs a value"))?;
        let number = || {
            let number = value.parse::<u64>();
            number.map_err(|_| format!("{argument}: {value} is no number"))
        };
        match argument.as_str() {
            "--seconds" => seconds = number()?,
            "--seed" => seed = Some(number()?),
            _ => dir = Some(PathBuf::from(&value)),
        }
    }
    let dir = dir.ok_or("--dir is missing; see --help")?;
    Ok(Some(Options { seconds, seed, dir }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Option<Options>, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_read_and_wrong_ones_refused() {
        let options = parsed("--seed 7 --dir d --seconds 60").unwrap().unwrap();
        assert_eq!((options.seconds, options.seed), (60, Some(7)));
        assert_eq!(parsed("--dir d").unwrap().unwrap().seconds, 180);
        assert_eq!(parsed("--help"), Ok(None));
        for wrong in ["", "--seed", "--dir d --seed x", "--what"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
