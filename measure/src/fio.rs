//! fio, the measure: what the disk gives to a program that does nothing but I/O.
//!
//! It writes to a file that was written in full before, or, where the other side makes new files too, to a new one. It
//! reads what the other side reads: how fast a virtual disk is may depend on where a file lies.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::Value;
use tokio::process::Command;

use crate::{Failure, LARGE_BYTES};

/// The version.
///
/// # Errors
/// It is not there; says how to get it.
pub fn version() -> Result<String, Failure> {
    let output = std::process::Command::new("fio").arg("--version").output();
    match output {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        _ => Err("fio is not installed; `apt install fio` or `dnf install fio` does that".into()),
    }
}

/// What fio does.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// As fio calls it.
    pub kind: &'static str,
    /// Of one request.
    pub block_bytes: u32,
    /// Requests under way.
    pub depth: u32,
    /// An fdatasync after so many writes; 0: never, so nothing is durable.
    pub sync_every: u32,
}

/// Where it works.
#[derive(Clone, Debug)]
pub enum Place {
    /// On a file that was written in full.
    Prepared,
    /// On a new file, for which space was set aside (fallocate(2)), once from start to end.
    New,
    /// It reads these files.
    Of(Vec<PathBuf>),
}

/// What it got.
#[derive(Clone, Copy, Debug)]
pub struct Raw {
    /// Requests done in a second.
    pub operations_per_second: f64,
    /// Processor microseconds of one operation.
    pub cpu_microseconds: f64,
    /// The time within which half of the requests were done.
    pub half_microseconds: f64,
    /// The time within which 99 of 100 were done.
    pub most_microseconds: f64,
}

/// fio with its file.
#[derive(Debug)]
pub struct Fio {
    file: PathBuf,
    size: u64,
    seconds: u64,
}

impl Fio {
    /// For a file of `size` bytes; measures for so many seconds.
    pub fn new(file: PathBuf, size: u64, seconds: u64) -> Self {
        Self {
            file,
            size,
            seconds,
        }
    }

    /// Writes the file once from start to end.
    ///
    /// # Errors
    /// What fio said.
    pub async fn lay_out(&self) -> Result<(), Failure> {
        let job = Job {
            kind: "write",
            block_bytes: LARGE_BYTES,
            depth: 16,
            sync_every: 0,
        };
        self.start(job, &[&self.file], &["--end_fsync=1".to_owned()])
            .await?;
        Ok(())
    }

    /// Gives the space of the file back.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn remove(&self) -> io::Result<()> {
        remove(&self.file)
    }

    /// Measures.
    ///
    /// # Errors
    /// What fio said.
    pub async fn run(&self, job: Job, place: &Place) -> Result<Raw, Failure> {
        let time = [
            "--time_based".to_owned(),
            format!("--runtime={}", self.seconds),
        ];
        let report = match place {
            Place::Prepared => self.start(job, &[&self.file], &time).await?,
            Place::Of(files) => {
                let files: Vec<&PathBuf> = files.iter().collect();
                self.start(job, &files, &time).await?
            }
            Place::New => {
                let file = self.file.with_extension("new");
                remove(&file)?;
                let new = ["--fallocate=native".to_owned()];
                let report = self.start(job, &[&file], &new).await;
                remove(&file)?;
                report?
            }
        };
        result(&report, job).ok_or_else(|| "the report of fio is not as expected".into())
    }

    async fn start(&self, job: Job, files: &[&PathBuf], more: &[String]) -> Result<Value, Failure> {
        let files: Vec<String> = files
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        let mut command = Command::new("fio");
        command
            .arg("--name=raw")
            .arg(format!("--filename={}", files.join(":")))
            .arg(format!("--size={}", self.size))
            .arg(format!("--rw={}", job.kind))
            .arg(format!("--bs={}", job.block_bytes))
            .arg(format!("--iodepth={}", job.depth))
            .args(["--ioengine=io_uring", "--direct=1", "--output-format=json"])
            // In one process, which ends as a whole when it is killed.
            .arg("--thread")
            // Blocks are drawn as the engine's load draws them: with repetition, others each time.
            .args(["--norandommap", "--randrepeat=0"])
            .args(["--lat_percentiles=1", "--percentile_list=50:99"])
            .args(more);
        if job.sync_every > 0 {
            command.arg(format!("--fdatasync={}", job.sync_every));
        }
        // A run that is interrupted leaves no fio behind that fills the disk.
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            return Err(format!("fio failed: {stderr}{stdout}").into());
        }
        // Warnings may come before the report.
        let report = stdout.find('{').map_or("", |start| &stdout[start..]);
        Ok(serde_json::from_str(report)?)
    }
}

fn result(report: &Value, job: Job) -> Option<Raw> {
    let report = report.pointer("/jobs/0")?;
    let number = |path: &str| report.pointer(path)?.as_f64();
    let side = if job.kind.ends_with("read") {
        "read"
    } else {
        "write"
    };
    let rate = number(&format!("/{side}/iops"))?;
    let cpu_percent = number("/usr_cpu")? + number("/sys_cpu")?;
    let within = |percent: &str| {
        let nanos = number(&format!("/{side}/lat_ns/percentile/{percent}"));
        nanos.map(|nanos| nanos / 1000.0)
    };
    Some(Raw {
        operations_per_second: rate,
        cpu_microseconds: cpu_percent / 100.0 * 1e6 / rate,
        half_microseconds: within("50.000000")?,
        most_microseconds: within("99.000000")?,
    })
}

fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
