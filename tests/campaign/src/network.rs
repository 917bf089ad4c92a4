//! A network of namespaces: a bridge in the namespace of this process, a cable (a veth pair) to the namespace of each host.
//!
//! Nothing of it touches the machine's own network, because this process has a namespace of its own (`isolation`).
//! Hosts know each other's hardware addresses beforehand. So one direction between two hosts is cut by a wrong address in the
//! table of the sender: what it sends then reaches nobody, silently, as on a network that loses everything.

use std::{
    fs::File,
    io::Write as _,
    os::fd::AsFd as _,
    process::{Command, Stdio},
};

use common::env::Env;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::host::Host;

/// Belongs to nobody.
const NOBODY: &str = "02:00:00:00:ff:ff";
/// The name of the bridge.
const BRIDGE: &str = "bridge";
/// The bridge's own address, from which the cluster is watched.
const WATCHER: &str = "10.77.0.1/16";

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Network(());

impl Network {
    /// Makes all hosts.
    ///
    /// # Errors
    /// What of it the system refuses.
    pub(crate) fn make() -> Result<Self, String> {
        // Names of namespaces are files in /run, which only this process and its children shall see.
        run(Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]))?;
        let mut here = format!(
            "link set lo up\nlink add {BRIDGE} type bridge\nlink set {BRIDGE} up\naddr add {WATCHER} dev {BRIDGE}\n"
        );
        for host in Host::all() {
            let (name, mac) = (host.to_string(), host.mac());
            here.push_str(&format!(
                "netns add {name}\n\
                 link add name {name} type veth peer name eth0 address {mac} netns {name}\n\
                 link set dev {name} master {BRIDGE} up\n"
            ));
        }
        batch(None, &here)?;
        for host in Host::all() {
            let mut inside = format!(
                "link set lo up\nlink set eth0 up\naddr add {}/16 dev eth0\n",
                host.ip()
            );
            for other in Host::all().filter(|other| *other != host) {
                inside.push_str(&neighbour(other, &other.mac()));
            }
            batch(Some(host), &inside)?;
        }
        Ok(Self(()))
    }

    /// What `from` sends to these is lost from now on.
    pub(crate) fn cut(&self, from: Host, to: &[Host]) -> Result<(), String> {
        let lines: String = to.iter().map(|to| neighbour(*to, NOBODY)).collect();
        batch(Some(from), &lines)
    }

    /// The opposite of `cut`.
    pub(crate) fn join(&self, from: Host, to: &[Host]) -> Result<(), String> {
        let lines: String = to.iter().map(|to| neighbour(*to, &to.mac())).collect();
        batch(Some(from), &lines)
    }

    /// Pulls a host's cable.
    pub(crate) fn unplug(&self, host: Host) -> Result<(), String> {
        batch(None, &format!("link set dev {host} down\n"))
    }

    /// Puts it back.
    pub(crate) fn plug(&self, host: Host) -> Result<(), String> {
        batch(None, &format!("link set dev {host} up\n"))
    }
}

/// Moves the calling thread into a host: its sockets, and those of processes and threads it starts, are there.
///
/// # Errors
/// When the host is not made.
pub(crate) fn enter(host: Host) -> Result<(), String> {
    let path = format!("/run/netns/{host}");
    let file = File::open(&path).map_err(|error| format!("cannot open {path}: {error}"))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|error| format!("cannot enter {path}: {error}"))
}

/// Does something inside of a host, on a thread of its own.
///
/// # Errors
/// When the host is not made, or the work fails.
pub(crate) fn inside<T: Send + 'static>(
    env: &Env,
    host: Host,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let thread = env.spawn_thread("inside", move || enter(host).and_then(|()| work()));
    let thread = thread.map_err(|error| format!("cannot start a thread: {error}"))?;
    thread
        .join()
        .map_err(|_| format!("a thread inside of {host} panicked"))?
}

fn neighbour(host: Host, mac: &str) -> String {
    format!(
        "neigh replace {} lladdr {mac} dev eth0 nud permanent\n",
        host.ip()
    )
}

/// Runs lines of `ip`, in a host or here.
fn batch(host: Option<Host>, lines: &str) -> Result<(), String> {
    let mut command = Command::new("ip");
    if let Some(host) = host {
        command.args(["-n", &host.to_string()]);
    }
    command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped());
    let failed = |what: String| format!("ip: {what}; it was told:\n{lines}");
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    if let Some(mut input) = child.stdin.take() {
        let told = input.write_all(lines.as_bytes());
        told.map_err(|error| failed(error.to_string()))?;
    }
    let output = child.wait_with_output();
    let output = output.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// Runs a program that must end well.
///
/// # Errors
/// What it said.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{command:?} does not start: {error}"))?;
    let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(told(&output.stdout));
    }
    Err(format!(
        "{command:?} failed: {}{}",
        told(&output.stdout),
        told(&output.stderr)
    ))
}
