//! Disks that fill up, become read-only and go.

use std::path::Path;

use kolo::fs::{self, CopyFlags, OpenFlags, Transferred};
use kolo::{Code, File, LocalStream, Loop, Watch, WatchOptions};

use crate::common::*;
use crate::own_namespaces;
use crate::support::faults;

const OPTIONS: [&str; 1] = ["--mount"];

/// A file system of a megabyte, with room for twenty files.
const SET_UP: &str = "mount -t tmpfs -o size=1m,nr_inodes=20 none /mnt || exit 77";

const ALL: OpenFlags = OpenFlags::READ
    .union(OpenFlags::WRITE)
    .union(OpenFlags::CREATE);

const BLOCK: usize = 64 * 1024;

/// The outcomes of requests, in the order in which they are told.
type Outcomes<T> = Shared<Vec<T>>;

/// A call's outcome.
fn done(lp: &Loop, call: fs::Call<()>) -> Result<(), Code> {
    let outcomes = Outcomes::default();
    let told = outcomes.clone();
    call.start(lp, move |_, outcome| told.push(outcome))
        .unwrap();
    run_until(lp, || !outcomes.is_empty());
    outcomes.take().remove(0).map_err(kolo::Error::code)
}

fn remove(name: &str) {
    std::fs::remove_file(Path::new("/mnt").join(name)).unwrap();
}

/// Writes so many blocks at once, each with its number; what each is told.
fn write_blocks(
    lp: &Loop,
    file: File,
    numbers: std::ops::Range<usize>,
) -> Vec<(usize, usize, Option<Code>)> {
    let outcomes = Outcomes::default();
    let count = numbers.len();
    for number in numbers {
        let told = outcomes.clone();
        let done = move |_: &Loop, it: Transferred<Vec<u8>>| {
            assert_eq!(it.buffer.len(), BLOCK, "the memory comes back");
            told.push((number, it.length, it.outcome.err().map(kolo::Error::code)));
        };
        let at = (number * BLOCK) as u64;
        file.write(lp, at, vec![number as u8 + 1; BLOCK], done)
            .unwrap();
    }
    run_until(lp, || outcomes.len() == count);
    let mut all = outcomes.take();
    all.sort_unstable_by_key(|(number, ..)| *number);
    all
}

#[test]
fn on_a_full_disk_each_write_tells_what_it_wrote_and_goes_on_when_there_is_room() {
    own_namespaces!(OPTIONS, SET_UP, 40, || {
        each_driver(|lp| {
            let file = File::open_sync(&lp, "/mnt/file", ALL).unwrap();
            std::fs::write("/mnt/ballast", vec![0; 500_000]).unwrap();
            let outcomes = write_blocks(&lp, file, 0..32);
            assert!(outcomes.iter().any(|(_, length, _)| *length == BLOCK));
            let mut failed = 0;
            for (number, length, error) in &outcomes {
                match error {
                    None => assert_eq!(*length, BLOCK),
                    Some(code) => {
                        assert_eq!(*code, Code::ENOSPC);
                        assert!(*length < BLOCK);
                        failed += 1;
                    }
                }
                // What it says that it wrote is there.
                let mut bytes = vec![0; *length];
                let whole = std::fs::File::open("/mnt/file").unwrap();
                std::os::unix::fs::FileExt::read_exact_at(
                    &whole,
                    &mut bytes,
                    (number * BLOCK) as u64,
                )
                .unwrap();
                assert!(bytes.iter().all(|byte| *byte as usize == number + 1));
            }
            assert!(failed > 10, "{failed}");
            faults(failed);
            // Nothing of it can be synced away, and nothing is wrong with the file.
            assert_eq!(done(&lp, file.fsync(&lp)), Ok(()));
            assert_eq!(done(&lp, file.truncate(&lp, 0)), Ok(()));
            remove("ballast");
            for (_, length, error) in write_blocks(&lp, file, 0..10) {
                assert_eq!((length, error), (BLOCK, None));
            }
            lp.close(file).unwrap();
            run_to_end(&lp);
            remove("file");
        });
    });
}

