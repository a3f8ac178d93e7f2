//! Descriptors that are no sockets: pipes, terminals and their like, read and written by read(2)
//! and write(2).

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use super::Descriptor;

/// A descriptor of kolo's own that does not block.
///
/// Whether calls block is a property of the open file description, which other processes may
/// share (open(2)). So where kolo changed it, it is put back when the descriptor is closed or
/// handed out.
#[derive(Debug)]
pub(crate) struct File {
    /// `None`: handed out.
    descriptor: Option<OwnedFd>,
    blocks_elsewhere: bool,
}

impl File {
    /// A descriptor whose open file description is kolo's alone. It comes back with an error.
    pub fn sole(descriptor: OwnedFd) -> std::result::Result<File, (io::Error, OwnedFd)> {
        let mut file = File::shared(descriptor)?;
        file.keep_flags();
        Ok(file)
    }

    /// A descriptor whose open file description others may use too. It comes back with an error.
    pub fn shared(descriptor: OwnedFd) -> std::result::Result<File, (io::Error, OwnedFd)> {
        match set_nonblocking(descriptor.as_raw_fd(), true) {
            Ok(blocks_elsewhere) => Ok(File {
                descriptor: Some(descriptor),
                blocks_elsewhere,
            }),
            Err(error) => Err((error, descriptor)),
        }
    }

    pub fn descriptor(&self) -> Descriptor {
        self.as_raw_fd()
    }

    /// Leaves the description as it is when this is closed: it is somebody else's to put back.
    pub fn keep_flags(&mut self) {
        self.blocks_elsewhere = false;
    }

    /// The descriptor, as it came.
    pub fn into_owned(mut self) -> Option<OwnedFd> {
        self.put_back();
        self.descriptor.take()
    }

    fn put_back(&mut self) {
        if std::mem::take(&mut self.blocks_elsewhere) {
            // Fails for no descriptor that it has worked for before.
            let _ = set_nonblocking(self.descriptor(), false);
        }
    }

    /// What has come, without waiting.
    pub fn read(&self, memory: &mut [u8]) -> io::Result<usize> {
        loop {
            // SAFETY: `memory` is ours to write to for the duration of the call.
            let length =
                unsafe { libc::read(self.descriptor(), memory.as_mut_ptr().cast(), memory.len()) };
            if length >= 0 {
                return Ok(length as usize);
            }
            match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            }
        }
    }

    /// Writes what is taken at once. A pipe without a reader is an error (`EPIPE`), and never
    /// `SIGPIPE`, whatever the program does with that signal.
    pub fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            match write_quietly(self.descriptor(), slices) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }
}

impl AsRawFd for File {
    fn as_raw_fd(&self) -> Descriptor {
        self.descriptor.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.put_back();
    }
}

/// Two ends of an anonymous pipe, the reading one first; programs that the process starts do not
/// inherit them (pipe(2)). Reading and writing them waits.
pub(crate) fn pipe() -> io::Result<[OwnedFd; 2]> {
    let mut ends = [-1; 2];
    #[cfg(not(target_vendor = "apple"))]
    // SAFETY: `ends` has room for the two descriptors.
    let outcome = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    #[cfg(target_vendor = "apple")]
    // SAFETY: as above.
    let outcome = unsafe { libc::pipe(ends.as_mut_ptr()) };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made both.
    let ends = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
    #[cfg(target_vendor = "apple")]
    for end in &ends {
        set_close_on_exec(end.as_raw_fd())?;
    }
    Ok(ends)
}

