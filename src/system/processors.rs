//! The processors of the machine.

use std::time::Duration;

use crate::error::{Code, Result};

/// One processor, and what it did since the system started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Processor {
    /// Its number.
    pub number: u32,
    /// What it is called; empty where the system does not say.
    pub model: String,
    /// Its speed now, in millions of steps a second; 0 where the system does not say.
    pub mhz: u32,
    /// Time in programs.
    pub user: Duration,
    /// Time in programs of low priority.
    pub nice: Duration,
    /// Time in the kernel.
    pub system: Duration,
    /// Time without work, waiting for disks included.
    pub idle: Duration,
    /// Time in interrupts.
    pub interrupts: Duration,
}

/// The processors that are switched on, by their numbers. How many of them this process may use,
/// [`available_parallelism`](super::available_parallelism) says.
///
/// Errors: [`Code::ENOTSUP`] elsewhere than on Linux.
pub fn processors() -> Result<Vec<Processor>> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let read = |path: &str| std::fs::read_to_string(path);
        let ticks = crate::sys::machine::configured(libc::_SC_CLK_TCK)?;
        let mut found = times_in(&read("/proc/stat")?, ticks);
        describe(&mut found, &read("/proc/cpuinfo")?);
        for processor in found.iter_mut().filter(|one| one.mhz == 0) {
            let number = processor.number;
            let folder = format!("/sys/devices/system/cpu/cpu{number}/cpufreq");
            let kilohertz = read(&format!("{folder}/scaling_cur_freq")).unwrap_or_default();
            processor.mhz = kilohertz.trim().parse().map_or(0, |khz: u32| khz / 1000);
        }
        if found.is_empty() {
            return Err(Code::ENOTSUP.into());
        }
        Ok(found)
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    Err(Code::ENOTSUP.into())
}

/// proc_stat(5): "cpu0 user nice system idle iowait irq softirq ...", in ticks.
#[cfg(any(target_os = "linux", target_os = "android", test))]
fn times_in(stat: &str, ticks_per_second: u64) -> Vec<Processor> {
    let second = 1_000_000_000 / ticks_per_second.max(1);
    let line = |line: &str| {
        let mut words = line.strip_prefix("cpu")?.split_ascii_whitespace();
        // The first line, of all together, has no number.
        let number = words.next().filter(|_| !line.starts_with("cpu "))?;
        let number = number.parse().ok()?;
        let mut time = || {
            let ticks: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
            Duration::from_nanos(ticks.saturating_mul(second))
        };
        Some(Processor {
            number,
            user: time(),
            nice: time(),
            system: time(),
            idle: time() + time(),
            interrupts: time() + time(),
            ..Processor::default()
        })
    };
    stat.lines().filter_map(line).collect()
}

/// /proc/cpuinfo: lines of "name : value", one paragraph a processor.
#[cfg(any(target_os = "linux", target_os = "android", test))]
fn describe(processors: &mut [Processor], cpuinfo: &str) {
    let mut at = None;
    for line in cpuinfo.lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        match name.trim() {
            "processor" => {
                let number = value.parse::<u32>().ok();
                at = number.and_then(|n| processors.iter().position(|one| one.number == n));
            }
            // Not on ARM, where only numbers of maker and part are given.
            "model name" => {
                if let Some(at) = at {
                    processors[at].model = value.to_owned();
                }
            }
            "cpu MHz" => {
                if let Some(at) = at {
                    processors[at].mhz = value.parse().map_or(0, |mhz: f64| mhz as u32);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_models_come_together_by_number() {
        let stat = "cpu  9 9 9 9\ncpu0 1 2 3 4 5 6 7 8 9 10\ncpu2 100 0 0 0\nintr 5\ncpufoo 1\n";
        let mut found = times_in(stat, 100);
        let cpuinfo = "processor\t: 2\nmodel name\t: Two: fast\ncpu MHz\t\t: 2399.998\n\n\
                       processor\t: 9\nmodel name\t: Nine\n";
        describe(&mut found, cpuinfo);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].number, found[1].number), (0, 2));
        assert_eq!(found[0].user, Duration::from_millis(10));
        assert_eq!(found[0].idle, Duration::from_millis(90));
        assert_eq!(found[0].interrupts, Duration::from_millis(130));
        assert_eq!(found[1].user, Duration::from_secs(1));
        assert_eq!((found[1].model.as_str(), found[1].mhz), ("Two: fast", 2399));
        assert_eq!((found[0].model.as_str(), found[0].mhz), ("", 0));
    }
}
