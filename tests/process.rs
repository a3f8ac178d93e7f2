//! Child processes. They belong to the whole process, so each test has one of its own; and it runs in each of the ways in
//! which children are started and waited for.

#![cfg(all(unix, feature = "process"))]
// The numbers of resources have another type on some systems.
#![allow(clippy::unnecessary_cast)]

mod common;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::*;
use kolo::{
    Child, Code, Command, ExitStatus, Kind, Loop, Process, Signal, SpawnError, SpawnStep, Stdio,
    Stream, Timer, UNLIMITED,
};

/// Descriptors and shared memory, as a current Linux has them; without descriptors for children, so that SIGCHLD tells
/// of them; and with fork(2).
const WAYS: [&[(&str, &str)]; 3] = [
    &[],
    &[("KOLO_PIDFD", "0")],
    &[("KOLO_PIDFD", "0"), ("KOLO_VFORK", "0")],
];

const WAY: &str = "KOLO_TEST_WAY";

/// Runs the test in each way and on each driver. Afterwards no child, no zombie and no descriptor may be left.
macro_rules! in_each_way {
    ($test:expr) => {{
        fn here() {}
        let name = std::any::type_name_of_val(&here);
        run_in_each_way(name.split("::").nth(1).unwrap(), $test);
    }};
}

fn run_in_each_way(name: &str, test: impl Fn(&Loop)) {
    if std::env::var_os(WAY).is_some() {
        each_driver(|lp| {
            let before = open_descriptors();
            test(&lp);
            drop(lp);
            assert_no_children();
            // The loop that was dropped had some of its own.
            let after = open_descriptors();
            assert!(after.len() < before.len(), "{before:?} {after:?}");
            let new = after.iter().filter(|file| !before.contains(file));
            assert_eq!(new.collect::<Vec<_>>(), Vec::<&RawFd>::new());
        });
        return;
    }
    for (way, variables) in WAYS.iter().enumerate() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture", "--test-threads=1"])
            .env(WAY, way.to_string())
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{variables:?}: {}\n{text}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

fn open_descriptors() -> Vec<RawFd> {
    (0..4096)
        .filter(|file| unsafe { libc::fcntl(*file, libc::F_GETFD) } >= 0)
        .collect()
}

#[track_caller]
fn assert_no_children() {
    let found = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
    let error = io::Error::last_os_error().raw_os_error();
    assert_eq!((found, error), (-1, Some(libc::ECHILD)), "a child is left");
}

type Exits = Shared<Vec<ExitStatus>>;

/// Notes how a program ends.
fn noted(exits: &Exits) -> impl FnOnce(&Loop, Process, ExitStatus) + 'static {
    let exits = exits.clone();
    move |_, _, status| exits.push(status)
}

fn shell(script: &str) -> Command {
    Command::new("/bin/sh").arg("-c").arg(script)
}

/// It runs for longer than any test, but not when a test that failed is over.
fn sleeping() -> Command {
    Command::new("sleep").arg("600").kill_on_close(true)
}

/// Runs it to its end, which it tells.
#[track_caller]
fn status_of(lp: &Loop, command: Command) -> ExitStatus {
    let exits = Exits::default();
    command.spawn(lp, noted(&exits)).unwrap();
    run_until(lp, || !exits.is_empty());
    exits.take()[0]
}

/// What it writes to its standard output, and how it ends.
#[track_caller]
fn output_of(lp: &Loop, command: Command) -> (String, ExitStatus) {
    let (log, exits) = (Log::default(), Exits::default());
    let stdout = Script::new(&log).on_end(|lp, stream| lp.close(stream).unwrap());
    let command = command.stdout(Stdio::child_writes(stdout));
    command.spawn(lp, noted(&exits)).unwrap();
    run_until(lp, || log.closed() && !exits.is_empty());
    (String::from_utf8(log.data()).unwrap(), exits.take()[0])
}

#[track_caller]
fn assert_output(lp: &Loop, command: Command, expected: &str) {
    let (output, status) = output_of(lp, command);
    assert_eq!((output.as_str(), status), (expected, ExitStatus::Code(0)));
}

/// The error of a spawn, which leaves nothing.
#[track_caller]
fn failure(lp: &Loop, command: Command) -> (Code, SpawnStep) {
    let (open, handles) = (open_descriptors(), lp.handles().len());
    let failed = command.spawn(lp, |_, _, _| panic!("it never ran"));
    let SpawnError { step, error } = failed.unwrap_err();
    assert_eq!(lp.handles().len(), handles);
    // What the way of waiting needs stays with the loop.
    let new = open_descriptors().len() - open.len();
    assert!(new == 0 || std::env::var_os("KOLO_PIDFD").is_some());
    (error.code(), step)
}

