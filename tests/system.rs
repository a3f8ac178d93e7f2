//! What the system says of itself.

use std::time::Duration;

use kolo::system;
use kolo::Loop;

#[test]
fn the_monotonic_clock_is_the_loops() {
    let lp = Loop::new().unwrap();
    let before = system::clock_monotonic();
    lp.update_now();
    let now = u64::try_from(lp.now().as_nanos()).unwrap();
    assert!(before <= now && now <= system::clock_monotonic());
}

#[test]
fn the_wall_clock_counts_from_1970() {
    let now = Duration::from_nanos(u64::try_from(system::clock_wall()).unwrap());
    // 2025 to 2262.
    assert!(now > Duration::from_secs(55 * 365 * 86400));
}

#[test]
fn random_fills_all_of_it() {
    let mut memory = [0u8; 4096];
    system::random(&mut memory).unwrap();
    let zeros = memory.iter().filter(|byte| **byte == 0).count();
    assert!(zeros < 100, "{zeros} zeros where 16 are to be expected");
    system::random(&mut []).unwrap();
}

#[cfg(unix)]
#[test]
fn names_are_there() {
    assert!(!system::hostname().unwrap().is_empty());
    let os = system::operating_system().unwrap();
    assert!(!os.name.is_empty() && !os.release.is_empty() && !os.machine.is_empty());
    let program = system::executable_path().unwrap();
    assert!(program.is_file(), "{}", program.display());
    assert!(system::temporary_directory().is_absolute());
}

#[cfg(target_os = "linux")]
#[test]
fn memory_is_within_bounds() {
    let total = system::total_memory().unwrap();
    assert!(system::available_memory().unwrap() <= total);
    let resident = system::resident_memory().unwrap();
    assert!(resident > 4096 && resident < total);
    if let Some(limit) = system::memory_limit().unwrap() {
        assert!(limit < total);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn processors_have_numbers_in_order() {
    let found = system::processors().unwrap();
    assert!(found.is_sorted_by_key(|one| one.number));
    assert!(found.iter().any(|one| one.idle + one.user > Duration::ZERO));
    assert!((1..=found.len()).contains(&system::available_parallelism()));
}

#[cfg(unix)]
#[test]
fn uptime_and_load() {
    let first = system::uptime().unwrap();
    assert!(first > Duration::ZERO && first <= system::uptime().unwrap());
    assert!(system::load_average()
        .unwrap()
        .iter()
        .all(|load| *load >= 0.0));
}

#[cfg(unix)]
#[test]
fn the_loopback_interface_is_listed() {
    let found = system::interfaces().unwrap();
    let loopback = found.iter().find(|one| {
        one.address
            .is_some_and(|address| address.ip().is_loopback())
    });
    let loopback = loopback.expect("a loopback address");
    assert!(loopback.flags.contains(system::InterfaceFlags::LOOPBACK));
    assert!(loopback.prefix_length > 0 && loopback.index > 0);
}
