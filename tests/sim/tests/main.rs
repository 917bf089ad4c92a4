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
