//! What makes the simulation worth its name. Many seeds: `cargo run --release -p penstock-sim -- --seeds N`.

#[test]
fn the_same_seed_gives_the_same_log_twice() {
    for seed in 1..=3 {
        let (first, second) = (sim::run(seed), sim::run(seed));
        let differs = first.log.iter().zip(&second.log).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.checksum, second.checksum, "seed {seed}");
        assert!(first.log.len() > 50, "seed {seed}");
    }
}

/// Seeds of the sample, and those within which every mistake must show.
const SAMPLE: u64 = 100;

#[test]
fn a_sample_of_seeds_breaks_no_rule() {
    let (mut operations, mut faults) = (0, 0);
    for seed in 1..=SAMPLE {
        let report = sim::run(seed);
        let violations = report.violations;
        assert!(violations.is_empty(), "seed {seed}: {violations:#?}");
        assert_eq!(report.undecided, 0, "seed {seed}");
        operations += report.operations.0;
        faults += report.faults;
    }
    eprintln!("{SAMPLE} seeds, {operations} operations, {faults} faults");
}

#[test]
fn every_mistake_made_on_purpose_is_found() {
    for mistake in sim::MISTAKES {
        let found =
            (1..=SAMPLE).find(|seed| !sim::run_with(*seed, Some(mistake)).violations.is_empty());
        eprintln!("{mistake}: found by seed {found:?}");
        assert!(found.is_some(), "{mistake}: not found in {SAMPLE} seeds");
    }
}