fn folder(name: &str) -> PathBuf {
    let way = std::env::var(WAY).unwrap();
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("process-{name}-{way}"));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn file(folder: &std::path::Path, name: &str, mode: u32, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn the_exit_code_is_told_once() {
    in_each_way!(|lp| {
        for code in [0, 1, 77, 255] {
            let exits = Exits::default();
            let closed = Shared::<usize>::default();
            let child = shell(&format!("exit {code}"))
                .spawn(lp, noted(&exits))
                .unwrap();
            let count = closed.clone();
            lp.on_close(child.process, move |_, _| count.add()).unwrap();
            assert_eq!(lp.kind(child.process).unwrap(), Kind::Process);
            assert!(lp.is_active(child.process).unwrap() && lp.is_alive());
            assert!(child.process.pid(lp).unwrap() > 1);
            assert!(exits.is_empty(), "not inside the call");
            run_to_end(lp);
            assert_eq!(exits.get(), [ExitStatus::Code(code)]);
            assert_eq!(closed.get(), 1, "the handle closes by itself");
            assert_eq!(self::code(lp.close(child.process)), Code::EBADF);
            assert_eq!(exits.holders(), 0);
        }
    });
}

#[test]
fn the_signal_that_ended_it_is_told() {
    in_each_way!(|lp| {
        for number in [libc::SIGKILL, libc::SIGTERM, libc::SIGUSR1, libc::SIGPIPE] {
            let status = status_of(lp, shell(&format!("kill -{number} $$; sleep 60")));
            assert_eq!(status.signal(), Some(number));
            assert_eq!(status.code(), None);
            assert!(!status.success());
        }
    });
}

#[test]
fn kill_ends_it_and_afterwards_there_is_nobody() {
    in_each_way!(|lp| {
        let exits = Exits::default();
        let seen = Shared::new(None);
        let (list, outcome) = (exits.clone(), seen.clone());
        let child = Command::new("sleep")
            .arg("600")
            .spawn(lp, move |lp, process, status| {
                list.push(status);
                outcome.set(Some(code(process.kill(lp, libc::SIGTERM))));
            });
        let process = child.unwrap().process;
        process.kill(lp, 0).unwrap();
        assert_eq!(code(process.kill(lp, 1000)), Code::EINVAL);
        process.kill(lp, libc::SIGTERM).unwrap();
        run_to_end(lp);
        assert_eq!(exits.get()[0].signal(), Some(libc::SIGTERM));
        assert_eq!(seen.get(), Some(Code::ESRCH));
        assert_eq!(code(process.kill(lp, 0)), Code::EBADF);
        assert_eq!(code(process.pid(lp)), Code::EBADF);
        // Any process, by its number.
        kolo::kill(std::process::id() as i32, 0).unwrap();
        assert_eq!(code(kolo::kill(i32::MAX, 0)), Code::ESRCH);
        assert_eq!(
            code(kolo::kill(std::process::id() as i32, -1)),
            Code::EINVAL
        );
    });
}

#[test]
fn what_it_used_is_known_at_its_end() {
    in_each_way!(|lp| {
        let seen = Shared::new(None);
        let usage = seen.clone();
        let script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done";
        let child = shell(script).spawn(lp, move |lp, process, _| {
            usage.set(Some(process.usage(lp).unwrap()));
        });
        assert_eq!(code(child.unwrap().process.usage(lp)), Code::EBUSY);
        run_to_end(lp);
        let usage = seen.get().unwrap();
        assert!(usage.user + usage.system > Duration::ZERO);
        assert!(
            usage.resident_max > 100_000 && usage.minor_faults > 0,
            "{usage:?}"
        );
    });
}

#[test]
fn arguments_environment_and_directory_are_those_given() {
    in_each_way!(|lp| {
        let odd = ["", "a b", "'\"$HOME`*", "-n", "\u{e4}\n"];
        let print = Command::new("printf").arg("[%s]").args(odd);
        assert_output(lp, print, &odd.map(|text| format!("[{text}]")).concat());
        let named = Command::new("/bin/sh")
            .name("another")
            .args(["-c", "printf %s $0"]);
        assert_output(lp, named, "another");

        // Inherited, changed, removed, and from nothing.
        unsafe { std::env::set_var("KOLO_TEST_KEPT", "kept") };
        let script = "printf '%s/%s/%s' \"$KOLO_TEST_KEPT\" \"$NEW\" \"$OLD\"";
        let command = shell(script).env("NEW", "first").env("OLD", "x");
        assert_output(lp, command.env("NEW", "1=1").env_remove("OLD"), "kept/1=1/");
        let bare = Command::new("/usr/bin/env").env_clear().env("ONLY", "this");
        assert_output(lp, bare, "ONLY=this\n");

        let here = folder("directory").canonicalize().unwrap();
        let pwd = shell("pwd -P").directory(&here);
        assert_output(lp, pwd, &format!("{}\n", here.display()));
        assert_ne!(std::env::current_dir().unwrap(), here, "ours stays");
    });
}

#[test]
fn a_program_is_looked_for_in_the_path_that_it_gets() {
    in_each_way!(|lp| {
        let (one, two) = (folder("path-one"), folder("path-two"));
        file(&two, "kolo-test-program", 0o755, "#!/bin/sh\necho found\n");
        file(
            &one,
            "kolo-test-other",
            0o644,
            "#!/bin/sh\necho not to be run\n",
        );
        let path = format!("/nowhere::{}:{}", one.display(), two.display());
        let search = |name: &str| Command::new(name).env("PATH", &path);
        assert_output(lp, search("kolo-test-program"), "found\n");
        // From its own directory.
        let relative = Command::new("./kolo-test-program").directory(&two);
        assert_output(lp, relative, "found\n");
        let current = Command::new("kolo-test-program")
            .env("PATH", "")
            .directory(&two);
        assert_output(lp, current, "found\n");
        // One that may not be run is the error only when none can be.
        let denied = failure(lp, search("kolo-test-other"));
        assert_eq!(denied, (Code::EACCES, SpawnStep::Program));
        file(&two, "kolo-test-other", 0o755, "#!/bin/sh\necho second\n");
        assert_output(lp, search("kolo-test-other"), "second\n");
        let missing = (Code::ENOENT, SpawnStep::Program);
        assert_eq!(failure(lp, search("kolo-test-missing")), missing);
        // Without a PATH, where programs usually are.
        assert_eq!(
            status_of(lp, Command::new("true").env_clear()),
            ExitStatus::Code(0)
        );
        assert_eq!(
            failure(lp, Command::new("kolo-test-program").env_clear()),
            missing
        );
        std::fs::remove_file(two.join("kolo-test-other")).unwrap();
    });
}

#[test]
fn what_keeps_it_from_running_is_the_error_of_the_call() {
    in_each_way!(|lp| {
        let here = folder("errors");
        let plain = file(&here, "plain", 0o644, "x");
        let script = file(&here, "script", 0o755, "echo without a first line\n");
        let interpreter = file(&here, "interpreter", 0o755, "#!/no/such/shell\n");
        let program = |code| (code, SpawnStep::Program);
        assert_eq!(
            failure(lp, Command::new("/no/such/program")),
            program(Code::ENOENT)
        );
        assert_eq!(failure(lp, Command::new("")), program(Code::ENOENT));
        assert_eq!(failure(lp, Command::new(&plain)), program(Code::EACCES));
        assert_eq!(failure(lp, Command::new(&here)), program(Code::EACCES));
        assert_eq!(failure(lp, Command::new(&script)), program(Code::ENOEXEC));
        assert_eq!(
            failure(lp, Command::new(&interpreter)),
            program(Code::ENOENT)
        );
        assert_eq!(
            failure(lp, Command::new(plain.join("x"))),
            program(Code::ENOTDIR)
        );
        assert_eq!(
            failure(lp, Command::new("x".repeat(5000) + "/x")),
            program(Code::ENAMETOOLONG)
        );
        let long = shell(":").arg("x".repeat(1 << 20));
        assert_eq!(failure(lp, long), program(Code::E2BIG));
        assert_eq!(failure(lp, shell(":").arg("a\0b")), program(Code::EINVAL));
        assert_eq!(
            failure(lp, shell(":").env("a", "b\0")),
            program(Code::EINVAL)
        );

        let directory = |code| (code, SpawnStep::Directory);
        let within = |path: &std::path::Path| shell(":").directory(path);
        assert_eq!(
            failure(lp, within("/no/such".as_ref())),
            directory(Code::ENOENT)
        );
        assert_eq!(failure(lp, within(&plain)), directory(Code::ENOTDIR));
        assert_eq!(
            failure(lp, within("a\0b".as_ref())),
            directory(Code::EINVAL)
        );

        let group = shell(":").join_group(i32::MAX);
        assert_eq!(failure(lp, group), (Code::EPERM, SpawnStep::Group));
        let limits = (Code::EINVAL, SpawnStep::Limits);
        assert_eq!(
            failure(lp, shell(":").limit(libc::RLIMIT_NOFILE as i32, 9, 8)),
            limits
        );
        assert_eq!(failure(lp, shell(":").limit(12345, 1, 1)), limits);
        let descriptors = |code| (code, SpawnStep::Descriptors);
        for number in [-1, 1024, RawFd::MAX] {
            let wrong = shell(":").with_descriptor(number, Stdio::null());
            assert_eq!(failure(lp, wrong), descriptors(Code::EINVAL));
        }
        let closed = shell(":").with_descriptor(1000, Stdio::inherit());
        assert_eq!(failure(lp, closed), descriptors(Code::EBADF));
        let terminal = shell(":").stdin(Stdio::null()).controlling_terminal();
        assert_eq!(failure(lp, terminal), (Code::ENOTTY, SpawnStep::Terminal));
        let error = shell(":")
            .directory("/no/such")
            .spawn(lp, |_, _, _| ())
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "changing to its directory: no such file, handle or request (ENOENT)"
        );
        assert_eq!(
            status_of(lp, shell("exit 3")),
            ExitStatus::Code(3),
            "the loop is as before"
        );
    });
}

