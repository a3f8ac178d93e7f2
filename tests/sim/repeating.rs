//! The same seed is the same run.

use super::*;
use kolo::{Stream, Timer};

/// A busy world: its digest, and what a tracer wrote.
fn busy_run(seed: u64, traced: bool) -> (u64, String) {
    let pair = Pair::new(SimulationOptions::harsh(seed));
    let lines = Shared::new(String::new());
    if traced {
        let lines = lines.clone();
        pair.simulation
            .on_trace(move |more| lines.with(|all| all.push_str(more)));
    }
    pair.listen(|| {
        |lp: &Loop, stream: Stream, data: &[u8]| {
            let _ = stream.write(lp, data);
        }
    });
    for index in 0..5 {
        let log = Log::default();
        let tcp = pair.connect(Script::new(&log));
        let _ = tcp.write(&pair.client, &pattern(index, 20_000));
        let repeat = move |lp: &Loop, _: Timer| {
            let _ = tcp.write(lp, b"again");
        };
        let timer = Timer::open(&pair.client, repeat).unwrap();
        timer.start_repeating(&pair.client, ms(70), ms(70)).unwrap();
    }
    pair.run(secs(60));
    (pair.simulation.digest(), lines.with(std::mem::take))
}

#[test]
fn the_same_seed_is_the_same_run_to_the_byte() {
    for seed in [0, 1, 77] {
        let (first, lines) = busy_run(seed, true);
        let (second, same) = busy_run(seed, true);
        assert_eq!(first, second, "seed {seed}");
        assert_eq!(lines, same);
        assert!(lines.lines().count() > 1000);
        // Reading along changes nothing.
        assert_eq!(busy_run(seed, false), (first, String::new()));
    }
}

#[test]
fn another_seed_is_another_run() {
    let mut digests: Vec<_> = (0..8).map(|seed| busy_run(seed, false).0).collect();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), 8);
}

#[test]
fn random_numbers_come_from_the_seed() {
    let numbers = |seed| {
        let simulation = Simulation::new(SimulationOptions::with_seed(seed)).unwrap();
        [simulation.random(), simulation.random()]
    };
    assert_eq!(numbers(5), numbers(5));
    assert_ne!(numbers(5), numbers(6));
    assert_ne!(numbers(5)[0], numbers(5)[1]);
}
