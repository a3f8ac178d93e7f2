//! The system
//!
//! Clocks, random bytes, names, memory, processors, interfaces to networks: what programs and
//! bindings ask of the system besides events. Nothing here needs a loop, and every function may be
//! called from any thread.
//!
//! Texts and lists go into memory of the caller's. Where it is too small the answer is KOLO_ENOBUFS,
//! nothing is written there, and `needed` says how much it takes: so a call with a capacity of 0
//! asks for the size. `needed` is written on success, too, and may be NULL.

use std::ffi::{c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::address::kolo_address;
use super::boundary::{guard, write_optional, write_text, Out};
use super::types::kolo_socket;
use crate::error::{Code, Result};
use crate::system::{self, DescriptorKind, Interface, Processor};

/// What an interface is, and whether it works; combined with |.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_interface_flag {
    /// Switched on.
    KOLO_INTERFACE_UP = 1,
    /// Ready to carry packets: what it is plugged into works, too.
    KOLO_INTERFACE_RUNNING = 2,
    /// Leads back to this machine.
    KOLO_INTERFACE_LOOPBACK = 4,
    /// Reaches all of its network at once.
    KOLO_INTERFACE_BROADCAST = 8,
    /// Reaches groups.
    KOLO_INTERFACE_MULTICAST = 16,
    /// Leads to one other machine, as tunnels do.
    KOLO_INTERFACE_POINT_TO_POINT = 32,
}

/// One address of an interface, or an interface that has none. This struct never changes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_interface {
    /// "eth0", ending with a NUL.
    pub name: [c_char; 64],
    /// The number that scopes of addresses refer to.
    pub index: u32,
    /// Of kolo_interface_flag.
    pub flags: u32,
    /// The address, its port 0; of family KOLO_FAMILY_NONE if the interface has none.
    pub address: kolo_address,
    /// The mask of the address' network: 255.255.255.0. Of family KOLO_FAMILY_NONE if there is none.
    pub netmask: kolo_address,
    /// How many bits of the address are its network's: 24 for 255.255.255.0.
    pub prefix_length: u32,
    /// The hardware's address; zeros if it has none of six bytes.
    pub mac: [u8; 6],
    /// Zeros.
    pub reserved: [u8; 22],
}

/// One processor, and what it did since the system started, in nanoseconds. This struct never
/// changes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_processor {
    /// What it is called, ending with a NUL; empty if the system does not say.
    pub model: [c_char; 96],
    /// Its number.
    pub number: u32,
    /// Its speed now, in millions of steps a second; 0 if the system does not say.
    pub mhz: u32,
    /// Time in programs.
    pub user_ns: u64,
    /// Time in programs of low priority.
    pub nice_ns: u64,
    /// Time in the kernel.
    pub system_ns: u64,
    /// Time without work, waiting for disks included.
    pub idle_ns: u64,
    /// Time in interrupts.
    pub interrupts_ns: u64,
    /// Zeros.
    pub reserved: [u64; 3],
}

/// What the operating system is, as uname(2) has it; every text ends with a NUL. This struct never
/// changes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_operating_system {
    /// "Linux".
    pub name: [c_char; 256],
    /// "6.1.0-18-amd64".
    pub release: [c_char; 256],
    /// "#1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1".
    pub version: [c_char; 256],
    /// The kind of processor: "x86_64".
    pub machine: [c_char; 256],
}

/// What a descriptor is: see kolo_guess_kind.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_descriptor_kind {
    /// Something else: a raw socket, an event descriptor.
    KOLO_DESCRIPTOR_UNKNOWN = 0,
    /// A regular file.
    KOLO_DESCRIPTOR_FILE = 1,
    /// A folder.
    KOLO_DESCRIPTOR_DIRECTORY = 2,
    /// A terminal: kolo_tty_open.
    KOLO_DESCRIPTOR_TTY = 3,
    /// A pipe, named or not.
    KOLO_DESCRIPTOR_PIPE = 4,
    /// A TCP connection, or a socket that is to become one.
    KOLO_DESCRIPTOR_TCP = 5,
    /// A socket that listens for TCP connections.
    KOLO_DESCRIPTOR_TCP_LISTENER = 6,
    /// A UDP socket.
    KOLO_DESCRIPTOR_UDP = 7,
    /// A Unix-domain stream socket.
    KOLO_DESCRIPTOR_LOCAL = 8,
    /// A socket that listens for Unix-domain streams.
    KOLO_DESCRIPTOR_LOCAL_LISTENER = 9,
    /// A Unix-domain datagram socket.
    KOLO_DESCRIPTOR_LOCAL_DATAGRAM = 10,
    /// A device that is no terminal, such as /dev/null or a disk.
    KOLO_DESCRIPTOR_DEVICE = 11,
}