#[test]
fn a_failed_spawn_takes_its_streams_back_unheard() {
    in_each_way!(|lp| {
        let log = Log::default();
        let missing = Command::new("/no/such/program")
            .stdin(Stdio::child_reads(Script::new(&log)))
            .stdout(Stdio::child_writes(Script::new(&log)))
            .stderr(Stdio::both_ways(Script::new(&log)));
        assert_eq!(failure(lp, missing), (Code::ENOENT, SpawnStep::Program));
        some_turns(lp);
        assert!(log.events().is_empty());
        assert_eq!(log.holders(), 0, "its handlers are dropped");
    });
}

#[test]
fn pipes_carry_everything_both_ways() {
    in_each_way!(|lp| {
        let (input, output, exits) = (Log::default(), Log::default(), Exits::default());
        let child = Command::new("cat")
            .stdin(Stdio::child_reads(Script::new(&input)))
            .stdout(Stdio::child_writes(Script::new(&output)))
            .spawn(lp, noted(&exits))
            .unwrap();
        let (stdin, stdout) = (child.stdin.unwrap(), child.stdout.unwrap());
        assert!(child.stderr.is_none() && child.others.is_empty());
        assert_eq!(lp.kind(stdin).unwrap(), Kind::Pipe);
        let bytes = pattern(0, 3_000_000);
        stdin.write(lp, &bytes).unwrap();
        stdin.shutdown(lp, input.done(1)).unwrap();
        run_until(lp, || output.has(&Event::End) && !exits.is_empty());
        assert_eq!(output.data().len(), bytes.len());
        assert_pattern(&output.data(), 0);
        assert_eq!(exits.get(), [ExitStatus::Code(0)]);
        lp.close(stdin).unwrap();
        lp.close(stdout).unwrap();

        // One descriptor for both.
        let (log, exits) = (Log::default(), Exits::default());
        let child = shell("cat <&3 >&3")
            .with_descriptor(3, Stdio::both_ways(Script::new(&log)))
            .spawn(lp, noted(&exits))
            .unwrap();
        let [(3, stream)] = child.others[..] else {
            panic!("{:?}", child.others);
        };
        assert_eq!(lp.kind(stream).unwrap(), Kind::Local);
        stream.write(lp, b"there and back").unwrap();
        stream.shutdown(lp, |_, _, _| ()).unwrap();
        run_until(lp, || log.has(&Event::End) && !exits.is_empty());
        assert_eq!(log.data(), b"there and back");
        lp.close(stream).unwrap();
    });
}

