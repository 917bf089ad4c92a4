//! One campaign, from the first process to the judgement.

use std::{path::Path, sync::Arc, time::Duration};

use client::RoutingCache;
use common::env::{Env, Task};
use sim::{
    checks::{chain_invariants, linearizable},
    history::Row,
    notes::Notes,
};
use types::{routing::RoutingInfo, version::ChainTableVersion};

use crate::{
    clients::{Clients, Round},
    cluster::Cluster,
    files::{self, FileUser},
    ground::Ground,
    options::Options,
    replicas,
    report::Report,
    scene::Scenes,
    trouble::Trouble,
};

/// How long clients work at the same chunks, more or less: a history of some hundred operations each.
const ROUND: Duration = Duration::from_secs(40);
/// Chunks of a round.
const CHUNKS: u32 = 24;
/// The longest peace between two scenes.
const PEACE_MAX: Duration = Duration::from_millis(1500);

struct Campaign {
    env: Env,
    ground: Ground,
    cluster: Cluster,
    clients: Clients,
    version: ChainTableVersion,
    scenes: Scenes,
    trouble: Trouble,
    report: Report,
    /// Rounds with what their chunks hold.
    proven: Vec<(Round, Vec<Row>)>,
}

/// Runs it in `options.dir`.
///
/// # Errors
/// What kept it from being run to its end.
pub(crate) async fn run(env: &Env, options: &Options, seed: u64) -> Result<Report, String> {
    let ground = Ground::new(env);
    ground.say(format_args!(
        "seed {seed}, everything is in {}",
        options.dir.display()
    ));
    let mut cluster = Cluster::make(env, &options.dir)?;
    let notes = Notes::new(env);
    let _watch = watch_maps(&cluster.routing, &ground, &notes);
    let version = cluster.up().await?;
    let clients = Clients::start(env, &ground)?;
    let user_dir = cluster.mount.join("user");
    let user = FileUser::start(env, &ground, &user_dir)?;
    ground.say(format_args!("the cluster is up"));
    let mut campaign = Campaign {
        env: env.clone(),
        ground,
        cluster,
        clients,
        version,
        scenes: Scenes::new(Env::seeded(seed)),
        trouble: Trouble::default(),
        report: Report {
            seed,
            ..Report::default()
        },
        proven: Vec::new(),
    };
    let end = campaign.ground.elapsed() + Duration::from_secs(options.seconds);
    while campaign.ground.elapsed() < end && campaign.report.wrong.is_empty() {
        campaign.round(end).await?;
        campaign.report.wrong.extend(notes.take_violations());
    }
    campaign
        .ground
        .say(format_args!("the end: everything is compared"));
    let (kept, wrong) = user.stop(&campaign.ground)?;
    campaign.report.wrong.extend(wrong);
    campaign.read_again().await?;
    campaign.cluster.remount().await?;
    campaign.report.files = kept.len();
    campaign
        .report
        .wrong
        .extend(files::compare(&user_dir, &kept));
    campaign.finish(&options.dir).await
}

impl Campaign {
    /// Scenes for a while, clients at chunks of their own; then the chunks are judged.
    async fn round(&mut self, end: Duration) -> Result<(), String> {
        let number = u32::try_from(self.proven.len()).unwrap_or(u32::MAX);
        let round = Round {
            notes: Notes::new(&self.env),
            first_chunk: number * CHUNKS,
            chunks: CHUNKS,
            version: self.version,
        };
        let working = self.clients.work(&round).await?;
        let round_end = end.min(self.ground.elapsed() + ROUND);
        while self.ground.elapsed() < round_end {
            let peace = self.env.random_below(PEACE_MAX.as_micros() as u64);
            self.env.sleep(Duration::from_micros(peace)).await;
            let scene = self.scenes.draw();
            self.trouble
                .play(&mut self.cluster, &self.ground, &scene)
                .await?;
            let repair = self.cluster.wait_until_whole().await?;
            let seconds = repair.as_secs_f64();
            self.ground.say(format_args!("whole after {seconds:.1} s"));
            self.report.repair = self.report.repair.max(repair);
            self.report.scenes += 1;
        }
        working.stop().await?;
        let rows = self.clients.prove(&round).await?;
        self.judge(&round).await;
        let fresh = Round {
            notes: Notes::new(&self.env),
            ..round
        };
        self.proven.push((fresh, rows));
        Ok(())
    }

    async fn judge(&mut self, round: &Round) {
        let (notes, chunks) = (
            round.notes.clone(),
            round.first_chunk..round.first_chunk + round.chunks,
        );
        let judged = self
            .env
            .blocking(move || linearizable::check(&notes.history, chunks));
        let (broken, undecided) = judged.await;
        let report = &mut self.report;
        report.wrong.extend(broken);
        report.wrong.extend(round.notes.take_violations());
        report.undecided += undecided;
        report.chunks += round.chunks;
        let (all, well) = round.notes.history.counts();
        report.operations.0 += all;
        report.operations.1 += well;
        let wrong = report.wrong.len();
        self.ground.say(format_args!(
            "judged: {all} operations, {wrong} things wrong"
        ));
        if wrong > 0 {
            let (lines, _) = round.notes.log.take();
            for line in lines {
                self.ground.say(format_args!("log of the round: {line}"));
            }
        }
    }

    /// Whatever the rounds left must still be there.
    async fn read_again(&mut self) -> Result<(), String> {
        for (round, rows) in &self.proven {
            let found = self.clients.read(round).await?;
            for ((chunk, row), found) in (round.first_chunk..).zip(rows).zip(&found) {
                if row != found {
                    let text = format!("chunk {chunk} held {row:?} and holds {found:?}");
                    self.report.wrong.push(text);
                }
            }
        }
        Ok(())
    }

    /// Ends all processes and looks at the disks.
    async fn finish(mut self, dir: &Path) -> Result<Report, String> {
        self.clients.end()?;
        let map = self.cluster.routing.current();
        self.cluster.down()?;
        let (wrong, compared) = replicas::check(&self.cluster, &map).await?;
        let mut report = self.report;
        report.wrong.extend(wrong);
        report.replicas = compared;
        report.reopened = self.cluster.reopened;
        report.faults = self.trouble.count;
        report.elapsed = self.ground.elapsed();
        report.counts = self.ground.counts();
        report.stalls = self.ground.stalls();
        if !report.is_good() {
            let logs = dir.join("logs");
            report
                .wrong
                .push(format!("see the logs in {}", logs.display()));
        }
        Ok(report)
    }
}

/// Looks at every map that is published (C3, M1), and passes it on.
fn watch_maps(routing: &RoutingCache, ground: &Ground, notes: &Notes) -> Task<()> {
    let mut maps = routing.subscribe();
    let (ground, notes) = (ground.clone(), notes.clone());
    Env::real().spawn("maps", async move {
        let mut before: Arc<RoutingInfo> = maps.borrow_and_update().clone();
        while maps.changed().await.is_ok() {
            let after = maps.borrow_and_update().clone();
            notes.violated(chain_invariants::check(&before, &after));
            ground.map(after.clone());
            before = after;
        }
    })
}
