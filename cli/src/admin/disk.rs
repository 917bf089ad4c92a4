//! `admin disk check`: is the disk of a storage node that does not run sound, and if not, what is wrong?

use std::{
    io::{IsTerminal as _, Write as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use common::{env::Env, shutdown};
use serde::Serialize;
use storage::disk_check::{CheckError, CheckProgress, DiskReport, Repair, check_disk};

use crate::{args::DiskCheckArgs, error::Usage, out};

/// How often progress is shown.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// The answer. The JSON form is a contract.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    dir: &'a Path,
    sound: bool,
    #[serde(flatten)]
    report: &'a DiskReport,
}

/// Checks, and repairs if asked to.
pub(super) async fn check(env: &Env, args: &DiskCheckArgs, json: bool) -> anyhow::Result<()> {
    let repair = match (args.repair, args.drop_damaged) {
        (false, _) => Repair::No,
        (true, false) => Repair::Safe,
        (true, true) => Repair::DropDamaged,
    };
    let progress = Arc::new(CheckProgress::default());
    let checked = {
        let work = check_disk(env, &args.dir, repair, &progress);
        let mut work = std::pin::pin!(work);
        tokio::select! {
            checked = &mut work => checked,
            result = watch(env, &progress) => {
                result?;
                // Told to stop: it removes its copy and gives the lock back.
                work.await
            }
        }
    };
    let report = match checked {
        Ok(report) => report,
        Err(CheckError::Directory(
            error @ (common::data_dir::DataDirError::Missing { .. }
            | common::data_dir::DataDirError::Version { .. }),
        )) => {
            let hint = "a disk has `groups`, `log` and `meta` in it, for example DATA/disk-0";
            return Err(Usage(format!("{error}; {hint}")).into());
        }
        Err(error) => {
            return Err(error).with_context(|| format!("check the disk {}", args.dir.display()));
        }
    };
    if json {
        out::json(&Answer {
            dir: &args.dir,
            sound: report.is_sound(),
            report: &report,
        })?;
    } else {
        for line in lines(&report) {
            out::say(&line);
        }
    }
    verdict(&args.dir, &report, repair)
}

/// What is left decides the exit code.
fn verdict(dir: &Path, report: &DiskReport, repair: Repair) -> anyhow::Result<()> {
    let left = report.problems.iter().filter(|problem| !problem.repaired);
    let left = left.count();
    if let Some(refusal) = &report.refusal {
        bail!("repair the disk {}: {refusal}", dir.display());
    }
    if left == 0 {
        return Ok(());
    }
    let advice = match repair {
        Repair::No | Repair::Safe => {
            "with other replicas serving, `--repair --drop-damaged` drops what is damaged and the node gets it back when it \
             starts; `penstock admin disk check --help` says what that may lose"
        }
        Repair::DropDamaged => "start the node beside the other replicas, and check again later",
    };
    bail!("the disk {} has {left} problems: {advice}", dir.display())
}

/// The report for people.
fn lines(report: &DiskReport) -> Vec<String> {
    let mut lines = vec![
        format!(
            "chunks  {} of {} targets, {} with something pending; {} read and compared",
            report.chunks,
            report.targets,
            report.pending,
            out::bytes(report.verified_bytes)
        ),
        format!(
            "slots   {} in use and {} free, in {} groups, {} of them unused",
            report.slots, report.free_slots, report.groups, report.unused_groups
        ),
        format!(
            "log     {} files, {} segments with {} entries to replay",
            report.log_files, report.log_segments, report.log_entries
        ),
    ];
    for problem in &report.problems {
        let state = if problem.repaired {
            "repaired"
        } else {
            "PROBLEM"
        };
        lines.push(format!("{state}: {}", problem.text));
    }
    let actions = report.actions.iter();
    lines.extend(actions.map(|action| format!("done: {action}")));
    if report.problems.is_empty() {
        lines.push("sound".to_owned());
    }
    lines
}

/// Shows how far it is, and tells it to stop when somebody asks for that.
async fn watch(env: &Env, progress: &CheckProgress) -> anyhow::Result<()> {
    let asked = shutdown::termination();
    let mut asked = std::pin::pin!(asked);
    let shown = std::io::stderr().is_terminal();
    loop {
        tokio::select! {
            ended = &mut asked => {
                progress.stop();
                return ended.context("listen for Ctrl-C");
            }
            () = env.sleep(PROGRESS_EVERY) => {}
        }
        let (done, total) = progress.bytes();
        if shown && total > 0 {
            show(done.min(total), total);
        }
    }
}

fn show(done: u64, total: u64) {
    let percent = u128::from(done) * 100 / u128::from(total.max(1));
    let (done, total) = (out::bytes(done), out::bytes(total));
    let mut stderr = std::io::stderr().lock();
    // Nobody sees it: nothing is lost.
    let _gone = write!(stderr, "\r{percent} % ({done} of {total})    \r")
        .and_then(|()| stderr.flush())
        .is_err();
}

#[cfg(test)]
mod tests {
    use storage::disk_check::{DiskProblem, ProblemKind};
    use types::{
        id::{InodeId, TargetId},
        version::ChunkVersion,
    };

    use super::*;

    fn damaged() -> DiskReport {
        let problem = DiskProblem {
            kind: ProblemKind::Checksum,
            target: Some(TargetId(11)),
            inode: Some(InodeId(7)),
            index: Some(3),
            version: Some(ChunkVersion(2)),
            pending: false,
            block: Some(5),
            text: "chunk 7.3".to_owned(),
            repaired: false,
        };
        DiskReport {
            chunks: 4,
            problems: vec![problem],
            ..DiskReport::default()
        }
    }

    #[test]
    fn the_json_form_stays_as_it_is() {
        let report = damaged();
        let answer = Answer {
            dir: Path::new("/d"),
            sound: report.is_sound(),
            report: &report,
        };
        assert_eq!(
            serde_json::to_string(&answer).unwrap(),
            "{\"dir\":\"/d\",\"sound\":false,\"targets\":0,\"chunks\":4,\"pending\":0,\"bytes\":0,\
             \"verified_bytes\":0,\"slots\":0,\"free_slots\":0,\"groups\":0,\"unused_groups\":0,\
             \"log_files\":0,\"log_segments\":0,\"log_entries\":0,\"problems\":[{\"kind\":\"checksum\",\
             \"target\":11,\"inode\":7,\"index\":3,\"version\":2,\"pending\":false,\"block\":5,\
             \"text\":\"chunk 7.3\",\"repaired\":false}],\"actions\":[],\"refusal\":null}"
        );
    }

    #[test]
    fn problems_that_are_left_fail_the_command() {
        let dir = Path::new("/d");
        let mut report = damaged();
        let error = verdict(dir, &report, Repair::No).unwrap_err().to_string();
        assert!(error.contains("1 problems") && error.contains("--drop-damaged"));
        report.refusal = Some("the log".to_owned());
        let refused = verdict(dir, &report, Repair::Safe).unwrap_err();
        assert!(refused.to_string().contains("the log"));
        report.refusal = None;
        report.problems[0].repaired = true;
        assert!(verdict(dir, &report, Repair::DropDamaged).is_ok());
        assert!(lines(&report).contains(&"repaired: chunk 7.3".to_owned()));
    }

    #[tokio::test]
    async fn a_directory_that_is_no_disk_is_wrong_usage() {
        let dir = tempfile::tempdir().unwrap();
        let args = DiskCheckArgs {
            dir: dir.path().to_owned(),
            repair: false,
            drop_damaged: false,
        };
        let error = check(&Env::real(), &args, false).await.unwrap_err();
        assert_eq!(crate::error::exit_code(&error), crate::error::WRONG_USAGE);
        assert!(error.to_string().contains("disk-0"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
