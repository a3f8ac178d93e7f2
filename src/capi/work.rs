//! Work on other threads
//!
//! A loop has a pool of threads for what would block it: computations, files, names.
//! kolo_work_submit has a function run on one of them, and another one on the loop when it is done.
//! Each class of work has threads and a queue of its own, so that slow names never keep files
//! waiting. Threads are started when they are needed, and end when they were idle for a while.
//!
//! What is under way is a request: a handle that ends by itself. Its callback comes exactly once;
//! when it comes, the number is dead. kolo_request_cancel takes back what has not begun. kolo_close
//! works as on every handle: the callback comes with KOLO_ECANCELED, as soon as no thread is at the
//! work any more.

use std::ffi::{c_int, c_void};
use std::mem::offset_of;
use std::num::NonZeroU32;
use std::time::Duration;

use slotmap::{DefaultKey, Key, KeyData, SlotMap};

use super::boundary::{guard, id, needed, pointer, status, with_loop, write_optional, Out};
use super::sized::{self, first_size, Versioned};
use super::types::{kolo_loop, kolo_pool, kolo_request};
use crate::error::{Code, Result};
use crate::event_loop::Loop;
use crate::pool::{Job, Pool, PoolOptions, WorkClass};
use crate::request::{Hold, Request};
use crate::sys::fork::ForkLock;

/// What kind of work it is. Each class has threads of its own.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_work_class {
    /// Keeps a processor busy.
    KOLO_WORK_COMPUTE = 0,
    /// Waits for disks. kolo's own files are here.
    KOLO_WORK_FILES = 1,
    /// Waits for who knows how long, such as for another machine. kolo's own names are here.
    KOLO_WORK_SLOW = 2,
}

/// How a pool is made. Begin with KOLO_POOL_OPTIONS_INIT; a member that is zero means its default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_pool_options {
    /// sizeof(kolo_pool_options), set by KOLO_POOL_OPTIONS_INIT.
    pub size: usize,
    /// Threads of KOLO_WORK_COMPUTE, at most. Default: as many as processors are to be had.
    pub compute_threads: u32,
    /// Threads of KOLO_WORK_FILES, at most. Default 4.
    pub file_threads: u32,
    /// Threads of KOLO_WORK_SLOW, at most. Default 4.
    pub slow_threads: u32,
    /// Pieces of work of one class that may wait, at most; one more gets KOLO_ENOBUFS. Default
    /// 65536.
    pub queue_capacity: u32,
    /// How long a thread waits for work before it ends. Default 10 seconds.
    pub idle_ns: u64,
    /// The size of each thread's stack in bytes. Default 2 MiB.
    pub stack_size: usize,
}

// SAFETY: whole numbers, the first of them the size.
unsafe impl Versioned for kolo_pool_options {
    const FIRST: usize = first_size::<Self>(offset_of!(Self, stack_size) + size_of::<usize>());
}

impl From<kolo_pool_options> for PoolOptions {
    fn from(given: kolo_pool_options) -> PoolOptions {
        let default = PoolOptions::default();
        let number = |given, default| NonZeroU32::new(given).unwrap_or(default);
        PoolOptions {
            compute_threads: NonZeroU32::new(given.compute_threads),
            file_threads: number(given.file_threads, default.file_threads),
            slow_threads: number(given.slow_threads, default.slow_threads),
            queue_capacity: number(given.queue_capacity, default.queue_capacity),
            idle: match given.idle_ns {
                0 => default.idle,
                idle => Duration::from_nanos(idle),
            },
            stack_size: (given.stack_size > 0).then_some(given.stack_size),
        }
    }
}

/// Work, on a pool's thread. It must not touch the loop; with a kolo_remote it can post to it.
pub type kolo_work_cb = Option<unsafe extern "C" fn(user: *mut c_void)>;

/// Work is done. `status` is 0; or KOLO_ECANCELED when it was taken back, or the request closed.
pub type kolo_work_done_cb = Option<
    unsafe extern "C" fn(
        r#loop: *mut kolo_loop,
        request: kolo_request,
        status: c_int,
        user: *mut c_void,
    ),
>;

static POOLS: ForkLock<Option<SlotMap<DefaultKey, Pool>>> = ForkLock::new(None);

fn key(pool: kolo_pool) -> DefaultKey {
    KeyData::from_ffi(pool).into()
}

