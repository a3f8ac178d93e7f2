//! System calls that fail: strace(1) makes them, one call and one error at a time, under a program that does
//! everything. It must tell an error or go on, and never hang, spin, crash or leave a descriptor behind.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::common::drivers;
use crate::everything;
use crate::support::{arguments, faults, skipped, Folder};

/// What the whole program may take: more is a hang.
const LIMIT: Duration = Duration::from_secs(200);

/// Which of the calls fail, beginning with the program's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// Only one, the n-th.
    Nth(usize),
    /// One in five, from the third on.
    Now,
    /// All.
    Always,
}

impl When {
    fn words(self) -> String {
        match self {
            When::Nth(n) => n.to_string(),
            When::Now => "3+5".to_owned(),
            When::Always => "1+".to_owned(),
        }
    }
}

/// Interrupted by a signal. Whatever the call, nobody is told: it is made again.
const INTERRUPTED: &[&str] = &[
    "accept4",
    "connect",
    "copy_file_range",
    "dup2",
    "epoll_pwait",
    "epoll_pwait2",
    "epoll_wait",
    "fdatasync",
    "fsync",
    "ftruncate",
    "io_uring_enter",
    "openat",
    "pread64",
    "preadv2",
    "pwritev2",
    "read",
    "recvfrom",
    "recvmmsg",
    "recvmsg",
    "sendfile",
    "sendmmsg",
    "sendmsg",
    "sendto",
    "splice",
    "wait4",
    "waitid",
    "write",
];

/// What runs out or breaks.
const FAILING: &[(&str, &str)] = &[
    (
        "accept4",
        "EMFILE ENFILE ENOMEM ENOBUFS ECONNABORTED EPERM EIO",
    ),
    ("bind", "EADDRINUSE ENOMEM"),
    ("brk", "ENOMEM"),
    ("chmod", "EIO EROFS"),
    ("clone3", "EAGAIN ENOMEM"),
    ("close", "EIO EINTR"),
    ("close_range", "ENOSYS"),
    (
        "connect",
        "EADDRNOTAVAIL ENETUNREACH ENOBUFS EPERM ETIMEDOUT",
    ),
    (
        "copy_file_range",
        "EIO ENOSPC ENOMEM EXDEV EOPNOTSUPP ENOSYS",
    ),
    ("epoll_create1", "EMFILE ENFILE ENOMEM"),
    ("epoll_ctl", "ENOMEM ENOSPC"),
    ("epoll_pwait2", "ENOSYS ENOMEM"),
    ("epoll_wait", "ENOMEM"),
    ("epoll_pwait", "ENOMEM"),
    ("eventfd2", "EMFILE ENFILE ENOMEM"),
    ("execve", "ENOMEM E2BIG"),
    ("fadvise64", "EIO"),
    ("fcntl", "EMFILE ENOMEM"),
    ("fdatasync", "EIO ENOSPC EDQUOT"),
    ("fsync", "EIO ENOSPC EDQUOT"),
    ("ftruncate", "EIO ENOSPC EFBIG"),
    ("getdents64", "EIO ENOMEM"),
    ("getpeername", "ENOBUFS"),
    ("getsockname", "ENOBUFS"),
    ("getsockopt", "ENOMEM"),
    ("inotify_add_watch", "ENOSPC ENOMEM EACCES"),
    ("inotify_init1", "EMFILE ENFILE ENOMEM"),
    ("io_uring_enter", "EAGAIN EBUSY ENOMEM"),
    ("io_uring_register", "ENOMEM EINVAL"),
    ("io_uring_setup", "ENOMEM EPERM EMFILE"),
    ("ioctl", "EIO ENOMEM"),
    ("listen", "EADDRINUSE"),
    ("lseek", "EIO"),
    ("membarrier", "ENOSYS EPERM"),
    ("mkdir", "EIO ENOSPC EROFS"),
    ("mmap", "ENOMEM"),
    ("mprotect", "ENOMEM"),
    ("mremap", "ENOMEM"),
    ("newfstatat", "EIO ENOMEM"),
    ("openat", "EMFILE ENFILE ENOMEM EIO ENOSPC"),
    ("pidfd_open", "EMFILE ENFILE ENOMEM ENOSYS"),
    ("pipe2", "EMFILE ENFILE ENOMEM"),
    ("pread64", "EIO"),
    ("preadv2", "EIO ENOMEM EOPNOTSUPP"),
    ("pwritev2", "EIO ENOSPC EDQUOT EFBIG EPIPE EOPNOTSUPP"),
    ("read", "EIO ENOMEM"),
    ("readlink", "EIO"),
    ("recvfrom", "ENOMEM ECONNRESET EIO"),
    ("recvmmsg", "ENOMEM ECONNREFUSED EIO ENOSYS"),
    ("recvmsg", "ENOMEM ECONNRESET EMFILE"),
    ("rename", "EIO ENOSPC"),
    ("rmdir", "EIO"),
    ("rt_sigaction", "EINVAL"),
    ("sendfile", "EIO ENOMEM EINVAL"),
    ("sendmmsg", "ENOBUFS ENOMEM EPERM ENOSYS"),
    ("sendmsg", "ENOBUFS ENOMEM EPIPE ECONNRESET ETOOMANYREFS"),
    ("sendto", "ENOBUFS ENOMEM EPIPE ECONNRESET EPERM"),
    ("setsockopt", "ENOMEM ENOPROTOOPT"),
    ("shutdown", "ENOBUFS ENOTCONN"),
    ("socket", "EMFILE ENFILE ENOBUFS ENOMEM EACCES EAFNOSUPPORT"),
    ("socketpair", "EMFILE ENFILE ENOMEM"),
    ("splice", "EIO ENOMEM"),
    ("statx", "EIO ENOMEM"),
    ("timerfd_create", "EMFILE ENFILE ENOMEM"),
    ("timerfd_settime", "ENOMEM"),
    ("unlink", "EIO EROFS"),
    ("vfork", "EAGAIN ENOMEM"),
    ("wait4", "ECHILD"),
    ("waitid", "ECHILD"),
    ("write", "EIO ENOSPC"),
];

