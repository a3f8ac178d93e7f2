//! Many loops
//!
//! A group is a number of loops, each on a thread of its own, behind one address: each listens
//! there, with a socket of its own where the system spreads connections over such sockets
//! (SO_REUSEPORT, Linux), else with a copy of one. A loop that accepts a connection while another
//! has clearly less to do hands it on, so that all have about as many.
//!
//! A group's functions may be called from any thread. Callbacks run on the threads of the group's
//! loops, several at a time: what they share is for the program to protect.

use std::ffi::{c_int, c_void};
use std::mem::offset_of;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use slotmap::{DefaultKey, Key, KeyData, SlotMap};

use super::address::{kolo_address, socket_address};
use super::boundary::{guard, pointer, write_optional, Out};
use super::event_loop::{kolo_loop_options, loop_options};
use super::listener::{self, kolo_listen_options, kolo_listener_handler, listen_options};
use super::registry;
use super::remotes::give;
use super::sized::{self, first_size, Versioned};
use super::types::{kolo_group, kolo_loop, kolo_remote};
use crate::accept::BoxedAcceptor;
use crate::error::{Code, Error, Result};
use crate::event_loop::Loop;
use crate::group::{GroupOptions, Host, LoopGroup};
use crate::options::LoopOptions;
use crate::sys::fork::ForkLock;