impl From<DescriptorKind> for kolo_descriptor_kind {
    fn from(kind: DescriptorKind) -> kolo_descriptor_kind {
        use kolo_descriptor_kind::*;
        match kind {
            DescriptorKind::Unknown => KOLO_DESCRIPTOR_UNKNOWN,
            DescriptorKind::File => KOLO_DESCRIPTOR_FILE,
            DescriptorKind::Directory => KOLO_DESCRIPTOR_DIRECTORY,
            DescriptorKind::Tty => KOLO_DESCRIPTOR_TTY,
            DescriptorKind::Pipe => KOLO_DESCRIPTOR_PIPE,
            DescriptorKind::Tcp => KOLO_DESCRIPTOR_TCP,
            DescriptorKind::TcpListener => KOLO_DESCRIPTOR_TCP_LISTENER,
            DescriptorKind::Udp => KOLO_DESCRIPTOR_UDP,
            DescriptorKind::Local => KOLO_DESCRIPTOR_LOCAL,
            DescriptorKind::LocalListener => KOLO_DESCRIPTOR_LOCAL_LISTENER,
            DescriptorKind::LocalDatagram => KOLO_DESCRIPTOR_LOCAL_DATAGRAM,
            DescriptorKind::Device => KOLO_DESCRIPTOR_DEVICE,
        }
    }
}