/// The pool with this number.
pub(super) fn pool(number: kolo_pool) -> Result<Pool> {
    let pools = POOLS.lock();
    let found = pools.as_ref().and_then(|pools| pools.get(key(number)));
    found.cloned().ok_or(Code::EBADF.into())
}

/// Makes a pool that loops can share: see kolo_loop_options. No thread is started yet. `options`
/// may be NULL for the defaults. Any thread.
///
/// Errors: KOLO_EINVAL if `out` is NULL, and for options of a wrong size.
#[no_mangle]
pub unsafe extern "C" fn kolo_pool_open(
    options: *const kolo_pool_options,
    out: *mut kolo_pool,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (out, options) = unsafe { (Out::new(out)?, sized::read_or_default(options)?) };
        let pool = Pool::new(options.into());
        let number = POOLS.lock().get_or_insert_default().insert(pool);
        out.set(number.data().as_ffi());
        Ok(())
    })
}

/// Lets go of a pool: its number is dead. Loops that have it keep it; with the last of them, or at
/// once if there is none, its threads end, and that waits for the work that they have begun, except
/// for names being looked up. Any thread, but not one of the pool's.
///
/// Errors: KOLO_EBADF for a pool that was closed already.
#[no_mangle]
pub extern "C" fn kolo_pool_close(pool: kolo_pool) -> c_int {
    guard(|| {
        let closed = POOLS
            .lock()
            .as_mut()
            .and_then(|pools| pools.remove(key(pool)));
        // Not while the lock is held: its threads may have work that opens a pool.
        closed.map(drop).ok_or(Code::EBADF.into())
    })
}

fn class(number: c_int) -> Result<WorkClass> {
    let found = WorkClass::ALL
        .into_iter()
        .find(|class| *class as c_int == number);
    found.ok_or(Code::EINVAL.into())
}

/// Memory of the user's that goes to another thread and comes back.
struct Work {
    call: unsafe extern "C" fn(*mut c_void),
    user: *mut c_void,
}

// SAFETY: whoever submits work says so: what `user` points to is the work's until it is done.
unsafe impl Send for Work {}

impl Job for Work {
    fn run(&mut self) {
        // SAFETY: the user's function, with what it asked for.
        unsafe { (self.call)(self.user) }
    }
}

/// Has `work` called on a thread of the loop's pool, and then `done` on the loop's thread, both
/// with `user`. `work_class` is a kolo_work_class. What `user` points to is the work's until `done`
/// comes.
///
/// `done` comes exactly once, never before this returns: also when the work was taken back, and
/// when the loop is freed, which takes back what has not begun and waits for what has. `out` may be
/// NULL.
///
/// Errors: KOLO_EINVAL if `work` or `done` is NULL, and for a class that there is not; KOLO_ENOBUFS
/// if as much work waits as may, or the loop holds as many handles as it can; KOLO_EAGAIN if the
/// system gives no thread; KOLO_ECANCELED while the loop is being freed. Then neither function is
/// called.
#[no_mangle]
pub unsafe extern "C" fn kolo_work_submit(
    r#loop: *mut kolo_loop,
    work_class: c_int,
    work: kolo_work_cb,
    done: kolo_work_done_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        let (call, done) = (needed(work)?, needed(done)?);
        let work = Work { call, user };
        let done = move |lp: &Loop, request: Request, outcome: Result<Box<Work>>| {
            let status = status(outcome.map(drop));
            // SAFETY: the user's function, with what it asked for.
            unsafe { done(pointer(lp), request.id().to_raw(), status, user) }
        };
        let class = class(work_class)?;
        let request = lp.inner.submit(class, work, Hold::UntilDone, done)?;
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { write_optional(out, request.id().to_raw()) };
        Ok(())
    })
}

/// Takes back what has not begun: the request's callback comes with KOLO_ECANCELED. A name that is
/// being looked up is given up also when a thread is at it.
///
/// Errors: KOLO_EBUSY if a thread or the kernel has begun it, or it is over: the callback tells what
/// came of it. KOLO_EBADF when that was told.
#[no_mangle]
pub unsafe extern "C" fn kolo_request_cancel(
    r#loop: *mut kolo_loop,
    request: kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        Request::from_id(id(request)?).cancel(&lp.inner)
    })
}