/// A loop of a group begins: called on its thread, with its number, from 0 on. A negative error
/// stops the group before it has begun, and is returned by kolo_group_start; anything else is
/// success.
pub type kolo_group_start_cb =
    Option<unsafe extern "C" fn(r#loop: *mut kolo_loop, index: u32, user: *mut c_void) -> c_int>;

/// A loop of a group is asked to stop, and its listeners of the group are closed: called on its
/// thread, once. The place to finish what is still open.
pub type kolo_group_stop_cb =
    Option<unsafe extern "C" fn(r#loop: *mut kolo_loop, index: u32, user: *mut c_void)>;

/// How a group is made. Begin with KOLO_GROUP_OPTIONS_INIT; a member that is zero means its default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_group_options {
    /// sizeof(kolo_group_options), set by KOLO_GROUP_OPTIONS_INIT.
    pub size: usize,
    /// How each loop is made: see kolo_loop_new. Read during the call. NULL: with the defaults.
    pub loop_options: *const kolo_loop_options,
    /// Called on each loop's thread before the loop runs. May be NULL.
    pub on_start: kolo_group_start_cb,
    /// Called on each loop's thread when the group is asked to stop. May be NULL.
    pub on_stop: kolo_group_stop_cb,
    /// What both get as their last argument.
    pub user: *mut c_void,
    /// How many loops, at most 65536. Default: as many as processors are to be had.
    pub loops: u32,
    /// 1: listen with copies of one socket also where the system could spread connections over
    /// several.
    pub share_socket: u32,
}

// SAFETY: numbers, pointers and optional functions, the first of them the size.
unsafe impl Versioned for kolo_group_options {
    const FIRST: usize = first_size::<Self>(offset_of!(Self, share_socket) + 4);
}

/// Something of the caller's that all threads of a group use.
#[derive(Clone, Copy)]
struct Shared<T>(T);

// SAFETY: functions, numbers and a `user` pointer, which the header says is used on several threads.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above; nothing here changes.
unsafe impl<T> Sync for Shared<T> {}

impl<T: Copy> Shared<T> {
    /// (A method, so that closures hold this and not what is in it.)
    fn get(&self) -> T {
        self.0
    }
}

/// Makes a group's loops in boxes of C's.
struct Boxed;

impl Host for Boxed {
    fn with_loop(&self, options: LoopOptions, body: &mut dyn FnMut(&Loop)) -> Result<()> {
        let at = kolo_loop::create(Loop::with_options(options)?)?;
        // SAFETY: just made; freed below, and by nobody else: see `hosted`.
        let lp = unsafe { &*at };
        lp.hosted.set(true);
        body(&lp.inner);
        lp.end();
        registry::remove(at);
        // SAFETY: made by `Box::into_raw`, borrowed by nobody, and nobody can ask for it any more.
        drop(unsafe { Box::from_raw(at) });
        Ok(())
    }
}

static GROUPS: ForkLock<Option<SlotMap<DefaultKey, Arc<LoopGroup>>>> = ForkLock::new(None);

fn key(group: kolo_group) -> DefaultKey {
    KeyData::from_ffi(group).into()
}

fn group(number: kolo_group) -> Result<Arc<LoopGroup>> {
    let groups = GROUPS.lock();
    let found = groups.as_ref().and_then(|groups| groups.get(key(number)));
    found.cloned().ok_or(Code::EBADF.into())
}

/// Starts a group: its loops run when this returns. `options` may be NULL for the defaults. Do not
/// free its loops (KOLO_EBUSY); kolo_loop_stop ends one of them alone.
///
/// Errors: KOLO_EINVAL if `out` is NULL, for options of a wrong size, and for more than 65536 loops;
/// those of kolo_loop_new; KOLO_EAGAIN if the system gives no thread; on_start's. Then none of its
/// loops is there any more.
#[no_mangle]
pub unsafe extern "C" fn kolo_group_start(
    options: *const kolo_group_options,
    out: *mut kolo_group,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (out, given) = unsafe { (Out::new(out)?, sized::read_or_default(options)?) };
        // SAFETY: NULL, or the caller's options.
        let make = unsafe { loop_maker(given.loop_options)? };
        let (user, on_start, on_stop) = (Shared(given.user), given.on_start, given.on_stop);
        let options = GroupOptions {
            loops: NonZeroU32::new(given.loops),
            loop_options: Some(make),
            share_socket: match given.share_socket {
                0 => false,
                1 => true,
                _ => return Err(Code::EINVAL.into()),
            },
            on_stop: Some(Box::new(move |lp, index| {
                if let Some(call) = on_stop {
                    // SAFETY: the user's function, with what it asked for.
                    unsafe { call(pointer(lp), index as u32, user.get()) }
                }
            })),
        };
        let on_start = move |lp: &Loop, index: usize| {
            let Some(call) = on_start else { return Ok(()) };
            // SAFETY: the user's function, with what it asked for.
            match unsafe { call(pointer(lp), index as u32, user.get()) } {
                number if number >= 0 => Ok(()),
                number => Err(Error::new(
                    Code::from_number(number).unwrap_or(Code::EUNKNOWN),
                )),
            }
        };
        let group = LoopGroup::start_with(Box::new(Boxed), options, Box::new(on_start))?;
        let number = GROUPS
            .lock()
            .get_or_insert_default()
            .insert(Arc::new(group));
        out.set(number.data().as_ffi());
        Ok(())
    })
}

type LoopMaker = Box<dyn Fn(usize) -> LoopOptions + Send + Sync>;

/// What makes each loop's options from the caller's, which are read now. So is their pool, which
/// the group holds from now on: closed meanwhile, it is still there for the loops to come.
///
/// # Safety
///
/// `given` is NULL, or as many bytes as its `size` says can be read there, and its `driver` is NULL
/// or a C string.
unsafe fn loop_maker(given: *const kolo_loop_options) -> Result<LoopMaker> {
    // SAFETY: promised by the caller.
    let given = unsafe { sized::read_or_default(given)? };
    // SAFETY: as above. What is wrong with them is said now.
    let LoopOptions { driver, pool, .. } = unsafe { loop_options(&given)? };
    let given = Shared(kolo_loop_options {
        driver: std::ptr::null(),
        pool: 0,
        ..given
    });
    Ok(Box::new(move |_| {
        // SAFETY: no driver is named there. Nor is there anything left that could be wrong.
        let options = unsafe { loop_options(&given.get()) };
        LoopOptions {
            driver: driver.clone(),
            pool: pool.clone(),
            ..options.unwrap_or_default()
        }
    }))
}

