//! A world of its own for everything a campaign does: namespaces for processes, mounts and network.
//!
//! When the first process of it ends, however it ends, the kernel ends the others and takes away mounts, loop devices and
//! network with them. So nothing can be left behind.

use std::{env, os::unix::process::CommandExt as _, path::Path, process::Command};

use rustix::process::{geteuid, getpid};

/// Says to the program that it was started again in there.
const MARK: &str = "PENSTOCK_CAMPAIGN_ISOLATED";

/// True in there.
pub(crate) fn is_isolated() -> bool {
    env::var_os(MARK).is_some() && getpid().as_raw_nonzero().get() == 1
}

/// Why this system cannot give such a world; `None` when it can.
pub(crate) fn obstacle() -> Option<String> {
    if !geteuid().is_root() {
        return Some("it needs root, for network namespaces and loop devices".to_owned());
    }
    for program in ["unshare", "ip", "mkfs.ext4", "mount"] {
        let found = Command::new("sh")
            .args(["-c", &format!("command -v {program}")])
            .output();
        if !found.is_ok_and(|found| found.status.success()) {
            return Some(format!("it needs the program {program}"));
        }
    }
    for device in ["/dev/fuse", "/dev/loop-control"] {
        if !Path::new(device).exists() {
            return Some(format!("it needs {device}"));
        }
    }
    let tried = Command::new("unshare")
        .args(FLAGS)
        .args(["ip", "link", "add", "try", "type", "bridge"])
        .output();
    match tried {
        Ok(tried) if tried.status.success() => None,
        Ok(tried) => Some(format!(
            "no namespaces or no bridge here: {}",
            String::from_utf8_lossy(&tried.stderr).trim()
        )),
        Err(error) => Some(format!("unshare does not start: {error}")),
    }
}

const FLAGS: [&str; 6] = [
    "--mount",
    "--net",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
];

/// Becomes this program in a world of its own; returns only when that fails.
pub(crate) fn enter() -> String {
    let program = match env::current_exe() {
        Ok(program) => program,
        Err(error) => return format!("cannot find this program's own file: {error}"),
    };
    let error = Command::new("unshare")
        .args(FLAGS)
        .arg(program)
        .args(env::args_os().skip(1))
        .env(MARK, "1")
        .exec();
    format!("cannot start unshare: {error}")
}