/// As much of a text as there is room for, and a NUL.
fn fixed<const N: usize>(text: &str) -> [c_char; N] {
    let mut end = text.len().min(N - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut field = [0; N];
    for (to, byte) in field.iter_mut().zip(&text.as_bytes()[..end]) {
        *to = *byte as c_char;
    }
    field
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl From<Interface> for kolo_interface {
    fn from(found: Interface) -> kolo_interface {
        const NONE: kolo_address = kolo_address {
            family: 0,
            port: 0,
            flow: 0,
            scope: 0,
            ip: [0; 16],
        };
        let netmask = found.netmask.map(|mask| SocketAddr::new(mask, 0));
        kolo_interface {
            name: fixed(&found.name),
            index: found.index,
            flags: found.flags.bits(),
            address: found.address.map_or(NONE, kolo_address::from),
            netmask: netmask.map_or(NONE, kolo_address::from),
            prefix_length: found.prefix_length,
            mac: found.mac,
            reserved: [0; 22],
        }
    }
}

impl From<Processor> for kolo_processor {
    fn from(found: Processor) -> kolo_processor {
        kolo_processor {
            model: fixed(&found.model),
            number: found.number,
            mhz: found.mhz,
            user_ns: nanoseconds(found.user),
            nice_ns: nanoseconds(found.nice),
            system_ns: nanoseconds(found.system),
            idle_ns: nanoseconds(found.idle),
            interrupts_ns: nanoseconds(found.interrupts),
            reserved: [0; 3],
        }
    }
}

/// Hands a text out.
///
/// # Safety
///
/// `capacity` bytes can be written at `text`, which may be NULL if that is none, and `needed` is
/// NULL or can hold a number.
unsafe fn give_text(
    line: &[u8],
    text: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> Result<c_int> {
    if text.is_null() && capacity > 0 {
        return Err(Code::EINVAL.into());
    }
    // SAFETY: promised by the caller.
    unsafe {
        write_optional(needed, line.len() + 1);
        if capacity == 0 {
            return Err(Code::ENOBUFS.into());
        }
        write_text(line, text, capacity)
    }
}

/// Hands a list out.
///
/// # Safety
///
/// `capacity` elements can be written at `list`, which may be NULL if that is none, and `needed`
/// is NULL or can hold a number.
unsafe fn give_list<F, T: From<F>>(
    found: Vec<F>,
    list: *mut T,
    capacity: usize,
    needed: *mut usize,
) -> Result<c_int> {
    if list.is_null() && capacity > 0 {
        return Err(Code::EINVAL.into());
    }
    let count = found.len();
    // SAFETY: promised by the caller.
    unsafe { write_optional(needed, count) };
    if count > capacity {
        return Err(Code::ENOBUFS.into());
    }
    for (at, element) in found.into_iter().enumerate() {
        // SAFETY: below `capacity`, which is promised to be there.
        unsafe { list.add(at).write(element.into()) };
    }
    c_int::try_from(count).map_err(|_| Code::EOVERFLOW.into())
}

/// A path as C has it: its bytes, or on Windows UTF-8.
fn path_bytes(path: &Path) -> Result<Vec<u8>> {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        Ok(path.as_os_str().as_bytes().to_vec())
    }
    #[cfg(not(unix))]
    {
        let text = path.to_str().ok_or(Code::EILSEQ)?;
        Ok(text.as_bytes().to_vec())
    }
}

/// The monotonic clock in nanoseconds, read now: the clock of kolo_loop_now and of timers. It never
/// goes back and does not jump when somebody sets the time of day. Its numbers mean nothing outside
/// this boot of the machine.
#[no_mangle]
pub extern "C" fn kolo_clock_monotonic() -> u64 {
    system::clock_monotonic()
}

/// The time of day: nanoseconds since 1970-01-01 00:00 UTC, negative before it. It jumps when
/// somebody sets it. As in POSIX every day has 86400 seconds: a leap second repeats the second
/// before it, or the system stretches the seconds around it, as it is set up. The numbers reach to
/// the year 2262.
#[no_mangle]
pub extern "C" fn kolo_clock_wall() -> i64 {
    system::clock_wall()
}

/// Fills `length` bytes at `memory` from the system's generator of random bytes (getrandom(2) and
/// its like), fit for keys: all of them, never fewer. A forked child gets other bytes than its
/// parent. Soon after the boot of the machine it may wait until the system has gathered enough
/// chance. `length` may be 0.
///
/// Errors: KOLO_EINVAL if `memory` is NULL; those of a system without a generator or that hides
/// it (KOLO_ENOSYS, KOLO_ENOENT, KOLO_EPERM): then what stands at `memory` is not to be used.
#[no_mangle]
pub unsafe extern "C" fn kolo_random(memory: *mut c_void, length: usize) -> c_int {
    guard(|| {
        if length == 0 {
            return Ok(());
        }
        if memory.is_null() || length > isize::MAX as usize {
            return Err(Code::EINVAL.into());
        }
        // SAFETY: the caller's `length` bytes, which need not have a value yet.
        let memory =
            unsafe { std::slice::from_raw_parts_mut(memory.cast::<MaybeUninit<u8>>(), length) };
        system::random_into(memory)
    })
}

/// The name of this machine, as it calls itself (gethostname(2)). 256 bytes are enough for any.
///
/// Returns the length of the text without its NUL.
///
/// Errors: KOLO_ENOBUFS if text and NUL do not fit into `capacity` bytes; KOLO_EINVAL if `text` is
/// NULL and `capacity` is not 0.
#[no_mangle]
pub unsafe extern "C" fn kolo_hostname(
    text: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> c_int {
    guard(|| {
        let name = system::hostname()?;
        // SAFETY: the caller's pointers, as the header asks for them.
        unsafe { give_text(name.as_bytes(), text, capacity, needed) }
    })
}

/// What the operating system is.
///
/// Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOTSUP on Windows.
#[no_mangle]
pub unsafe extern "C" fn kolo_uname(out: *mut kolo_operating_system) -> c_int {
    guard(|| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        let found = system::operating_system()?;
        out.set(kolo_operating_system {
            name: fixed(&found.name),
            release: fixed(&found.release),
            version: fixed(&found.version),
            machine: fixed(&found.machine),
        });
        Ok(())
    })
}

/// How long the machine has been up, in nanoseconds; time asleep counts where the system counts it
/// (on Linux).
///
/// Errors: KOLO_EINVAL if `out_ns` is NULL; KOLO_ENOTSUP on Windows.
#[no_mangle]
pub unsafe extern "C" fn kolo_uptime(out_ns: *mut u64) -> c_int {
    // SAFETY: the caller's pointer, as the header asks for it.
    unsafe { give_number(out_ns, || system::uptime().map(nanoseconds)) }
}

/// How many threads wanted to run on average, over the last minute, five minutes and a quarter of
/// an hour (getloadavg(3)): three numbers at `out`.
///
/// Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOTSUP where the system does not count that, as on
/// Windows.
#[no_mangle]
pub unsafe extern "C" fn kolo_load_average(out: *mut f64) -> c_int {
    guard(|| {
        // SAFETY: the caller's room for three numbers, as the header asks for it.
        let out = unsafe { Out::new(out.cast::<[f64; 3]>())? };
        out.set(system::load_average()?);
        Ok(())
    })
}

/// # Safety
///
/// `out` is NULL or can hold a number.
unsafe fn give_number(out: *mut u64, ask: impl FnOnce() -> Result<u64>) -> c_int {
    guard(|| {
        // SAFETY: promised by the caller.
        let out = unsafe { Out::new(out)? };
        out.set(ask()?);
        Ok(())
    })
}

/// The bytes of memory that this process has now (its resident set).
///
/// Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOTSUP elsewhere than on Linux.
#[no_mangle]
pub unsafe extern "C" fn kolo_resident_memory(out: *mut u64) -> c_int {
    // SAFETY: the caller's pointer, as the header asks for it.
    unsafe { give_number(out, system::resident_memory) }
}

/// The memory of the machine in bytes, whatever a control group leaves of it to this process: see
/// kolo_memory_limit.
///
/// Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOTSUP on Windows.
#[no_mangle]
pub unsafe extern "C" fn kolo_total_memory(out: *mut u64) -> c_int {
    // SAFETY: the caller's pointer, as the header asks for it.
    unsafe { give_number(out, system::total_memory) }
}

/// The bytes of memory that can be had without swapping: what the machine has left, or what the
/// control group leaves, whichever is less. An estimate.
///
/// Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOTSUP elsewhere than on Linux.
#[no_mangle]
pub unsafe extern "C" fn kolo_available_memory(out: *mut u64) -> c_int {
    // SAFETY: the caller's pointer, as the header asks for it.
    unsafe { give_number(out, system::available_memory) }
}

/// The bytes that the control group of this process (cgroups(7), version 1 or 2) lets it have: the
/// narrowest limit of its group and those around it, as containers set them. 0 if there is none
/// below the memory of the machine.
///
/// Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOTSUP on Windows.
#[no_mangle]
pub unsafe extern "C" fn kolo_memory_limit(out: *mut u64) -> c_int {
    let ask = || Ok(system::memory_limit()?.unwrap_or(0));
    // SAFETY: the caller's pointer, as the header asks for it.
    unsafe { give_number(out, ask) }
}

/// How many threads this process can have running at once: the processors that it may use
/// (sched_setaffinity(2)) within the share of them that its control group gives. At least 1; never
/// fails. What a pool of threads is made as large as.
#[no_mangle]
pub extern "C" fn kolo_available_parallelism() -> u32 {
    u32::try_from(system::available_parallelism()).unwrap_or(u32::MAX)
}

/// The processors that are switched on, by their numbers, into `list` of `capacity` elements. How
/// many of them this process may use, kolo_available_parallelism says.
///
/// Returns how many were written.
///
/// Errors: KOLO_ENOBUFS if there are more than `capacity`; KOLO_EINVAL if `list` is NULL and
/// `capacity` is not 0; KOLO_ENOTSUP elsewhere than on Linux.
#[no_mangle]
pub unsafe extern "C" fn kolo_processors(
    list: *mut kolo_processor,
    capacity: usize,
    needed: *mut usize,
) -> c_int {
    guard(|| {
        let found = system::processors()?;
        // SAFETY: the caller's pointers, as the header asks for them.
        unsafe { give_list(found, list, capacity, needed) }
    })
}

/// The interfaces of the machine to its networks, into `list` of `capacity` elements: each once for
/// every address that it has, and once without one if it has none, also those that are down.
/// Interfaces come and go, so the count of one call may be too small for the next: try again.
///
/// Returns how many were written.
///
/// Errors: KOLO_ENOBUFS if there are more than `capacity`; KOLO_EINVAL if `list` is NULL and
/// `capacity` is not 0; KOLO_ENOTSUP on Windows; those of the system.
#[no_mangle]
pub unsafe extern "C" fn kolo_interfaces(
    list: *mut kolo_interface,
    capacity: usize,
    needed: *mut usize,
) -> c_int {
    guard(|| {
        let found = system::interfaces()?;
        // SAFETY: the caller's pointers, as the header asks for them.
        unsafe { give_list(found, list, capacity, needed) }
    })
}

/// What a descriptor is (of kolo_descriptor_kind), so that the right thing can be opened on it: a
/// program's standard streams may be terminals, pipes, files or sockets.
///
/// Errors: KOLO_EBADF for one that is not open; KOLO_ENOTSUP on Windows.
#[no_mangle]
pub extern "C" fn kolo_guess_kind(descriptor: kolo_socket) -> c_int {
    guard(|| {
        let kind = system::descriptor_kind(super::poll::descriptor(descriptor)?)?;
        Ok(kolo_descriptor_kind::from(kind) as c_int)
    })
}

/// The user's home: $HOME (%USERPROFILE% on Windows), or what the system has on file for the user.
/// As getenv(3), not to be called while another thread changes the environment.
///
/// Returns the length of the path without its NUL.
///
/// Errors: KOLO_ENOENT if there is none; KOLO_ENOBUFS if path and NUL do not fit into `capacity`
/// bytes; KOLO_EINVAL if `path` is NULL and `capacity` is not 0.
#[no_mangle]
pub unsafe extern "C" fn kolo_home_directory(
    path: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> c_int {
    guard(|| {
        let found = path_bytes(&system::home_directory()?)?;
        // SAFETY: the caller's pointers, as the header asks for them.
        unsafe { give_text(&found, path, capacity, needed) }
    })
}

/// Where files go that nobody will miss: $TMPDIR, or /tmp (on Windows as GetTempPath2 says),
/// without a slash at the end. It need not exist, and everybody may write there: make files in it
/// under names that nobody can guess. As getenv(3), not to be called while another thread changes
/// the environment.
///
/// Returns the length of the path without its NUL.
///
/// Errors: KOLO_ENOBUFS if path and NUL do not fit into `capacity` bytes; KOLO_EINVAL if `path` is
/// NULL and `capacity` is not 0.
#[no_mangle]
pub unsafe extern "C" fn kolo_temporary_directory(
    path: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> c_int {
    guard(|| {
        let found = path_bytes(&system::temporary_directory())?;
        // SAFETY: the caller's pointers, as the header asks for them.
        unsafe { give_text(&found, path, capacity, needed) }
    })
}

/// The path of the program that is running. On Linux " (deleted)" follows when its file is gone
/// (proc_pid_exe(5)).
///
/// Returns the length of the path without its NUL.
///
/// Errors: KOLO_ENOBUFS if path and NUL do not fit into `capacity` bytes; KOLO_EINVAL if `path` is
/// NULL and `capacity` is not 0; those of the system, such as KOLO_ENOENT where /proc is not mounted.
#[no_mangle]
pub unsafe extern "C" fn kolo_executable_path(
    path: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> c_int {
    guard(|| {
        let found = path_bytes(&system::executable_path()?)?;
        // SAFETY: the caller's pointers, as the header asks for them.
        unsafe { give_text(&found, path, capacity, needed) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::InterfaceFlags;

    #[test]
    fn flags_are_the_same_numbers() {
        use kolo_interface_flag::*;
        for (one, other) in [
            (KOLO_INTERFACE_UP, InterfaceFlags::UP),
            (KOLO_INTERFACE_RUNNING, InterfaceFlags::RUNNING),
            (KOLO_INTERFACE_LOOPBACK, InterfaceFlags::LOOPBACK),
            (KOLO_INTERFACE_BROADCAST, InterfaceFlags::BROADCAST),
            (KOLO_INTERFACE_MULTICAST, InterfaceFlags::MULTICAST),
            (
                KOLO_INTERFACE_POINT_TO_POINT,
                InterfaceFlags::POINT_TO_POINT,
            ),
        ] {
            assert_eq!(one as u32, other.bits());
        }
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_between_characters() {
        let text = fixed::<4>("aéé");
        assert_eq!(text.map(|byte| byte as u8), *b"a\xc3\xa9\0");
        assert_eq!(fixed::<4>("abcdef").map(|byte| byte as u8), *b"abc\0");
    }
}