#[test]
fn writing_to_a_program_that_ended_is_an_error_and_no_signal() {
    in_each_way!(|lp| {
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        let (log, exits) = (Log::default(), Exits::default());
        let child = shell("exit 0")
            .stdin(Stdio::child_reads(Script::new(&log)))
            .spawn(lp, noted(&exits))
            .unwrap();
        run_until(lp, || !exits.is_empty());
        let _ = child.stdin.unwrap().write(lp, b"x");
        run_until(lp, || log.closed());
        assert!(log.has(&Event::Error(Code::EPIPE)));
    });
}

#[test]
fn descriptors_arrive_at_their_numbers_whatever_the_circle() {
    in_each_way!(|lp| {
        let here = folder("descriptors");
        let files: Vec<File> = (0..5)
            .map(|number| {
                let path = file(
                    &here,
                    &format!("{number}"),
                    0o644,
                    &format!("file {number}\n"),
                );
                File::open(path).unwrap()
            })
            .collect();
        // Each goes where the next one stands here; the last one to the place of the first.
        let places: Vec<RawFd> = files.iter().map(|file| file.as_raw_fd()).collect();
        let mut command = Command::new("/bin/sh").arg("-c");
        let script: String = places
            .iter()
            .map(|place| format!("cat /dev/fd/{place};"))
            .collect();
        command = command.arg(script);
        for (at, file) in files.into_iter().enumerate() {
            let place = places[(at + 1) % places.len()];
            command = command.with_descriptor(place, Stdio::descriptor(file));
        }
        assert_output(lp, command, "file 4\nfile 0\nfile 1\nfile 2\nfile 3\n");

        // One of ours at two places, and one at the place where it is.
        let path = file(&here, "output", 0o644, "");
        let output = File::create(&path).unwrap();
        let place = output.as_raw_fd();
        let script = format!("echo one; echo two >&2; echo three >>/dev/fd/{place}");
        let command = shell(&script)
            .stdout(output.try_clone().unwrap())
            .stderr(output.try_clone().unwrap())
            .with_descriptor(place, output);
        assert_eq!(status_of(lp, command), ExitStatus::Code(0));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\nthree\n");
        assert_output(lp, shell("cat; echo end").stdin(Stdio::null()), "end\n");
    });
}

#[test]
fn other_descriptors_are_not_inherited() {
    in_each_way!(|lp| {
        // As careless code opens it; one low, one high.
        let low: OwnedFd = File::open("/dev/null").unwrap().into();
        let high =
            unsafe { OwnedFd::from_raw_fd(libc::fcntl(low.as_raw_fd(), libc::F_DUPFD, 500)) };
        let gap = unsafe { OwnedFd::from_raw_fd(libc::fcntl(low.as_raw_fd(), libc::F_DUPFD, 100)) };
        assert!(high.as_raw_fd() >= 500 && gap.as_raw_fd() >= 100);
        unsafe { libc::fcntl(low.as_raw_fd(), libc::F_SETFD, 0) };
        let numbers = [low.as_raw_fd(), gap.as_raw_fd(), high.as_raw_fd()];
        let script = format!(
            "for n in {} {} {} 200; do [ -e /dev/fd/$n ] && echo $n; done; true",
            numbers[0], numbers[1], numbers[2]
        );
        let passed = || shell(&script).with_descriptor(200, Stdio::null());
        assert_output(lp, passed(), "200\n");
        let all = format!("{}\n{}\n{}\n200\n", numbers[0], numbers[1], numbers[2]);
        assert_output(lp, passed().keep_descriptors(true), &all);
    });
}

#[test]
fn standard_descriptors_that_are_closed_here_are_null_there() {
    in_each_way!(|lp| {
        // What the loop needs for it is there.
        status_of(lp, shell(":"));
        let saved = unsafe { OwnedFd::from_raw_fd(libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 100)) };
        unsafe { libc::close(0) };
        let outcome = output_of(lp, shell("cat; [ -e /dev/fd/0 ] && echo open"));
        // And when the child's pipes get those numbers here.
        let again = output_of(lp, shell("cat; echo end").stderr(Stdio::null()));
        unsafe { libc::dup2(saved.as_raw_fd(), 0) };
        assert_eq!(outcome.0, "open\n");
        assert_eq!(again.0, "end\n");
    });
}

