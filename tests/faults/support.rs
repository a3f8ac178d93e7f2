//! What the tests of faults share: how faults are counted, processes and networks of their own, descriptors.

use std::os::fd::RawFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Once;

static FAULTS: AtomicU32 = AtomicU32::new(0);
static SKIPPED: AtomicU32 = AtomicU32::new(0);

/// Counts faults that were made. The sum is printed when the process ends.
pub fn faults(count: u32) {
    print_at_the_end();
    FAULTS.fetch_add(count, Ordering::Relaxed);
}

/// Says aloud that so many faults cannot be made here, and why.
pub fn skipped(count: u32, why: &str) {
    print_at_the_end();
    SKIPPED.fetch_add(count, Ordering::Relaxed);
    write_out(&format!("skipped: {why}\n"));
}

fn print_at_the_end() {
    extern "C" fn print() {
        let (made, not) = (
            FAULTS.load(Ordering::Relaxed),
            SKIPPED.load(Ordering::Relaxed),
        );
        write_out(&format!(
            "figure: faults {made} faults\nfigure: faults-skipped {not} faults\n"
        ));
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        unsafe { libc::atexit(print) };
    });
}

/// To the standard output itself, which the test harness does not hold back.
fn write_out(text: &str) {
    unsafe { libc::write(1, text.as_ptr().cast(), text.len()) };
}

/// The path of the test that calls it, as the harness knows it.
#[macro_export]
macro_rules! test_name {
    () => {{
        fn here() {}
        // "faults::module::test::here", maybe with "::{{closure}}" between.
        let path = std::any::type_name_of_val(&here);
        let path = path.split_once("::").unwrap().1;
        path.rsplit_once("::here")
            .unwrap()
            .0
            .trim_end_matches("::{{closure}}")
    }};
}

/// Runs the test in a process of its own: without threads of other tests, with limits, handlers and descriptors of its
/// own.
#[macro_export]
macro_rules! own_process {
    ($test:expr) => {{
        let name = $crate::test_name!();
        $crate::support::in_own_process(name, $test);
    }};
}

const OWN: &str = "KOLO_TEST_IN_OWN_PROCESS";

/// The arguments with which this program runs one test.
pub fn arguments(name: &str) -> [&str; 5] {
    [
        name,
        "--exact",
        "--include-ignored",
        "--nocapture",
        "--test-threads=1",
    ]
}

pub fn in_own_process(name: &str, test: impl FnOnce()) {
    in_own_process_with(name, &[], test);
}

/// With these variables in its environment.
pub fn in_own_process_with(name: &str, variables: &[(&str, &str)], test: impl FnOnce()) {
    if std::env::var(OWN).is_ok_and(|own| own == name) {
        // What was inherited would be in the way of those who count.
        unsafe { libc::close_range(3, u32::MAX, 0) };
        return test();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(arguments(name))
        .env(OWN, name)
        .envs(variables.iter().copied());
    finished(name, command.output().unwrap());
}

/// The test ran well in the other process: counts what it counted.
fn finished(name: &str, output: std::process::Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{name}: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let mut figures = (0, 0);
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["figure:", "faults", count, _] => figures.0 += count.parse::<u32>().unwrap(),
            ["figure:", "faults-skipped", count, _] => figures.1 += count.parse::<u32>().unwrap(),
            ["skipped:", ..] => write_out(&format!("{line}\n")),
            _ => {}
        }
    }
    print_at_the_end();
    FAULTS.fetch_add(figures.0, Ordering::Relaxed);
    SKIPPED.fetch_add(figures.1, Ordering::Relaxed);
}

/// Runs the test in a process with namespaces of its own, made by unshare(1) with these options (beside a user's, in
/// which it is root), after a shell has run `set_up` there. `faults` is how many are skipped where that is not
/// permitted, or a line of `set_up` that ends in `|| exit 77` fails.
#[macro_export]
macro_rules! own_namespaces {
    ($options:expr, $set_up:expr, $faults:expr, $test:expr) => {{
        let name = $crate::test_name!();
        $crate::support::in_own_namespaces(name, &$options, $set_up, $faults, $test);
    }};
}

pub fn in_own_namespaces(
    name: &str,
    options: &[&str],
    set_up: &str,
    faults: u32,
    test: impl FnOnce(),
) {
    if std::env::var(OWN).is_ok_and(|own| own == name) {
        return test();
    }
    let output = Command::new("unshare")
        .arg("--map-root-user")
        .args(options)
        .args(["sh", "-c", &format!("{set_up}\nexec \"$@\""), "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(arguments(name))
        .env(OWN, name)
        .output();
    match output {
        Err(error) => skipped(faults, &format!("{name}: no unshare(1): {error}")),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            if output.status.code() == Some(77) || text.starts_with("unshare: ") {
                let why = text.lines().last().unwrap_or_default();
                return skipped(faults, &format!("{name}: {why}"));
            }
            finished(name, output);
        }
    }
}

/// The descriptors that this process has open. Needs none itself.
pub fn open_descriptors() -> Vec<RawFd> {
    (0..1 << 15).filter(|at| is_open(*at)).collect()
}

pub fn is_open(descriptor: RawFd) -> bool {
    unsafe { libc::fcntl(descriptor, libc::F_GETFD) >= 0 }
}

/// A folder that goes with its owner.
pub struct Folder(pub std::path::PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("kolo-faults-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Folder(path)
    }

    pub fn at(&self, name: &str) -> std::path::PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A terminal, and the other end of it, where its keys are typed.
pub fn terminal() -> std::io::Result<(std::fs::File, std::os::fd::OwnedFd)> {
    use std::os::fd::{FromRawFd, OwnedFd};
    let (mut emulator, mut terminal) = (-1, -1);
    let nothing = std::ptr::null_mut::<libc::c_void>();
    let outcome = unsafe {
        libc::openpty(
            &mut emulator,
            &mut terminal,
            nothing.cast(),
            nothing as *mut _,
            nothing as *mut _,
        )
    };
    if outcome < 0 {
        return Err(std::io::Error::last_os_error());
    }
    unsafe {
        Ok((
            std::fs::File::from_raw_fd(emulator),
            OwnedFd::from_raw_fd(terminal),
        ))
    }
}