/// How many loops a group has.
///
/// Errors: KOLO_EBADF for a group that was joined, or never was.
#[no_mangle]
pub extern "C" fn kolo_group_count(group: kolo_group) -> c_int {
    guard(|| Ok(c_int::try_from(self::group(group)?.count()).unwrap_or(c_int::MAX)))
}

/// Makes a remote of one of a group's loops, with which functions can be posted to it: see
/// kolo_loop_remote.
///
/// Errors: KOLO_EINVAL if `out` is NULL, and for a number of a loop that there is not; KOLO_EBADF for
/// a group that was joined, or never was; KOLO_ENOBUFS if the process holds 65536 remotes.
#[no_mangle]
pub unsafe extern "C" fn kolo_group_remote(
    group: kolo_group,
    index: u32,
    out: *mut *mut kolo_remote,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        let remote = self::group(group)?.remote(index as usize);
        out.set(give(remote.ok_or(Code::EINVAL)?)?);
        Ok(())
    })
}

/// Listens at an address, on every loop of a group. With port 0 the system chooses one. `options`
/// may be NULL for the defaults. `out_address`, unless it is NULL, gets the address.
///
/// The handler's callbacks come on the thread of the loop that accepted the connection, or that it
/// was handed to. The listeners close when the group stops.
///
/// Errors: as kolo_tcp_listen; KOLO_EBADF for a group that was joined, or never was; KOLO_EDEADLK on
/// a thread of a group, which would wait for itself; KOLO_ECANCELED if the group has stopped. If one
/// loop cannot listen, none does.
#[no_mangle]
pub unsafe extern "C" fn kolo_group_listen(
    group: kolo_group,
    address: *const kolo_address,
    options: *const kolo_listen_options,
    handler: *const kolo_listener_handler,
    user: *mut c_void,
    out_address: *mut kolo_address,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (address, options, table) = unsafe {
            (
                socket_address(address)?,
                listen_options(&sized::read_or_default(options)?)?,
                sized::read(handler)?,
            )
        };
        let (table, user) = (Shared(table), Shared(user));
        let handler = move |lp: &Loop, _| -> BoxedAcceptor {
            // SAFETY: a group's loops stand in boxes of C's, and this one is running this.
            let lp = unsafe { &*pointer(lp) };
            listener::adapter_of(lp, table.get(), user.get())
        };
        let address = self::group(group)?.listen_boxed(address, &options, Arc::new(handler))?;
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { write_optional(out_address, address.into()) };
        Ok(())
    })
}

/// Stops a group in an orderly way, and does not wait: its listeners close, on_stop is called on
/// each loop, and each loop runs on until nothing keeps it alive, or `grace_ns` nanoseconds are
/// over, after which what is still open is closed. Again: the shorter time counts.
///
/// Errors: KOLO_EBADF for a group that was joined, or never was.
#[no_mangle]
pub extern "C" fn kolo_group_stop(group: kolo_group, grace_ns: u64) -> c_int {
    guard(|| {
        self::group(group)?.stop(Duration::from_nanos(grace_ns));
        Ok(())
    })
}

/// Waits until all loops of a group have ended, which takes a kolo_group_stop, and frees the group:
/// its number is dead.
///
/// Errors: KOLO_EBADF for a group that was joined, or never was; KOLO_EDEADLK on a thread of a
/// group; KOLO_EPANIC if a bug inside kolo ended it.
#[no_mangle]
pub extern "C" fn kolo_group_join(group: kolo_group) -> c_int {
    guard(|| {
        // Others may stop it meanwhile: the number is good until it has ended.
        let outcome = self::group(group)?.wait_for_end();
        if let Err(error) = outcome {
            if error.code() == Code::EDEADLK {
                return Err(error);
            }
        }
        let ended = GROUPS
            .lock()
            .as_mut()
            .and_then(|groups| groups.remove(key(group)));
        ended.map(drop).ok_or(Error::new(Code::EBADF))?;
        outcome
    })
}