#[test]
fn signals_are_as_a_program_expects_them() {
    extern "C" fn handler(_: libc::c_int) {}
    in_each_way!(|lp| {
        unsafe {
            libc::signal(
                libc::SIGUSR1,
                handler as extern "C" fn(_) as libc::sighandler_t,
            );
            libc::signal(libc::SIGUSR2, libc::SIG_IGN);
            libc::signal(libc::SIGPIPE, libc::SIG_IGN);
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGTERM);
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        }
        let (text, _) = output_of(lp, Command::new("cat").arg("/proc/self/status"));
        let mask = |name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap();
            u64::from_str_radix(line.trim(), 16).unwrap()
        };
        let bit = |number: i32| 1u64 << (number - 1);
        assert_eq!(mask("SigBlk:"), 0);
        assert_eq!(mask("SigCgt:"), 0);
        assert_eq!(mask("SigIgn:") & bit(libc::SIGUSR2), bit(libc::SIGUSR2));
        assert_eq!(mask("SigIgn:") & bit(libc::SIGPIPE), 0);
        // Ours are as they were.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut set);
            assert_eq!(libc::sigismember(&set, libc::SIGTERM), 1);
            assert_eq!(libc::sigismember(&set, libc::SIGHUP), 0);
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(libc::SIGUSR1, std::ptr::null(), &mut action);
            assert_eq!(
                action.sa_sigaction,
                handler as extern "C" fn(_) as libc::sighandler_t
            );
        }
    });
}

#[test]
fn groups_and_sessions() {
    in_each_way!(|lp| {
        // pid, process group, session
        let script = "read -r pid _ _ _ group session _ < /proc/self/stat; \
                      [ $pid = $group ] && echo leads-group; [ $pid = $session ] && echo leads-session; true";
        assert_output(lp, shell(script), "");
        assert_output(lp, shell(script).new_group(), "leads-group\n");
        assert_output(
            lp,
            shell(script).new_session(),
            "leads-group\nleads-session\n",
        );

        let exits = Exits::default();
        let leader = sleeping().new_group();
        let leader = leader.spawn(lp, noted(&exits)).unwrap().process;
        let member = Command::new("sleep")
            .arg("600")
            .join_group(leader.pid(lp).unwrap());
        let member = member.spawn(lp, noted(&exits)).unwrap().process;
        assert_eq!(
            code(member.kill_group(lp, 0)),
            Code::EINVAL,
            "only of a leader"
        );
        leader.kill_group(lp, 0).unwrap();
        leader.kill_group(lp, libc::SIGTERM).unwrap();
        run_until(lp, || exits.len() == 2);
        assert!(exits
            .get()
            .iter()
            .all(|status| status.signal() == Some(libc::SIGTERM)));
    });
}

#[cfg(target_os = "linux")]
#[test]
fn what_a_leader_leaves_behind_can_be_killed_when_it_has_ended() {
    in_each_way!(|lp| {
        let (log, exits) = (Log::default(), Exits::default());
        let list = exits.clone();
        // The one in the background holds the pipe open.
        let child = shell("sleep 600 & exit 5")
            .new_group()
            .stdout(Stdio::child_writes(
                Script::new(&log).on_end(|lp, stream| lp.close(stream).unwrap()),
            ))
            .spawn(lp, move |lp, process, status| {
                list.push(status);
                process.kill_group(lp, libc::SIGKILL).unwrap();
            });
        child.unwrap();
        run_until(lp, || log.closed());
        assert_eq!(exits.get(), [ExitStatus::Code(5)]);
    });
}

#[test]
fn limits_mask_and_niceness() {
    in_each_way!(|lp| {
        let files = shell("ulimit -Sn; ulimit -Hn").limit(libc::RLIMIT_NOFILE as i32, 40, 50);
        assert_output(lp, files, "40\n50\n");
        let core = shell("ulimit -c").limit(libc::RLIMIT_CORE as i32, 0, UNLIMITED);
        assert_output(lp, core, "0\n");
        assert_output(lp, shell("umask").umask(0o027), "0027\n");
        let now = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        assert_output(
            lp,
            Command::new("nice").nice(3),
            &format!("{}\n", (now + 3).min(19)),
        );
        // A limit below the numbers that descriptors are given.
        let passed = shell("cat /dev/null; echo ran")
            .with_descriptor(60, Stdio::null())
            .limit(libc::RLIMIT_NOFILE as i32, 20, 20);
        assert_output(lp, passed, "ran\n");
        // A processor-time limit ends it.
        let busy = shell("while :; do :; done").limit(libc::RLIMIT_CPU as i32, 1, 1);
        assert!(status_of(lp, busy).signal().is_some());
    });
}

#[test]
fn user_and_groups() {
    in_each_way!(|lp| {
        if unsafe { libc::geteuid() } != 0 {
            let wrong = failure(lp, shell(":").user(0));
            assert_eq!(wrong, (Code::EPERM, SpawnStep::Credentials));
            return;
        }
        let id = "id -u; id -g; id -G";
        assert_output(
            lp,
            shell(id).user(65534).group(65533),
            "65534\n65533\n65533\n",
        );
        let more = shell(id)
            .user(65534)
            .group(65533)
            .groups(&[65533, 1234, 5678]);
        assert_output(lp, more, "65534\n65533\n65533 1234 5678\n");
        // It can go only where that user may.
        let secret = folder("secret");
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o700)).unwrap();
        let denied = failure(lp, shell(":").user(65534).directory(&secret));
        assert_eq!(denied, (Code::EACCES, SpawnStep::Directory));
        assert_eq!(unsafe { libc::geteuid() }, 0, "we stay who we are");
    });
}

