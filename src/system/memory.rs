//! How much memory there is, for the machine, for this process, and under its control group.

use crate::error::{Code, Result};

/// The memory of the machine in bytes, whatever a control group leaves of it to this process: see
/// [`memory_limit`].
///
/// Errors: [`Code::ENOTSUP`] on Windows.
pub fn total_memory() -> Result<u64> {
    #[cfg(unix)]
    return crate::sys::machine::physical_memory();
    #[cfg(not(unix))]
    return Err(Code::ENOTSUP.into());
}

/// The memory in bytes that can be had without swapping: what the machine has left
/// (`MemAvailable`), or what the control group leaves, whichever is less. An estimate.
///
/// Errors: [`Code::ENOTSUP`] elsewhere than on Linux.
pub fn available_memory() -> Result<u64> {
    let machine = available_in(&read("/proc/meminfo").ok_or(Code::ENOTSUP)?);
    let machine = machine.ok_or(Code::ENOTSUP)?;
    Ok(group(&read).map_or(machine, |group| machine.min(group.left)))
}

/// The bytes that the process' control group (cgroups(7), version 1 or 2) lets it have, or `None`
/// where there is no limit below the machine's own memory. The limits of the groups around it
/// count too.
///
/// Errors: [`Code::ENOTSUP`] on Windows.
pub fn memory_limit() -> Result<Option<u64>> {
    let total = total_memory()?;
    let limit = group(&read).map(|group| group.limit);
    Ok(limit.filter(|limit| *limit < total))
}

/// The bytes of memory that the process has now (resident set size).
///
/// Errors: [`Code::ENOTSUP`] elsewhere than on Linux.
pub fn resident_memory() -> Result<u64> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        // proc_pid_statm(5): the second number, in pages.
        let line = read("/proc/self/statm").ok_or(Code::ENOTSUP)?;
        let pages = line.split_ascii_whitespace().nth(1);
        let pages: u64 = pages.and_then(|n| n.parse().ok()).ok_or(Code::ENOTSUP)?;
        Ok(pages * crate::sys::machine::configured(libc::_SC_PAGESIZE)?)
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    Err(Code::ENOTSUP.into())
}

/// Reads one of the kernel's files.
fn read(path: &str) -> Option<String> {
    if cfg!(any(target_os = "linux", target_os = "android")) {
        return std::fs::read_to_string(path).ok();
    }
    None
}

/// proc_meminfo(5); `MemAvailable` since Linux 3.14.
fn available_in(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// What a control group allows.
#[derive(Debug, PartialEq)]
struct Group {
    limit: u64,
    /// What is not used of it, taking for unused what the kernel can drop at any time.
    left: u64,
}

/// How the two versions name things.
struct Files {
    root: &'static str,
    limits: &'static [&'static str],
    usage: &'static str,
    droppable: &'static str,
}

const VERSION_1: Files = Files {
    root: "/sys/fs/cgroup/memory",
    limits: &["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    droppable: "total_inactive_file",
};

/// Above `memory.high` a process is slowed down so much that it may be taken for a limit.
const VERSION_2: Files = Files {
    root: "/sys/fs/cgroup",
    limits: &["memory.max", "memory.high"],
    usage: "memory.current",
    droppable: "inactive_file",
};

/// The narrowest of the group of this process and those around it.
fn group(read: &dyn Fn(&str) -> Option<String>) -> Option<Group> {
    let lines = read("/proc/self/cgroup")?;
    let (files, path) = place(&lines)?;
    // In a container, the path may be one of the host's that is not to be seen here.
    let mut path = if path.split('/').any(|part| part == "..") {
        ""
    } else {
        path.trim_end_matches('/')
    };
    let mut narrowest: Option<Group> = None;
    loop {
        if let Some(group) = limits_of(&format!("{}{path}", files.root), files, read) {
            let former = narrowest.unwrap_or(Group {
                limit: u64::MAX,
                left: u64::MAX,
            });
            narrowest = Some(Group {
                limit: former.limit.min(group.limit),
                left: former.left.min(group.left),
            });
        }
        match path.rfind('/') {
            Some(at) => path = &path[..at],
            None => return narrowest,
        }
    }
}

/// The version that rules memory, and the process' path in it: lines of "number:controllers:path",
/// where version 2 has number 0 and no controllers.
fn place(lines: &str) -> Option<(&'static Files, &str)> {
    let mut unified = None;
    for line in lines.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) =
            (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        if controllers.split(',').any(|name| name == "memory") {
            return Some((&VERSION_1, path));
        }
        if number == "0" && controllers.is_empty() {
            unified = Some((&VERSION_2, path));
        }
    }
    unified
}

fn limits_of(folder: &str, files: &Files, read: &dyn Fn(&str) -> Option<String>) -> Option<Group> {
    let number = |name: &str| {
        read(&format!("{folder}/{name}"))?
            .trim()
            .parse::<u64>()
            .ok()
    };
    // "max" is no number: no limit.
    let limit = files.limits.iter().filter_map(|name| number(name)).min()?;
    let used = number(files.usage).unwrap_or(0);
    let statistics = read(&format!("{folder}/memory.stat")).unwrap_or_default();
    let droppable = statistics.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        value.parse().ok().filter(|_| name == files.droppable)
    });
    let used = used.saturating_sub(droppable.unwrap_or(0));
    Some(Group {
        limit,
        left: limit.saturating_sub(used),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group_of(files: &[(&str, &str)]) -> Option<Group> {
        group(&|path: &str| {
            let found = files.iter().find(|(name, _)| *name == path);
            found.map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn the_narrowest_group_counts() {
        let found = group_of(&[
            ("/proc/self/cgroup", "0::/a/b\n"),
            ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/b/memory.current", "5\n"),
            ("/sys/fs/cgroup/a/memory.max", "1000\n"),
            ("/sys/fs/cgroup/a/memory.high", "800\n"),
            ("/sys/fs/cgroup/a/memory.current", "300\n"),
            (
                "/sys/fs/cgroup/a/memory.stat",
                "anon 7\ninactive_file 100\n",
            ),
        ]);
        let expected = Group {
            limit: 800,
            left: 600,
        };
        assert_eq!(found, Some(expected));
    }

    #[test]
    fn version_1_where_it_rules_memory() {
        let found = group_of(&[
            (
                "/proc/self/cgroup",
                "9:name=systemd:/\n4:cpu,memory:/host/x\n0::/\n",
            ),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "500\n"),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "700\n"),
        ]);
        let expected = Group {
            limit: 500,
            left: 0,
        };
        assert_eq!(found, Some(expected));
    }

    #[test]
    fn no_limit_and_no_groups() {
        assert_eq!(group_of(&[]), None);
        assert_eq!(group_of(&[("/proc/self/cgroup", "0::/\n")]), None);
        assert_eq!(group_of(&[("/proc/self/cgroup", "nonsense\n\n::\n")]), None);
    }

    #[test]
    fn a_path_outside_is_the_root() {
        let found = group_of(&[
            ("/proc/self/cgroup", "0::/../x\n"),
            ("/sys/fs/cgroup/memory.max", "10\n"),
        ]);
        assert_eq!(found.map(|group| group.limit), Some(10));
    }

    #[test]
    fn available_memory_is_read() {
        let text = "MemTotal:   10 kB\nMemAvailable:     3 kB\n";
        assert_eq!(available_in(text), Some(3072));
        assert_eq!(available_in("MemTotal: 10 kB\n"), None);
    }
}