/// When these fail, memory is refused. Allocations of Rust's that cannot be refused end the process, and so does a
/// thread that cannot have a stack for its signal handlers; with these words.
const MEMORY: &[&str] = &["brk", "mmap", "mprotect", "mremap"];
const OUT_OF_MEMORY: &[&str] = &[
    "memory allocation of",
    "failed to allocate an alternative stack",
    "failed to set up alternative stack guard page",
];

/// Calls of the other programs that a part runs, and of the C library for itself, are traced too. Where that would
/// only show how those take it, the part is left out.
const NOT_OURS: &[(&str, &[&str])] = &[
    // The write that wakes a loop: to a descriptor of its own that always takes it.
    ("signal", &["write"]),
    ("work", &["write"]),
    (
        "process",
        &["mmap", "mprotect", "openat", "pread64", "read", "write"],
    ),
    ("names", &["openat", "read"]),
    ("tcp-by-name", &["openat", "read"]),
];

#[derive(Clone, Debug)]
struct Case {
    driver: &'static str,
    call: String,
    error: String,
    when: When,
    parts: String,
}

/// The program that does everything, waiting to begin.
struct Program {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

/// What a part of it may take, on a slow machine and traced.
const PART_SECONDS: u32 = 20;

const TEST: &str = "injected::the_program";
const PARTS: &str = "KOLO_FAULTS_PARTS";
const FOLDER: &str = "KOLO_FAULTS_FOLDER";
const READY: &str = "ready";

impl Program {
    fn start(driver: &str, parts: &str, folder: &Folder, part_seconds: u32) -> Program {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(arguments(TEST))
            .env("KOLO_DRIVER", driver)
            .env(PARTS, parts)
            .env(FOLDER, &folder.0)
            .env(everything::PART_SECONDS, part_seconds.to_string())
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(folder.at("stderr")).unwrap())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains(READY) {
            line.clear();
            assert!(out.read_line(&mut line).unwrap() > 0, "it did not begin");
        }
        Program { child, out }
    }