#[test]
fn a_terminal_becomes_the_controlling_one() {
    in_each_way!(|lp| {
        let (main, other) = unsafe {
            let (mut main, mut other) = (-1, -1);
            let null = std::ptr::null_mut();
            assert_eq!(
                libc::openpty(&mut main, &mut other, null, null.cast(), null.cast()),
                0
            );
            libc::fcntl(main, libc::F_SETFD, libc::FD_CLOEXEC);
            libc::fcntl(other, libc::F_SETFD, libc::FD_CLOEXEC);
            (OwnedFd::from_raw_fd(main), OwnedFd::from_raw_fd(other))
        };
        let script = "read -r pid _ _ _ _ session _ < /proc/self/stat; [ $pid = $session ] && : < /dev/tty && echo mine";
        assert_output(
            lp,
            shell(script).stdin(other).controlling_terminal(),
            "mine\n",
        );
        drop(main);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_program_can_be_made_to_end_with_the_thread_that_started_it() {
    in_each_way!(|lp| {
        let (mut reader, writer) = io::pipe().unwrap();
        std::thread::spawn(move || {
            let lp = Loop::new().unwrap();
            let child = Command::new("sleep")
                .arg("600")
                .parent_death_signal(libc::SIGKILL);
            child
                .with_descriptor(3, writer)
                .spawn_and_forget(&lp)
                .unwrap();
        })
        .join()
        .unwrap();
        assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0, "it has ended");
        // Its zombie was left by a loop that is gone: the next spawn takes it away.
        loop {
            status_of(lp, shell(":"));
            let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
            let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
            let left = unsafe { libc::waitid(libc::P_ALL, 0, &mut info, options) };
            if left < 0 {
                break;
            }
        }
    });
}

#[test]
fn close_lets_go_of_a_program_which_runs_on_and_leaves_no_zombie() {
    in_each_way!(|lp| {
        let (mut reader, writer) = io::pipe().unwrap();
        let exits = Exits::default();
        let closed = Shared::<usize>::default();
        let child = shell("read line; echo $line >&3")
            .stdin(Stdio::child_reads(|_: &Loop, _: Stream, _: &[u8]| ()))
            .with_descriptor(3, writer)
            .spawn(lp, noted(&exits))
            .unwrap();
        let count = closed.clone();
        lp.on_close(child.process, move |_, _| count.add()).unwrap();
        lp.close(child.process).unwrap();
        assert_eq!(code(child.process.pid(lp)), Code::EBADF);
        run_until(lp, || closed.get() == 1);
        assert_eq!(exits.holders(), 0, "its callback is dropped");
        let pipe = child.stdin.unwrap();
        assert_eq!(
            lp.handles(),
            [pipe.id()],
            "what waits for it is not the user's"
        );
        assert_eq!(lp.metrics().handles, 1);
        // It runs on.
        pipe.write(lp, b"still here\n").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "still here\n");
        // And is waited for, by whatever turns there are.
        while has_children() {
            run_for(lp, Duration::from_millis(1));
        }
        assert!(exits.is_empty());
        lp.close(pipe).unwrap();
        run_to_end(lp);
    });
}

fn has_children() -> bool {
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    unsafe { libc::waitid(libc::P_ALL, 0, &mut info, options) == 0 }
}

#[test]
fn kill_on_close_ends_it_also_when_the_loop_goes() {
    in_each_way!(|lp| {
        let exits = Exits::default();
        let start = |lp: &Loop| {
            let sleep = sleeping().kill_on_close(true);
            sleep.spawn(lp, noted(&exits)).unwrap().process
        };
        lp.close(start(lp)).unwrap();
        while has_children() {
            run_for(lp, Duration::from_millis(1));
        }
        let other = Loop::new().unwrap();
        start(&other);
        let closed = Shared::<usize>::default();
        let count = closed.clone();
        other
            .on_close(start(&other), move |_, _| count.add())
            .unwrap();
        drop(other);
        assert_eq!(closed.get(), 1);
        assert_no_children();
        assert!(exits.is_empty());
        assert_eq!(exits.holders(), 0);
    });
}

#[test]
fn a_loop_that_goes_leaves_its_programs_to_the_next() {
    in_each_way!(|lp| {
        let other = Loop::new().unwrap();
        let child =
            Command::new("cat").stdin(Stdio::child_reads(|_: &Loop, _: Stream, _: &[u8]| ()));
        child
            .spawn(&other, |_, _, _| panic!("the loop is gone"))
            .unwrap();
        assert!(has_children());
        // Its pipe ends with the loop, and so does it.
        drop(other);
        while {
            status_of(lp, shell(":"));
            has_children()
        } {}
        assert_no_children();
    });
}

#[test]
fn five_hundred_that_end_at_once_are_each_told_once() {
    in_each_way!(|lp| {
        const COUNT: usize = 500;
        let (gate, opens) = io::pipe().unwrap();
        let told = Shared::<Vec<usize>>::default();
        let data = Shared::<usize>::default();
        for number in 0..COUNT {
            let (list, count) = (told.clone(), data.clone());
            let command = match number % 4 {
                0 => shell("read x; exit 7").stdin(gate.try_clone().unwrap()),
                1 => shell("read x; kill -9 $$").stdin(gate.try_clone().unwrap()),
                _ => Command::new("cat").stdin(gate.try_clone().unwrap()),
            };
            let output = move |_: &Loop, _: Stream, data: &[u8]| count.with(|n| *n += data.len());
            let child = command.stdout(Stdio::child_writes(output)).spawn(
                lp,
                move |lp, process, status| {
                    list.push(number);
                    match number % 4 {
                        0 => assert_eq!(status, ExitStatus::Code(7)),
                        1 => assert_eq!(status.signal(), Some(libc::SIGKILL)),
                        2 => assert_eq!(status, ExitStatus::Code(0)),
                        _ => {
                            assert_eq!(status.signal(), Some(libc::SIGTERM));
                            assert_eq!(code(process.kill(lp, 0)), Code::ESRCH);
                        }
                    }
                    if number % 8 == 0 {
                        lp.close(process).unwrap();
                    }
                },
            );
            let child: Child = child.unwrap();
            if number % 4 == 3 {
                child.process.kill(lp, libc::SIGTERM).unwrap();
            }
        }
        // Other traffic meanwhile: a timer, a signal, another child now and then.
        let ticks = Shared::<usize>::default();
        let count = ticks.clone();
        let timer = Timer::open(lp, move |_, _| count.add()).unwrap();
        timer
            .start_repeating(lp, Duration::from_millis(1), Duration::from_millis(1))
            .unwrap();
        let signal = Signal::open(lp, |_, _, _| ()).unwrap();
        signal.start(lp, libc::SIGCHLD).unwrap();
        drop(gate);
        drop(opens);
        run_until(lp, || told.len() == COUNT);
        lp.close(timer).unwrap();
        lp.close(signal).unwrap();
        let mut numbers = told.take();
        numbers.sort();
        assert!(numbers.into_iter().eq(0..COUNT));
        run_to_end(lp);
        assert!(lp.handles().is_empty());
    });
}

#[test]
fn one_after_the_other_each_started_by_the_end_of_the_last() {
    fn next(lp: &Loop, left: usize, told: Shared<usize>) {
        told.add();
        if left > 0 {
            let again = move |lp: &Loop, _: Process, status: ExitStatus| {
                assert!(status.success());
                next(lp, left - 1, told);
            };
            Command::new("/bin/true").spawn(lp, again).unwrap();
        }
    }
    in_each_way!(|lp| {
        let told = Shared::<usize>::default();
        next(lp, 200, told.clone());
        run_to_end(lp);
        assert_eq!(told.get(), 201);
    });
}

#[test]
fn a_panic_in_on_exit_takes_nothing_from_the_others() {
    in_each_way!(|lp| {
        let exits = Exits::default();
        let closed = Shared::<usize>::default();
        for number in 0..20 {
            let list = exits.clone();
            let child = Command::new("/bin/true").spawn(lp, move |_, _, status| {
                list.push(status);
                assert!(number % 2 == 0, "on purpose");
            });
            let count = closed.clone();
            lp.on_close(child.unwrap().process, move |_, _| count.add())
                .unwrap();
        }
        std::panic::set_hook(Box::new(|_| ()));
        let mut panics = 0;
        while closed.get() < 20 {
            panics += usize::from(
                catch_unwind(AssertUnwindSafe(|| run_until(lp, || closed.get() == 20))).is_err(),
            );
        }
        drop(std::panic::take_hook());
        assert_eq!((exits.len(), panics), (20, 10));
        run_to_end(lp);
    });
}

#[test]
fn one_can_close_another_in_its_on_exit() {
    in_each_way!(|lp| {
        let processes = Shared::<Vec<Process>>::default();
        let told = Shared::<usize>::default();
        for _ in 0..2 {
            let (all, count) = (processes.clone(), told.clone());
            let child = Command::new("/bin/true").spawn(lp, move |lp, process, _| {
                count.add();
                for other in all.take() {
                    let _ = (other != process).then(|| lp.close(other));
                }
            });
            processes.push(child.unwrap().process);
        }
        run_to_end(lp);
        assert_eq!(told.get(), 1);
        while has_children() {
            run_for(lp, Duration::from_millis(1));
        }
    });
}

#[test]
fn somebody_else_may_take_the_status() {
    in_each_way!(|lp| {
        let exits = Exits::default();
        let usage = Shared::new(None);
        let (list, seen) = (exits.clone(), usage.clone());
        let child = shell("exit 9").spawn(lp, move |lp, process, status| {
            list.push(status);
            seen.set(Some(code(process.usage(lp))));
        });
        let pid = child.unwrap().process.pid(lp).unwrap();
        assert_eq!(unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) }, pid);
        run_until(lp, || !exits.is_empty());
        assert_eq!(exits.take(), [ExitStatus::Unknown]);
        assert_eq!(usage.get(), Some(Code::ECHILD));
        run_to_end(lp);

        // The system throws it away.
        let child =
            Command::new("cat").stdin(Stdio::child_reads(|_: &Loop, _: Stream, _: &[u8]| ()));
        let child = child.spawn(lp, noted(&exits)).unwrap();
        some_turns(lp);
        let former = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        lp.close(child.stdin.unwrap()).unwrap();
        run_until(lp, || !exits.is_empty());
        assert_eq!(exits.take(), [ExitStatus::Unknown]);
        unsafe { libc::signal(libc::SIGCHLD, former) };
        run_to_end(lp);
    });
}

