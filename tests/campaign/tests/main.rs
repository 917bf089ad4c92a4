//! A sample of the campaign. At full size: `tests/campaign.sh 1800`.

use std::{env, process::Command};

use tests::{binary, run};

/// Every kind of trouble comes up once in this time, more or less.
const SECONDS: &str = "180";
/// What the program says when the system lacks something.
const CANNOT: i32 = 3;

#[test]
fn nothing_is_lost_wrong_or_slow_while_things_break() {
    let dir = tempfile::Builder::new()
        .prefix("campaign-")
        .tempdir_in(binary::scratch())
        .expect("a directory can be made");
    let mut campaign = Command::new(env!("CARGO_BIN_EXE_penstock-campaign"));
    campaign
        .args(["--seconds", SECONDS, "--dir"])
        .arg(dir.path())
        .env("PENSTOCK_BIN", binary::path());
    let ended = run::run(&mut campaign);
    if ended.code == Some(CANNOT) && env::var_os("CI").is_none() {
        run::note(&format!("SKIPPED: {}", ended.stderr.trim()));
        return;
    }
    if ended.code != Some(0) {
        let kept = dir.keep();
        panic!("{}{}\nkept: {}", ended.stdout, ended.stderr, kept.display());
    }
    let report = ended.stdout.rfind("campaign with seed");
    for line in report.map_or("", |at| &ended.stdout[at..]).lines() {
        run::note(line);
    }
}
