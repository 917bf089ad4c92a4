//! `mount.penstock`: what mount(8) and fstab call for file systems of type `penstock`.
//!
//! mount(8) runs `mount.penstock SPEC DIR [-sfnv] [-o OPTIONS]`, where SPEC is the cluster file. The
//! call is rewritten to `penstock mount`. Options that only mean something to mount(8) or systemd are
//! dropped; the others go on, and an unknown one is refused there.

use std::ffi::OsString;
use std::path::Path;

/// The name under which mount(8) calls this program.
const HELPER: &str = "mount.penstock";

/// Options for mount(8), fstab and systemd, none of them for a file system.
const NOT_FOR_US: [&str; 12] = [
    "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev",
    "rw", "relatime",
];

/// Rewrites a call as `mount.penstock`; every other call stays as it is.
pub(crate) fn rewrite(args: Vec<OsString>) -> Vec<OsString> {
    let called_as = args.first().map(|name| Path::new(name).file_name());
    if called_as != Some(Some(HELPER.as_ref())) {
        return args;
    }
    let mut positional = Vec::new();
    let mut options = Vec::new();
    let mut rest = args.into_iter().skip(1);
    while let Some(arg) = rest.next() {
        match arg.to_str() {
            Some("-o") => options.extend(rest.next()),
            // -t and -N take a value that mount(8) has already acted on.
            Some("-t" | "-N") => drop(rest.next()),
            Some(flags) if flags.starts_with('-') && flags.len() > 1 && is_mount_flags(flags) => {}
            _ => positional.push(arg),
        }
    }
    let mut rewritten: Vec<OsString> = vec!["penstock".into(), "mount".into()];
    let mut positional = positional.into_iter();
    let cluster = positional.next();
    rewritten.extend(positional);
    if let Some(cluster) = cluster {
        rewritten.extend(["--cluster".into(), cluster]);
    }
    let options = options
        .iter()
        .filter_map(|list| list.to_str())
        .flat_map(|list| list.split(','))
        .filter(|option| !option.is_empty() && !is_not_for_us(option))
        .collect::<Vec<_>>()
        .join(",");
    if !options.is_empty() {
        rewritten.extend(["-o".into(), options.into()]);
    }
    rewritten
}

fn is_mount_flags(flags: &str) -> bool {
    flags[1..].chars().all(|flag| "sfnv".contains(flag))
}

fn is_not_for_us(option: &str) -> bool {
    NOT_FOR_US.contains(&option) || option.starts_with("x-") || option.starts_with("comment=")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(line: &str) -> Vec<String> {
        rewrite(line.split(' ').map(OsString::from).collect())
            .into_iter()
            .map(|arg| arg.into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_call_of_mount_8_becomes_a_mount_command() {
        assert_eq!(
            rewritten("/sbin/mount.penstock /etc/c.toml /mnt -n -o rw,noauto,x-systemd.mount,ro"),
            [
                "penstock",
                "mount",
                "/mnt",
                "--cluster",
                "/etc/c.toml",
                "-o",
                "ro"
            ]
        );
    }

    #[test]
    fn other_calls_are_left_alone() {
        assert_eq!(
            rewritten("penstock mount a -n"),
            ["penstock", "mount", "a", "-n"]
        );
    }
}