    fn trace(&self, options: &[String], log: &PathBuf) -> Child {
        let mut tracer = Command::new("strace")
            .args(["-f", "-o"])
            .arg(log)
            .args(options)
            .args(["-p", &self.child.id().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Its first words, when it has attached.
        let mut said = [0; 200];
        let length = tracer.stderr.as_mut().unwrap().read(&mut said).unwrap();
        let said = String::from_utf8_lossy(&said[..length]);
        assert!(said.contains("attached"), "{said}");
        tracer
    }

    /// Lets it run to its end; what it said. `None`: it did not end.
    fn run(mut self) -> (Option<ExitStatus>, String) {
        self.child.stdin.take().unwrap().write_all(b"\n").unwrap();
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break Some(status);
            }
            if began.elapsed() > LIMIT {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                break None;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut said = String::new();
        // What it started may hold the other end of this pipe: not to the end, therefore.
        let _ = self.out.read_to_string(&mut said);
        (status, said)
    }
}

/// Run by the others, under a tracer.
#[test]
#[ignore = "a part of others"]
fn the_program() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let parts = std::env::var(PARTS).unwrap_or_default();
    let begin = || {
        println!("{READY}");
        let mut byte = 0u8;
        let slice = libc::iovec {
            iov_base: (&raw mut byte).cast(),
            iov_len: 1,
        };
        // Not read(2), which may be what is to fail.
        assert_eq!(unsafe { libc::readv(0, &slice, 1) }, 1);
    };
    let good = everything::run(&parts, folder.as_ref(), begin);
    // What the harness would write might fail.
    unsafe { libc::_exit(if good { 0 } else { 3 }) }
}

/// The system calls that are made: in which parts, and how many in all.
fn census(driver: &'static str) -> BTreeMap<String, (Vec<&'static str>, usize)> {
    let folder = Folder::new();
    let program = Program::start(driver, "", &folder, PART_SECONDS);
    let log = folder.at("log");
    let mut tracer = program.trace(&[], &log);
    let (status, said) = program.run();
    tracer.wait().unwrap();
    assert!(status.is_some_and(|status| status.success()), "{said}");
    let mut calls = BTreeMap::<String, (Vec<&'static str>, usize)>::new();
    let mut parts = everything::names_of_parts();
    let mut part = None;
    for line in std::fs::read_to_string(log).unwrap().lines() {
        // "1234  call(..."
        let Some((_, rest)) = line.split_once(' ') else {
            continue;
        };
        let Some((call, _)) = rest.trim_start().split_once('(') else {
            continue;
        };
        if call == everything::MARK {
            part = parts.next();
            continue;
        }
        let (among, count) = calls.entry(call.to_owned()).or_default();
        *count += 1;
        // What making the loop needs shows with any part.
        let part = part.unwrap_or("poll");
        if among.last() != Some(&part) {
            among.push(part);
        }
    }
    calls
}

/// Runs a case; what is wrong with its outcome, and how many calls failed.
fn try_case(case: &Case) -> Result<usize, String> {
    let folder = Folder::new();
    // A descriptor whose close is made to fail stays open, and its other end is not told: the part cannot end.
    let may_stall = case.call == "close";
    let part_seconds = if may_stall { 2 } else { PART_SECONDS };
    let program = Program::start(case.driver, &case.parts, &folder, part_seconds);
    let log = folder.at("log");
    let (call, when) = (&case.call, case.when.words());
    let options = [
        format!("--trace={call}"),
        format!("--inject={call}:error={}:when={when}", case.error),
    ];
    let mut tracer = program.trace(&options, &log);
    let (status, said) = program.run();
    tracer.wait().unwrap();
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let injected = text.matches("(INJECTED)").count();
    let errors = std::fs::read_to_string(folder.at("stderr")).unwrap_or_default();
    let wrong = |what: &str| Err(format!("{case:?}: {what}\n{said}{errors}"));
    let Some(status) = status else {
        return wrong("it hung");
    };
    if status.signal() == Some(libc::SIGABRT) && MEMORY.contains(&call.as_str()) {
        return match OUT_OF_MEMORY.iter().any(|words| errors.contains(words)) {
            true => Ok(injected),
            false => wrong("it aborted"),
        };
    }
    let stalled_as_it_may = may_stall && status.code() == Some(3);
    if !(status.success() || stalled_as_it_may) {
        return wrong(&status.to_string());
    }
    if call != "close" && !said.contains("part descriptors 0 left") {
        return wrong("descriptors are left");
    }
    if case.error == "EINTR" && call != "close" && said.contains("told") {
        return wrong("an interrupted call was told");
    }
    Ok(injected)
}

/// Which cases of the tables.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// One for each call, and what was a bug once.
    Short,
    /// Of the calls that this driver makes in its own way, all.
    Driver,
    All,
}

/// What drivers do differently.
const DRIVERS: &[&str] = &[
    "accept4",
    "connect",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_wait",
    "eventfd2",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "mmap",
    "recvfrom",
    "sendfile",
    "sendto",
    "timerfd_create",
    "timerfd_settime",
];

/// Cases in which something was wrong once.
const ONCE_WRONG: &[(&str, &str, When)] = &[
    ("accept4", "EPERM", When::Always),
    ("connect", "EINTR", When::Nth(1)),
    ("dup2", "EINTR", When::Nth(1)),
    ("write", "EINTR", When::Nth(2)),
];

fn cases(driver: &'static str, extent: Extent) -> Vec<Case> {
    let calls = census(driver);
    let mut cases = Vec::new();
    let mut add = |call: &str, error: &str, modes: &[When]| {
        let Some((parts, count)) = calls.get(call) else {
            return;
        };
        if extent == Extent::Driver && !DRIVERS.contains(&call) {
            return;
        }
        for when in modes {
            if matches!(when, When::Nth(n) if n > count) {
                continue;
            }
            // Without any, the program has more descriptors open than it may.
            if call == "close" && *when == When::Always {
                continue;
            }
            let mut parts = parts.clone();
            parts.retain(|part| {
                let not_ours =
                    |(name, calls): &(&str, &[&str])| name == part && calls.contains(&call);
                !NOT_OURS.iter().any(not_ours)
            });
            if parts.is_empty() {
                continue;
            }
            cases.push(Case {
                driver,
                call: call.to_owned(),
                error: error.to_owned(),
                when: *when,
                parts: parts.join(","),
            });
        }
    };
    if extent == Extent::Short {
        for (call, error, when) in ONCE_WRONG {
            add(call, error, &[*when]);
        }
    }
    for call in INTERRUPTED {
        let modes = [When::Now, When::Nth(1), When::Nth(2)];
        let modes = if extent == Extent::Short {
            &modes[..1]
        } else {
            &modes
        };
        add(call, "EINTR", modes);
    }
    for (call, errors) in FAILING {
        let modes = [
            When::Now,
            When::Nth(1),
            When::Nth(2),
            When::Nth(4),
            When::Always,
        ];
        let errors = errors.split(' ');
        match extent {
            Extent::Short => errors
                .take(1)
                .for_each(|error| add(call, error, &modes[..1])),
            _ => errors.for_each(|error| add(call, error, &modes)),
        }
    }
    cases
}

fn can_trace() -> bool {
    let outcome = Command::new("strace").args(["-qq", "true"]).output();
    outcome.is_ok_and(|output| output.status.success())
}

fn run_all(cases: &[Case]) {
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match try_case(case) {
                        Ok(injected) => faults(injected as u32),
                        Err(text) => wrong.lock().unwrap().push(text),
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(
        wrong.is_empty(),
        "{} of {} cases:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

#[test]
fn whatever_system_call_fails_the_program_goes_on_or_tells() {
    if !can_trace() {
        return skipped(100, "no strace(1) that may trace");
    }
    run_all(&cases("poller", Extent::Short));
}

#[test]
#[ignore = "minutes: make check-faults"]
fn whatever_system_call_fails_however_often_the_program_goes_on_or_tells() {
    if !can_trace() {
        return skipped(2000, "no strace(1) that may trace");
    }
    for driver in drivers() {
        let extent = match driver {
            "poller" => Extent::All,
            _ => Extent::Driver,
        };
        run_all(&cases(driver, extent));
    }
}