#[test]
fn children_of_other_code_are_left_to_it() {
    in_each_way!(|lp| {
        let mut theirs = std::process::Command::new("/bin/sh")
            .args(["-c", "exit 4"])
            .spawn()
            .unwrap();
        for _ in 0..20 {
            assert_eq!(
                status_of(lp, Command::new("/bin/true")),
                ExitStatus::Code(0)
            );
        }
        assert_eq!(theirs.wait().unwrap().code(), Some(4));
    });
}

#[test]
fn without_descriptors_the_call_fails_and_leaves_nothing() {
    in_each_way!(|lp| {
        // What a first child needs is there.
        assert_eq!(status_of(lp, shell("exit 0")), ExitStatus::Code(0));
        let mut limit: libc::rlimit = unsafe { std::mem::zeroed() };
        unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
        let soft = limit.rlim_cur;
        let lowest = unsafe { libc::fcntl(0, libc::F_DUPFD, 0) };
        unsafe { libc::close(lowest) };
        let mut codes = Vec::new();
        // One more at each try, until there are enough.
        for spare in 0..40 {
            limit.rlim_cur = (lowest + spare) as libc::rlim_t;
            let before = open_descriptors();
            let log = Log::default();
            let command = Command::new("/bin/true")
                .stdin(Stdio::null())
                .stdout(Stdio::child_writes(
                    Script::new(&log).on_end(|lp, s| lp.close(s).unwrap()),
                ))
                .stderr(Stdio::both_ways(
                    Script::new(&log).on_end(|lp, s| lp.close(s).unwrap()),
                ));
            let exits = Exits::default();
            unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
            let outcome = command.spawn(lp, noted(&exits));
            limit.rlim_cur = soft;
            unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
            match outcome {
                Err(failed) => {
                    codes.push(failed.error.code());
                    assert!(exits.is_empty() && log.events().is_empty());
                    assert!(lp.handles().is_empty());
                    assert!(
                        open_descriptors().len() <= before.len() + 3,
                        "only what waiting needs"
                    );
                }
                Ok(_) => {
                    run_until(lp, || exits.len() == 1 && log.count(&Event::Close) == 2);
                    break;
                }
            }
        }
        assert!(
            !codes.is_empty() && codes.iter().all(|code| *code == Code::EMFILE),
            "{codes:?}"
        );
        run_to_end(lp);
    });
}