#[test]
fn where_no_more_files_can_be_made_each_making_says_so() {
    own_namespaces!(OPTIONS, SET_UP, 7, || {
        each_driver(|lp| {
            let mut ballast = Vec::new();
            while std::fs::File::create(format!("/mnt/{}", ballast.len())).is_ok() {
                ballast.push(ballast.len().to_string());
            }
            // The one that did not work.
            assert!(ballast.len() > 10);
            std::fs::write("/tmp/kolo-faults-source", "x").unwrap();
            let made = File::open_sync(&lp, "/mnt/new", ALL).map(drop);
            assert_eq!(code(made), Code::ENOSPC);
            assert_eq!(done(&lp, fs::mkdir("/mnt/new", 0o700)), Err(Code::ENOSPC));
            assert_eq!(done(&lp, fs::symlink("x", "/mnt/new")), Err(Code::ENOSPC));
            let copied = fs::copy("/tmp/kolo-faults-source", "/mnt/new", CopyFlags::empty()).wait();
            assert_eq!(code(copied), Code::ENOSPC);
            let made = fs::mkdtemp("/mnt/new-").wait();
            assert_eq!(code(made), Code::ENOSPC);
            let listening =
                kolo::LocalListener::listen(&lp, "/mnt/new", |_: &Loop, _, _: LocalStream| ());
            assert_eq!(code(listening), Code::ENOSPC);
            assert!(!Path::new("/mnt/new").exists());
            // What needs no new file goes on, and when there is room again everything does.
            assert_eq!(done(&lp, fs::rename("/mnt/0", "/mnt/zero")), Ok(()));
            remove("zero");
            assert_eq!(done(&lp, fs::mkdir("/mnt/new", 0o700)), Ok(()));
            std::fs::remove_dir("/mnt/new").unwrap();
            ballast[1..].iter().for_each(|name| remove(name));
            std::fs::remove_file("/tmp/kolo-faults-source").unwrap();
            faults(6);
        });
    });
}

#[test]
fn a_disk_that_becomes_read_only_says_so() {
    own_namespaces!(OPTIONS, SET_UP, 4, || {
        let remount = |how: &str| {
            let mut mount = std::process::Command::new("mount");
            assert!(mount.args(["-o", how, "/mnt"]).status().unwrap().success());
        };
        each_driver(|lp| {
            remount("remount,rw");
            std::fs::write("/mnt/file", "x").unwrap();
            remount("remount,ro");
            let opened = File::open_sync(&lp, "/mnt/file", OpenFlags::WRITE).map(drop);
            assert_eq!(code(opened), Code::EROFS);
            assert_eq!(done(&lp, fs::mkdir("/mnt/new", 0o700)), Err(Code::EROFS));
            assert_eq!(done(&lp, fs::unlink("/mnt/file")), Err(Code::EROFS));
            assert_eq!(done(&lp, fs::chmod("/mnt/file", 0o600)), Err(Code::EROFS));
            let file = File::open_sync(&lp, "/mnt/file", OpenFlags::READ).unwrap();
            lp.close(file).unwrap();
            run_to_end(&lp);
            faults(4);
        });
    });
}

#[test]
fn a_watched_disk_that_is_unmounted_is_told_and_the_watch_rests() {
    let can_mount = "mount -t tmpfs none /mnt && umount /mnt || exit 77";
    own_namespaces!(OPTIONS, can_mount, 2, || {
        let run = |program: &str, arguments: &[&str]| {
            let status = std::process::Command::new(program).args(arguments).status();
            status.is_ok_and(|status| status.success())
        };
        each_driver(|lp| {
            assert!(run("mount", &["-t", "tmpfs", "none", "/mnt"]));
            std::fs::create_dir_all("/mnt/watched/below").unwrap();
            let told = Shared::<Vec<String>>::default();
            for path in ["/mnt/watched", "/mnt"] {
                let list = told.clone();
                let mut options = WatchOptions::default();
                options.recursive = true;
                Watch::open(&lp, path, &options, move |_, _, event| {
                    list.push(format!(
                        "{:?} {:?} {:?}",
                        event.change(),
                        event.path(),
                        event.error()
                    ));
                })
                .unwrap();
            }
            run_until(&lp, || told.len() == 2);
            told.take();
            assert!(run("umount", &["-l", "/mnt"]));
            run_until(&lp, || !told.is_empty());
            let turns = lp.metrics().turns;
            run_for(&lp, std::time::Duration::from_millis(100));
            assert!(lp.metrics().turns - turns < 40, "it spins");
            let told = told.take();
            assert!(told.iter().any(|line| line.contains("REMOVED")), "{told:?}");
            for id in lp.handles() {
                lp.close(id).unwrap();
            }
            run_to_end(&lp);
            faults(2);
        });
    });
}
