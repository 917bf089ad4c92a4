//! Runs seeds: `penstock-sim [--first N] [--seeds N] [--threads N] [--log]`.
//!
//! Prints each seed that breaks a rule with what shows it, and at the end how much was tried.
#![allow(
    clippy::print_stdout,
    reason = "a program for people: what it found is its output"
)]

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{
    env::Env,
    logging::{self, LogFormat},
    sync::Mutex,
};
use sim::Report;

const HELP: &str = "\
Runs simulated clusters, one for each seed; the same seed is the same run, to the byte.

penstock-sim [OPTIONS]

  --first N    the first seed (default: 1)
  --seeds N    how many (default: 100)
  --threads N  how many at a time (default: as many as there are processors)
  --mistake M  make one of these mistakes on purpose, to see it found:
{mistakes}
  --log        print the whole log of each seed that breaks a rule
  --trace      print what the servers log, as it comes, to standard error
  --help       this text
";

fn help() -> String {
    let mistakes = sim::MISTAKES.map(|mistake| format!("                 {mistake}"));
    HELP.replace("{mistakes}", &mistakes.join("\n"))
}

/// Between two lines of progress.
const SAY_EVERY: Duration = Duration::from_secs(10);

#[derive(Clone, Copy)]
struct Options {
    first: u64,
    seeds: u64,
    threads: u64,
    mistake: Option<&'static str>,
    log: bool,
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let mut options = Options {
        first: 1,
        seeds: 100,
        threads,
        mistake: None,
        log: false,
    };
    while let Some(argument) = arguments.next() {
        let number = match argument.as_str() {
            "--first" => &mut options.first,
            "--seeds" => &mut options.seeds,
            "--threads" => &mut options.threads,
            "--log" => {
                options.log = true;
                continue;
            }
            "--trace" => {
                logging::init("info", LogFormat::Text).map_err(|error| error.to_string())?;
                continue;
            }
            "--mistake" => {
                let name = arguments.next().unwrap_or_default();
                let known = sim::MISTAKES.into_iter().find(|known| *known == name);
                options.mistake =
                    Some(known.ok_or(format!("there is no mistake {name:?}; see --help"))?);
                continue;
            }
            "--help" => return Ok(None),
            other => return Err(format!("there is no option {other}; see --help")),
        };
        let value = arguments
            .next()
            .ok_or(format!("{argument} needs a number"))?;
        *number = value
            .parse()
            .map_err(|_| format!("{argument}: {value} is no number"))?;
    }
    options.threads = options.threads.clamp(1, 256);
    Ok(Some(options))
}

/// What all runs came to.
#[derive(Default)]
struct Sum {
    seeds: u64,
    operations: usize,
    well: usize,
    faults: u64,
    undecided: u32,
    simulated: Duration,
    failed: Vec<u64>,
}

impl Sum {
    fn add(&mut self, report: &Report, log: bool) {
        self.seeds += 1;
        self.operations += report.operations.0;
        self.well += report.operations.1;
        self.faults += u64::from(report.faults);
        self.undecided += report.undecided;
        self.simulated += report.elapsed;
        if report.violations.is_empty() {
            return;
        }
        self.failed.push(report.seed);
        if log {
            for line in &report.log {
                println!("{line}");
            }
        }
        for violation in &report.violations {
            println!("seed {}: {violation}", report.seed);
        }
    }

    fn text(&self) -> String {
        format!(
            "{} seeds, {} operations ({} ended well), {} faults, {} h simulated, {} chunks undecided, {} seeds failed",
            self.seeds,
            self.operations,
            self.well,
            self.faults,
            self.simulated.as_secs() / 3600,
            self.undecided,
            self.failed.len()
        )
    }
}

fn work(options: Options) -> ExitCode {
    let env = Env::real();
    let (next, done) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let sum = Arc::new(Mutex::new(Sum::default()));
    let threads = (0..options.threads).map(|_| {
        let (next, sum) = (next.clone(), sum.clone());
        env.spawn_thread("sim", move || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= options.seeds {
                    return;
                }
                let report = sim::run_with(options.first + number, options.mistake);
                sum.lock().add(&report, options.log);
            }
        })
    });
    let threads: Vec<_> = threads.collect();
    let teller = {
        let (sum, done) = (sum.clone(), done.clone());
        env.spawn_thread("progress", move || {
            while !done.load(Ordering::Relaxed) {
                std::thread::park_timeout(SAY_EVERY);
                eprintln!("{}", sum.lock().text());
            }
        })
    };
    let mut whole = true;
    for thread in threads {
        whole &= thread.is_ok_and(|thread| thread.join().is_ok());
    }
    done.store(true, Ordering::Relaxed);
    if let Ok(teller) = teller {
        teller.thread().unpark();
        whole &= teller.join().is_ok();
    }
    let sum = sum.lock();
    println!("{}", sum.text());
    if sum.failed.is_empty() && whole {
        return ExitCode::SUCCESS;
    }
    println!("failed: {:?}", sum.failed);
    ExitCode::FAILURE
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(Some(options)) => work(options),
        Ok(None) => {
            print!("{}", help());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("penstock-sim: {error}");
            ExitCode::FAILURE
        }
    }
}