#[test]
fn a_fork_of_the_parent_has_no_children() {
    in_each_way!(|lp| {
        let exits = Exits::default();
        let child =
            Command::new("cat").stdin(Stdio::child_reads(|_: &Loop, _: Stream, _: &[u8]| ()));
        let child = child.kill_on_close(true).spawn(lp, noted(&exits)).unwrap();
        let pid = child.process.pid(lp).unwrap();
        match unsafe { libc::fork() } {
            0 => {
                // The handle is there, but nobody's child; letting go of it harms nobody.
                let fine = catch_unwind(AssertUnwindSafe(|| {
                    assert_eq!(code(child.process.kill(lp, 0)), Code::EFORKED);
                    lp.forked().unwrap();
                    assert_eq!(status_of(lp, shell("exit 6")), ExitStatus::Code(6));
                    // It may have been told already that the end will be unknown.
                    let _ = lp.close(child.process);
                    some_turns(lp);
                    kolo::kill(pid, 0).unwrap();
                }));
                unsafe { libc::_exit(if fine.is_ok() { 0 } else { 1 }) };
            }
            fork => {
                let mut status = 0;
                assert_eq!(unsafe { libc::waitpid(fork, &mut status, 0) }, fork);
                assert_eq!(status, 0);
            }
        }
        child.process.kill(lp, 0).unwrap();
        assert!(exits.is_empty());
        lp.close(child.stdin.unwrap()).unwrap();
        run_to_end(lp);
        assert_eq!(exits.get(), [ExitStatus::Code(0)]);
    });
}

#[test]
fn loops_in_several_threads_spawn_at_once() {
    in_each_way!(|lp| {
        let ended = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let ended = &ended;
                scope.spawn(move || {
                    let lp = Loop::new().unwrap();
                    for round in 0..25 {
                        let code = thread * 25 + round;
                        let (text, status) =
                            output_of(&lp, shell(&format!("echo {code}; exit {code}")));
                        assert_eq!(
                            (text, status),
                            (format!("{code}\n"), ExitStatus::Code(code))
                        );
                        ended.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(ended.load(Ordering::Relaxed), 100);
        some_turns(lp);
    });
}

#[test]
fn an_unreferenced_program_does_not_hold_the_loop() {
    in_each_way!(|lp| {
        let exits = Exits::default();
        let child =
            Command::new("cat").stdin(Stdio::child_reads(|_: &Loop, _: Stream, _: &[u8]| ()));
        let child = child.spawn(lp, noted(&exits)).unwrap();
        lp.unref(child.process).unwrap();
        run_to_end(lp);
        assert!(exits.is_empty());
        lp.reference(child.process).unwrap();
        lp.close(child.stdin.unwrap()).unwrap();
        run_to_end(lp);
        assert_eq!(exits.get(), [ExitStatus::Code(0)]);
    });
}

#[cfg(feature = "net")]
#[test]
fn a_socket_that_a_program_still_has_does_not_wake_the_loop_when_it_is_closed_here() {
    in_each_way!(|lp| {
        let log = Log::default();
        let exits = Exits::default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stream = kolo::TcpStream::connect(lp, address, Script::new(&log)).unwrap();
        run_until(lp, || log.has(&Event::Open));
        let (mut peer, _) = listener.accept().unwrap();
        let raw = stream.raw_socket(lp).unwrap();
        let copy = unsafe { BorrowedFd::borrow_raw(raw) }
            .try_clone_to_owned()
            .unwrap();
        let child = sleeping().stdin(copy);
        let child = child.spawn(lp, noted(&exits)).unwrap();
        lp.close(stream).unwrap();
        some_turns(lp);
        peer.write_all(b"x").unwrap();
        let mut wakes = libc::pollfd {
            fd: lp.backend_descriptor().unwrap(),
            events: libc::POLLIN,
            revents: 0,
        };
        assert_eq!(unsafe { libc::poll(&mut wakes, 1, 20) }, 0);
        child.process.kill(lp, libc::SIGKILL).unwrap();
        run_to_end(lp);
        assert_eq!(log.events(), [Event::Open, Event::Close]);
    });
}