/// So that programs that the process starts do not inherit a descriptor.
#[cfg(target_vendor = "apple")]
fn set_close_on_exec(descriptor: Descriptor) -> io::Result<()> {
    // SAFETY: F_SETFD takes a number.
    match unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Has calls on the open file description (which other processes may share) wait, or not; whether
/// that changed anything.
pub(crate) fn set_nonblocking(descriptor: Descriptor, on: bool) -> io::Result<bool> {
    // SAFETY: F_GETFL reads flags; a bad descriptor is answered with an error.
    let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    let wanted = match on {
        true => flags | libc::O_NONBLOCK,
        false => flags & !libc::O_NONBLOCK,
    };
    if wanted == flags {
        return Ok(false);
    }
    // SAFETY: F_SETFL takes a number.
    match unsafe { libc::fcntl(descriptor, libc::F_SETFL, wanted) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(true),
    }
}

/// What an open descriptor is, as far as waiting for it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DescriptorType {
    Socket,
    Pipe,
    /// Always ready, so that there is nothing to wait for: regular files, folders, disks.
    Unwaitable,
    /// Terminals and other character devices, event descriptors and their like.
    Other,
}

/// What an open descriptor is (fstat(2)).
pub(crate) fn descriptor_type(descriptor: Descriptor) -> io::Result<DescriptorType> {
    // SAFETY: a zeroed stat is valid memory for the call to fill in.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `status` is valid; a bad descriptor is answered with an error.
    if unsafe { libc::fstat(descriptor, &mut status) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(match status.st_mode & libc::S_IFMT {
        libc::S_IFSOCK => DescriptorType::Socket,
        libc::S_IFIFO => DescriptorType::Pipe,
        libc::S_IFREG | libc::S_IFDIR | libc::S_IFBLK => DescriptorType::Unwaitable,
        _ => DescriptorType::Other,
    })
}

/// Takes over a descriptor that the user hands in, whose promise, given by calling the API that
/// leads here, is that it is open and from now on kolo's.
#[cfg(feature = "capi")]
pub(crate) fn take_descriptor(descriptor: Descriptor) -> io::Result<OwnedFd> {
    if descriptor < 0 || !super::is_open(descriptor) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: an open descriptor that its owner gave away.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Whether a descriptor was opened for reading, and for writing.
pub(crate) fn access(descriptor: Descriptor) -> io::Result<(bool, bool)> {
    // SAFETY: F_GETFL reads flags; a bad descriptor is answered with an error.
    let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    let mode = flags & libc::O_ACCMODE;
    Ok((mode != libc::O_WRONLY, mode != libc::O_RDONLY))
}

/// An open file description of our own for what a descriptor refers to; `None` where that cannot
/// be had. Only for anonymous pipes and terminals: opening other things once more is not the same
/// (a named pipe would wait for a new peer, a device may start over).
#[cfg(target_os = "linux")]
pub(crate) fn reopen(descriptor: Descriptor) -> Option<OwnedFd> {
    let link = format!("/proc/self/fd/{descriptor}");
    let target = std::fs::read_link(&link).ok()?;
    // SAFETY: isatty looks at a descriptor; a bad one is no terminal.
    let terminal = unsafe { libc::isatty(descriptor) } == 1;
    if !terminal && !target.as_os_str().as_encoded_bytes().starts_with(b"pipe:") {
        return None;
    }
    let (reads, writes) = access(descriptor).ok()?;
    open_waiting_for_nobody(link.as_ref(), reads, writes).ok()
}

/// An open file description of our own: not to be had here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn reopen(_descriptor: Descriptor) -> Option<OwnedFd> {
    None
}

/// Opens a named pipe for reading or for writing, without waiting for the other side (fifo(7)).
pub(crate) fn open_fifo(path: &Path, writes: bool) -> io::Result<OwnedFd> {
    use std::os::unix::fs::FileTypeExt;
    // Opening a device can do things.
    let is_fifo = |found: std::fs::Metadata| found.file_type().is_fifo();
    if !is_fifo(std::fs::metadata(path)?) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let end = open_waiting_for_nobody(path, !writes, writes)?;
    match descriptor_type(end.as_raw_fd())? {
        DescriptorType::Pipe => Ok(end),
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

fn open_waiting_for_nobody(path: &Path, reads: bool, writes: bool) -> io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    options.read(reads).write(writes).custom_flags(flags);
    options.open(path).map(OwnedFd::from)
}

fn write_plainly(at: Descriptor, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: `IoSlice` has the layout of `iovec`; the memory is readable for the duration of the
    // call.
    let length = unsafe { libc::writev(at, slices.as_ptr().cast(), slices.len() as libc::c_int) };
    if length < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(length as usize)
}

#[cfg(target_os = "linux")]
fn write_quietly(at: Descriptor, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    use std::sync::atomic::{AtomicBool, Ordering};

    /// `RWF_NOSIGNAL` (Linux 6.18): the call itself leaves the signal out.
    const NO_SIGNAL: libc::c_long = 0x100;
    /// Where the current position is meant, as writev(2) means it.
    const NOWHERE: libc::c_long = -1;
    /// Whether kernel and file may know the flag.
    static KNOWN: AtomicBool = AtomicBool::new(true);

    if KNOWN.load(Ordering::Relaxed) {
        // SAFETY: as in `write_plainly`. The raw system call is used since older C libraries lack
        // the wrapper.
        let length = unsafe {
            // As wide as the registers: a narrower number in a list of any arguments has no upper half.
            let at = libc::c_long::from(at);
            let (base, count) = (slices.as_ptr(), slices.len());
            libc::syscall(
                libc::SYS_pwritev2,
                at,
                base,
                count,
                NOWHERE,
                NOWHERE,
                NO_SIGNAL,
            )
        };
        if length >= 0 {
            return Ok(length as usize);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS | libc::EPERM) => {
                KNOWN.store(false, Ordering::Relaxed);
            }
            _ => return Err(error),
        }
    }
    signals::without_sigpipe(|| write_plainly(at, slices))
}

#[cfg(target_vendor = "apple")]
fn write_quietly(at: Descriptor, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: F_SETNOSIGPIPE takes a number (fcntl(2) of Darwin).
    unsafe { libc::fcntl(at, libc::F_SETNOSIGPIPE, 1) };
    write_plainly(at, slices)
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn write_quietly(at: Descriptor, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    signals::without_sigpipe(|| write_plainly(at, slices))
}

#[cfg(not(target_vendor = "apple"))]
#[cfg_attr(not(all(target_os = "linux", feature = "fs")), allow(unused_imports))]
pub(crate) use signals::without_sigpipe;

#[cfg(not(target_vendor = "apple"))]
mod signals {
    use std::io;
    use std::mem::zeroed;
    use std::ptr::{null, null_mut};

    /// Runs a write that may raise `SIGPIPE`, and lets nobody notice that it did.
    ///
    /// The signal is for the thread that writes. So it is blocked there for as long, and taken
    /// away if the write has raised it. Not if it was pending before: then it is somebody else's,
    /// and another one changes nothing.
    pub fn without_sigpipe(write: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
        if is_ignored() {
            return write();
        }
        let only = only_sigpipe();
        // SAFETY: a signal set of zeros is valid memory for the calls to fill in.
        let mut before: libc::sigset_t = unsafe { zeroed() };
        // SAFETY: both sets are valid.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &only, &mut before) };
        // SAFETY: `before` was filled in.
        let was_blocked = unsafe { libc::sigismember(&before, libc::SIGPIPE) } == 1;
        let was_pending = was_blocked && is_pending();
        let outcome = write();
        // Not only after EPIPE: a reader may go in the middle, and then what was taken before is told.
        if !was_pending {
            take(&only);
        }
        // SAFETY: the mask as it was.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, null_mut()) };
        outcome
    }

    pub(super) fn only_sigpipe() -> libc::sigset_t {
        // SAFETY: a signal set of zeros is valid memory for the calls to fill in.
        unsafe {
            let mut set: libc::sigset_t = zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGPIPE);
            set
        }
    }

    fn is_ignored() -> bool {
        // SAFETY: a zeroed sigaction is valid; with no new action the call only reads.
        unsafe {
            let mut action: libc::sigaction = zeroed();
            libc::sigaction(libc::SIGPIPE, null(), &mut action) == 0
                && action.sa_sigaction == libc::SIG_IGN
        }
    }

    fn is_pending() -> bool {
        // SAFETY: the set is filled in before it is looked at.
        unsafe {
            let mut pending: libc::sigset_t = zeroed();
            libc::sigpending(&mut pending) == 0 && libc::sigismember(&pending, libc::SIGPIPE) == 1
        }
    }

    /// Takes a pending signal of the set away.
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    fn take(only: &libc::sigset_t) {
        let now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: both are valid. Without a pending signal it returns at once.
        unsafe { libc::sigtimedwait(only, null_mut(), &now) };
    }

    /// Takes a pending signal of the set away.
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    fn take(only: &libc::sigset_t) {
        if is_pending() {
            let mut number = 0;
            // SAFETY: both are valid, and a signal is pending.
            unsafe { libc::sigwait(only, &mut number) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs it in a forked child, where `SIGPIPE` kills and nobody else is.
    fn survives(run: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child only makes system calls, and leaves without anybody's destructors.
        unsafe {
            let child = libc::fork();
            assert!(child >= 0);
            if child == 0 {
                libc::signal(libc::SIGPIPE, libc::SIG_DFL);
                libc::_exit(i32::from(!run()));
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &mut status, 0), child);
            libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
        }
    }

    fn broken_pipe() -> OwnedFd {
        let [from, to] = pipe().unwrap();
        drop(from);
        to
    }

    fn is_broken(outcome: io::Result<usize>) -> bool {
        matches!(outcome, Err(error) if error.raw_os_error() == Some(libc::EPIPE))
    }

    #[test]
    fn a_pipe_without_a_reader_is_an_error_and_no_signal() {
        let file = File::sole(broken_pipe()).map_err(|(e, _)| e).unwrap();
        assert!(survives(|| is_broken(
            file.write(&[IoSlice::new(b"to nobody")])
        )));
    }

    #[cfg(not(target_vendor = "apple"))]
    #[test]
    fn the_signal_is_taken_away_where_the_kernel_cannot_leave_it_out() {
        let to = broken_pipe();
        let write = || write_plainly(to.as_raw_fd(), &[IoSlice::new(b"to nobody")]);
        assert!(survives(|| is_broken(signals::without_sigpipe(write))));
        // And it would have killed.
        assert!(!survives(|| is_broken(write())));
    }

    #[cfg(not(target_vendor = "apple"))]
    #[test]
    fn a_signal_that_was_pending_before_stays() {
        let to = broken_pipe();
        let write = || write_plainly(to.as_raw_fd(), &[IoSlice::new(b"to nobody")]);
        assert!(survives(|| {
            // SAFETY: signal sets of this frame; the signal is blocked before it is raised.
            unsafe {
                let set = signals::only_sigpipe();
                libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
                libc::raise(libc::SIGPIPE);
                let broken = is_broken(signals::without_sigpipe(write));
                let mut pending: libc::sigset_t = std::mem::zeroed();
                libc::sigpending(&mut pending);
                broken && libc::sigismember(&pending, libc::SIGPIPE) == 1
            }
        }));
    }

    #[test]
    fn flags_are_put_back_on_a_shared_description_only_where_they_were_changed() {
        let flags = |at: Descriptor| {
            // SAFETY: F_GETFL reads flags.
            let flags = unsafe { libc::fcntl(at, libc::F_GETFL) };
            flags & libc::O_NONBLOCK
        };
        let [from, _to] = pipe().unwrap();
        let twin = from.try_clone().unwrap();
        let shared = File::shared(from).map_err(|(e, _)| e).unwrap();
        assert_ne!(flags(twin.as_raw_fd()), 0);
        let back = shared.into_owned().unwrap();
        assert_eq!(flags(twin.as_raw_fd()), 0);
        drop(File::shared(back).map_err(|(e, _)| e).unwrap());
        assert_eq!(flags(twin.as_raw_fd()), 0);
        set_nonblocking(twin.as_raw_fd(), true).unwrap();
        let again = twin.try_clone().unwrap();
        drop(File::shared(again).map_err(|(e, _)| e).unwrap());
        assert_ne!(flags(twin.as_raw_fd()), 0);
    }
}
