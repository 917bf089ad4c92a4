//! `penstock mount` and `penstock umount`.
//!
//! Without `--foreground` the command starts itself again in the foreground, in a session of its own,
//! and waits for one line on that process's standard output: `ready`, or why not. So the shell gets its
//! prompt back only once the file system answers.

use std::{
    fs::OpenOptions,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use client::{Client, ClientOptions};
use common::{
    env::Env,
    http::{self, Readiness},
    logging::LogFormat,
    shutdown::{self, Shutdown},
};
use fuse::{Mount, MountOptions, OptionError};

use crate::{
    args::{MountArgs, UmountArgs},
    cluster,
    error::{self, Usage},
    mount_table, out, serve,
};

/// What the foreground process says once the file system answers.
const READY: &str = "ready";

/// Mounts.
pub(crate) async fn mount(env: &Env, args: MountArgs) -> anyhow::Result<()> {
    let options: MountOptions = match args.options.parse() {
        Ok(options) => options,
        Err(help @ OptionError::Help) => {
            out::say(&help.to_string());
            return Ok(());
        }
        Err(error) => return Err(Usage(format!("-o {}: {error}", args.options)).into()),
    };
    let cluster = cluster::file(&args.cluster)?;
    if args.foreground {
        let ended = foreground(env, &args, &cluster, options).await;
        if let Err(error) = &ended {
            tracing::error!(error = error::text(error), "the mount failed");
            out::say(&error::text(error));
        }
        return ended;
    }
    // Errors that can be seen at once are told by this process.
    cluster::load(&cluster)?;
    env.blocking(move || background(&args, &cluster)).await
}

async fn foreground(
    env: &Env,
    args: &MountArgs,
    cluster: &Path,
    options: MountOptions,
) -> anyhow::Result<()> {
    serve::start_logging("info", LogFormat::Text)?;
    let point = std::path::absolute(&args.dir)
        .with_context(|| format!("cannot use the mount point {}", args.dir.display()))?;
    let (shutdown, readiness) = (Shutdown::new(), Readiness::default());
    readiness.not_ready("mount", "connecting to the cluster");
    let admin = http::serve(
        env,
        args.admin_listen,
        readiness.clone(),
        axum::Router::new(),
        shutdown.signal(),
    );
    let (admin_address, _admin) = admin
        .await
        .with_context(|| format!("listen on the admin address {}", args.admin_listen))?;
    let config = cluster::load(cluster)?;
    let client_options = ClientOptions {
        description: format!(
            "mount at {}, process {}",
            point.display(),
            std::process::id()
        ),
        ..ClientOptions::default()
    };
    let client = Client::connect(env, config, client_options, shutdown.signal())
        .await
        .context("connect to the cluster")?;
    let mount = Mount::start(client, &point, options).await?;
    readiness.ready("mount");
    tracing::info!(point = %point.display(), admin = %admin_address, "mounted");
    out::say(READY);
    tokio::select! {
        ended = mount.wait() => {
            ended.context("the mount ended")?;
            tracing::info!("unmounted from outside");
        }
        asked = shutdown::termination() => {
            asked.context("listen for SIGTERM and SIGINT")?;
            tracing::info!("asked to end, unmounting");
            mount.unmount().await.context("unmount")?;
        }
    }
    shutdown.trigger();
    Ok(())
}

/// Starts the foreground process and waits for its one line.
fn background(args: &MountArgs, cluster: &Path) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let log = match &args.log_file {
        None => Stdio::null(),
        Some(path) => OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("cannot open the log {}", path.display()))?
            .into(),
    };
    // Absolute paths, and the root as working directory: a daemon must not keep a directory of the user's busy.
    let mut child = Command::new(program)
        .args(["--new-session", "mount", "--foreground"])
        .arg(std::path::absolute(&args.dir)?)
        .arg("--cluster")
        .arg(std::path::absolute(cluster)?)
        .current_dir("/")
        .args(["-o", &args.options])
        .args(["--admin-listen", &args.admin_listen.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("cannot start a process")?;
    let stdout = child.stdout.take().context("the pipe asked for is there")?;
    let mut line = String::new();
    BufReader::new(stdout)
        .read_line(&mut line)
        .context("read the answer of the mount process")?;
    match line.trim() {
        READY => return Ok(()),
        "" => {}
        reason => bail!("{reason}"),
    }
    let status = child.wait().context("wait for the mount process")?;
    bail!("the mount process ended without a word ({status}); try --foreground")
}

/// Unmounts.
pub(crate) async fn umount(env: &Env, args: &UmountArgs) -> anyhow::Result<()> {
    let point = mount_table::absolute(&args.dir)
        .with_context(|| format!("cannot find {}", args.dir.display()))?;
    match mount_table::mounted_at(&point)? {
        None => bail!("{} is not a mount point", args.dir.display()),
        Some(entry) if !entry.is_penstock() => bail!(
            "{} is a mount of {}, not of Penstock; use umount(8)",
            args.dir.display(),
            entry.kind
        ),
        Some(_) => {}
    }
    let lazy = args.lazy;
    env.blocking(move || {
        if lazy {
            fuse::unmount_lazy(&point)
        } else {
            fuse::unmount(&point)
        }
    })
    .await
    .with_context(|| format!("unmount {}", args.dir.display()))
}
