//! Many loops: one per thread, behind one address.
//!
//! Each loop of a group listens at the same address, with a socket of its own where the system spreads connections over
//! such sockets (`SO_REUSEPORT`, Linux 3.9), else with a copy of the one socket. Neither spreads evenly by itself: so a loop
//! that accepts a connection while another has clearly less to do hands it on.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Arc, Mutex, MutexGuard, OnceLock};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use socket2::Socket;

use crate::accept::{Acceptor, BoxedAcceptor};
use crate::driver::endpoint::ip_address;
use crate::driver::Object;
use crate::driver::Source;
use crate::error::{Code, Error, Result};
use crate::event_loop::{Loop, RunMode};
use crate::handles::Id;
use crate::hook::{Hook, HookKind};
use crate::net::listener::{self, Handler, ListenOptions, ListenerHandler, TcpListener};
use crate::net::tcp::TcpStream;
use crate::options::LoopOptions;
use crate::remote::{Remote, Waker};
use crate::timer::Timer;

/// Loops of a group, at most: far more than there are processors to run them.
const LOOPS_MAX: usize = 65536;

/// Called on the thread of each loop of a group, with the loop and its number, from 0 on.
type OnLoop<R> = Box<dyn Fn(&Loop, usize) -> R + Send + Sync>;

/// Makes the handler of each loop's listener.
pub(crate) type MakeHandler = dyn Fn(&Loop, usize) -> BoxedAcceptor + Send + Sync;

/// How a [`LoopGroup`] is made. `..Default::default()` leaves the rest as it is.
#[derive(Default)]
pub struct GroupOptions {
    /// How many loops, each with a thread of its own, 65536 at most; `None`: as many as processors are to be had.
    pub loops: Option<NonZeroU32>,
    /// How each loop is made; `None`: with default options. Called on the loop's thread, with its number.
    pub loop_options: Option<Box<dyn Fn(usize) -> LoopOptions + Send + Sync>>,
    /// Called on each loop's thread when the group is asked to stop, after its listeners have closed: the place to finish
    /// what is still open.
    pub on_stop: Option<OnLoop<()>>,
    /// Listens with copies of one socket also where the system could spread connections over several.
    pub share_socket: bool,
}

impl std::fmt::Debug for GroupOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupOptions")
            .field("loops", &self.loops)
            .field("share_socket", &self.share_socket)
            .finish_non_exhaustive()
    }
}

/// Who makes a group's loops: Rust's are plain ones, C's stand in something of C's.
pub(crate) trait Host: Send + Sync + 'static {
    /// Makes a loop on this thread and calls `body` with it.
    fn with_loop(&self, options: LoopOptions, body: &mut dyn FnMut(&Loop)) -> Result<()>;
}

struct Plain;

impl Host for Plain {
    fn with_loop(&self, options: LoopOptions, body: &mut dyn FnMut(&Loop)) -> Result<()> {
        body(&Loop::with_options(options)?);
        Ok(())
    }
}

/// What the threads of a group share.
struct Shared {
    host: Box<dyn Host>,
    options: GroupOptions,
    on_start: OnLoop<Result<()>>,
    /// How much each loop has to do: its handles, as of its last turn, and what was handed to it since.
    loads: Vec<AtomicUsize>,
    /// Set when all have begun.
    remotes: OnceLock<Vec<Remote>>,
}

type Panic = Box<dyn Any + Send>;

/// Loops that run, each on a thread of its own.
///
/// The threads run until [`LoopGroup::stop`]; [`LoopGroup::join`] waits for them. Dropping a group stops it at once,
/// closing what is open, and waits. A panic in a callback ends its loop and stops the group; `join` hands it on.
///
/// May be used from any thread.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use kolo::{GroupOptions, ListenOptions, Loop, LoopGroup, Stream, TcpListener, TcpStream};
///
/// let group = LoopGroup::start(GroupOptions::default(), |_, _| Ok(()))?;
/// let address = group.listen("127.0.0.1:0".parse().unwrap(), &ListenOptions::default(), |_, _| {
///     |lp: &Loop, _: TcpListener, tcp: TcpStream| {
///         let echo = |lp: &Loop, stream: Stream, data: &[u8]| {
///             stream.write(lp, data).unwrap();
///         };
///         tcp.attach(lp, echo).unwrap();
///     }
/// })?;
/// println!("{} loops at {address}", group.count());
/// group.stop(Duration::from_secs(5));
/// group.join()?;
/// # Ok::<(), kolo::Error>(())
/// ```
pub struct LoopGroup {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What a loop of a group keeps for it.
struct Member {
    /// Keeps the loop alive until the group stops.
    alive: Waker,
    listeners: Vec<TcpListener>,
}

thread_local! {
    /// On a group's thread, as long as its loop is there.
    static MEMBER: RefCell<Option<Member>> = const { RefCell::new(None) };
}

fn is_member() -> bool {
    MEMBER.with_borrow(Option::is_some)
}

impl LoopGroup {
    /// Starts the loops. `on_start` is called on the thread of each, with the loop and its number, before it runs; an error
    /// of its stops all of them, and is returned.
    ///
    /// Errors: [`Code::EINVAL`] for more than 65536 loops; those of [`Loop::with_options`]; the system's when it gives no
    /// thread ([`Code::EAGAIN`]); `on_start`'s.
    pub fn start(
        options: GroupOptions,
        on_start: impl Fn(&Loop, usize) -> Result<()> + Send + Sync + 'static,
    ) -> Result<LoopGroup> {
        LoopGroup::start_with(Box::new(Plain), options, Box::new(on_start))
    }

    pub(crate) fn start_with(
        host: Box<dyn Host>,
        options: GroupOptions,
        on_start: OnLoop<Result<()>>,
    ) -> Result<LoopGroup> {
        let processors = || std::thread::available_parallelism().map_or(1, |count| count.get());
        let count = options
            .loops
            .map_or_else(processors, |loops| loops.get() as usize);
        if count > LOOPS_MAX {
            return Err(Code::EINVAL.into());
        }
        let group = LoopGroup {
            shared: Arc::new(Shared {
                host,
                options,
                on_start,
                loads: (0..count).map(|_| AtomicUsize::new(0)).collect(),
                remotes: OnceLock::new(),
            }),
            threads: Mutex::new(Vec::new()),
        };
        let mut remotes = Vec::new();
        let mut failed = None;
        for index in 0..count {
            match start_thread(group.shared.clone(), index) {
                Ok((thread, remote)) => {
                    group.threads().push(thread);
                    remotes.push(remote);
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        // Those that run are stopped by the group's drop.
        group.shared.remotes.get_or_init(|| remotes);
        failed.map_or(Ok(group), Err)
    }

    fn remotes(&self) -> &[Remote] {
        self.shared.remotes()
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// How many loops it has.
    pub fn count(&self) -> usize {
        self.remotes().len()
    }

    /// What other threads use to reach one of its loops; `None` for a number that there is not.
    pub fn remote(&self, index: usize) -> Option<Remote> {
        self.remotes().get(index).cloned()
    }

    /// Listens at an address, on every loop. `handler` is called once for each, on its thread. With port 0 the system
    /// chooses one; the result is the address.
    ///
    /// A connection that is handed on is accepted anew by the loop that gets it: its handler hears of it as of its own.
    /// The listeners belong to the group, which closes them when it stops; each may also be paused or closed on its loop.
    ///
    /// Errors: as [`TcpListener::listen_with`]; [`Code::EDEADLK`] on a thread of a group, which would wait for itself;
    /// [`Code::ECANCELED`] when the group has stopped; [`Code::ENOBUFS`] when as many posts wait for a loop as may. If one
    /// loop cannot listen, none does.
    pub fn listen<H: ListenerHandler>(
        &self,
        address: SocketAddr,
        options: &ListenOptions,
        handler: impl Fn(&Loop, usize) -> H + Send + Sync + 'static,
    ) -> Result<SocketAddr> {
        let boxed = move |lp: &Loop, index| Box::new(Handler(handler(lp, index))) as BoxedAcceptor;
        self.listen_boxed(address, options, Arc::new(boxed))
    }

    pub(crate) fn listen_boxed(
        &self,
        address: SocketAddr,
        options: &ListenOptions,
        handler: Arc<MakeHandler>,
    ) -> Result<SocketAddr> {
        if is_member() {
            return Err(Code::EDEADLK.into());
        }
        let (address, sockets) = self.sockets_at(address, options)?;
        // Loops that get a connection handed must know the listener that it is for.
        let places: Arc<Places> = Arc::new(self.remotes().iter().map(Place::new).collect());
        let (tell, told) = mpsc::channel();
        let mut refused = None;
        for (index, socket) in sockets.into_iter().enumerate() {
            let (shared, places) = (self.shared.clone(), places.clone());
            let (tell, handler, options) = (tell.clone(), handler.clone(), options.clone());
            let open = move |lp: &Loop| {
                let spread = Spread {
                    inner: handler(lp, index),
                    shared,
                    places: places.clone(),
                    index,
                };
                let opened =
                    listener::open(lp, Source::of_socket(socket), &options, Box::new(spread));
                let opened = opened.map_err(|(error, _socket)| error).map(|listener| {
                    places[index].set(listener);
                    MEMBER.with_borrow_mut(|member| {
                        member.iter_mut().for_each(|it| it.listeners.push(listener));
                    });
                });
                let _ = tell.send(opened);
            };
            // One that is not taken is dropped, and its sender with it.
            if let Err(error) = self.remotes()[index].post(open) {
                refused.get_or_insert(error);
            }
        }
        drop(tell);
        // So does a loop that goes with what it was posted.
        let answers: Vec<Result<()>> = told.iter().collect();
        let first = refused.or(answers.iter().find_map(|answer| answer.err()));
        let missing = (answers.len() < self.count()).then_some(Error::new(Code::ECANCELED));
        let Some(error) = first.or(missing) else {
            return Ok(address);
        };
        for (remote, place) in self.remotes().iter().zip(places.iter()) {
            let listener = place.listener();
            let close = move |lp: &Loop| {
                // Gone already is as good.
                let _ = listener.map(|listener| lp.close(listener));
            };
            let _ = remote.post(close);
        }
        Err(error)
    }

    /// A listening socket for each loop.
    fn sockets_at(
        &self,
        mut address: SocketAddr,
        options: &ListenOptions,
    ) -> Result<(SocketAddr, Vec<Socket>)> {
        // Elsewhere the last socket that was bound would get all, or none is to be had.
        let spreads = cfg!(target_os = "linux") && !self.shared.options.share_socket;
        let each = ListenOptions {
            reuse_port: options.reuse_port || spreads && self.count() > 1,
            ..options.clone()
        };
        let first = listener::socket_at(&address, &each)?;
        address = ip_address(first.local_addr()?)?;
        let mut sockets = vec![first];
        while sockets.len() < self.count() {
            let next = match spreads {
                true => listener::socket_at(&address, &each)?,
                false => sockets[0].try_clone()?,
            };
            sockets.push(next);
        }
        Ok((address, sockets))
    }

    /// Stops the group in an orderly way: its listeners close, [`GroupOptions::on_stop`] is called on each loop, and each
    /// loop runs on until nothing keeps it alive, or `grace` is over, after which what is still open is closed. Does not
    /// wait: see [`LoopGroup::join`]. Stopped already: the shorter time counts.
    pub fn stop(&self, grace: Duration) {
        Shared::stop(&self.shared, grace);
    }

    /// Waits until all loops have ended, which takes a [`LoopGroup::stop`], or each loop's own [`Loop::stop`]. A panic of a
    /// callback is handed on from here.
    ///
    /// Errors: [`Code::EDEADLK`] on a thread of a group.
    pub fn join(self) -> Result<()> {
        if is_member() {
            return Err(Code::EDEADLK.into());
        }
        match self.wait() {
            Some(panic) => resume_unwind(panic),
            None => Ok(()),
        }
    }

    /// As [`LoopGroup::join`], for a group that others hold too; a panic is [`Code::EPANIC`].
    #[cfg(feature = "capi")]
    pub(crate) fn wait_for_end(&self) -> Result<()> {
        if is_member() {
            return Err(Code::EDEADLK.into());
        }
        self.wait().map_or(Ok(()), |_| Err(Code::EPANIC.into()))
    }

    /// Waits for the threads; the first panic. Who comes second waits for the first.
    fn wait(&self) -> Option<Panic> {
        let mut threads = self.threads();
        let ends = threads.drain(..).map(|thread| thread.join().err());
        ends.fold(None, Option::or)
    }
}

impl Drop for LoopGroup {
    fn drop(&mut self) {
        if self.threads().is_empty() {
            return;
        }
        self.stop(Duration::ZERO);
        // Whoever drops a group on one of its threads cannot wait: they end by themselves.
        if !is_member() {
            drop(self.wait());
        }
    }
}

impl std::fmt::Debug for LoopGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoopGroup")
            .field("loops", &self.count())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn remotes(&self) -> &[Remote] {
        self.remotes.get().map_or(&[], Vec::as_slice)
    }

    fn stop(this: &Arc<Shared>, grace: Duration) {
        for (index, remote) in this.remotes().iter().enumerate() {
            let shared = this.clone();
            // Also to a loop that is flooded with posts; one that is gone needs no stopping.
            let _ = remote.post_anyway(move |lp: &Loop| stop_loop(lp, index, &shared, grace));
        }
    }
}

fn start_thread(shared: Arc<Shared>, index: usize) -> Result<(JoinHandle<()>, Remote)> {
    let (tell, told) = mpsc::channel::<Result<Remote>>();
    let thread = Builder::new()
        .name(format!("kolo-loop-{index}"))
        .spawn(move || live(&shared, index, &tell))?;
    match told.recv() {
        Ok(Ok(remote)) => Ok((thread, remote)),
        Ok(Err(error)) => {
            let _ = thread.join();
            Err(error)
        }
        // It unwound before it could tell.
        Err(_) => match thread.join() {
            Err(panic) => resume_unwind(panic),
            Ok(()) => Err(Code::ECANCELED.into()),
        },
    }
}

/// What a thread of a group does.
fn live(shared: &Arc<Shared>, index: usize, tell: &mpsc::Sender<Result<Remote>>) {
    let options = shared.options.loop_options.as_ref();
    let options = options.map_or_else(LoopOptions::default, |make| make(index));
    let mut panic = None;
    let made = shared.host.with_loop(options, &mut |lp| {
        // The loop goes with all that is open when it has ended by a panic too; but not in the middle of unwinding, in
        // which a second panic, of a closing callback, would end the process.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let begun = begin(lp, index, shared);
            let begins = begun.is_ok();
            let _ = tell.send(begun.map(|()| lp.remote()));
            if begins {
                // Its only error is one of the system's wait: then the loop ends.
                let _ = lp.run(RunMode::Default);
            }
        }));
        panic = outcome.err();
        MEMBER.take();
    });
    if let Err(error) = made {
        let _ = tell.send(Err(error));
    }
    if let Some(panic) = panic {
        Shared::stop(shared, Duration::ZERO);
        resume_unwind(panic);
    }
}

fn begin(lp: &Loop, index: usize, shared: &Arc<Shared>) -> Result<()> {
    let alive = Waker::open(lp, |_, _| ())?;
    let listeners = Vec::new();
    MEMBER.set(Some(Member { alive, listeners }));
    let noted = shared.clone();
    let note = Hook::open(lp, HookKind::Prepare, move |lp, _| {
        let handles = lp.core.borrow().handles.len();
        noted.loads[index].store(handles, Ordering::Relaxed);
    })?;
    note.start(lp)?;
    lp.unref(note)?;
    let mut core = lp.core()?;
    core.handles.hide(alive.id());
    core.handles.hide(note.id());
    drop(core);
    (shared.on_start)(lp, index)
}

/// On the loop's thread.
fn stop_loop(lp: &Loop, index: usize, shared: &Shared, grace: Duration) {
    let first = MEMBER.with_borrow_mut(|member| {
        let member = member.as_mut()?;
        for listener in member.listeners.drain(..) {
            // Closed by its user: that is as good.
            let _ = lp.close(listener);
        }
        lp.close(member.alive).ok()
    });
    if let (Some(()), Some(on_stop)) = (first, &shared.options.on_stop) {
        on_stop(lp, index);
    }
    if grace.is_zero() {
        return lp.stop();
    }
    if let Ok(timer) = Timer::after(lp, grace, |lp| lp.stop()) {
        // It does not keep the loop: it only ends what others keep.
        let _ = lp.unref(timer);
    }
}

/// Where a loop's listener is: told when it is open.
struct Place {
    remote: Remote,
    listener: OnceLock<TcpListener>,
}

type Places = Vec<Place>;

impl Place {
    fn new(remote: &Remote) -> Place {
        Place {
            remote: remote.clone(),
            listener: OnceLock::new(),
        }
    }

    fn set(&self, listener: TcpListener) {
        self.listener.get_or_init(|| listener);
    }

    fn listener(&self) -> Option<TcpListener> {
        self.listener.get().copied()
    }
}

thread_local! {
    /// The connection that is being accepted was handed to this loop: it stays.
    static HANDED: Cell<bool> = const { Cell::new(false) };
}

/// A listener's handler that hands on what another loop should have.
struct Spread {
    inner: BoxedAcceptor,
    shared: Arc<Shared>,
    places: Arc<Places>,
    index: usize,
}

impl Spread {
    /// A loop that has clearly less to do than this one. For few connections that is one less; for many an eighth: handing
    /// on costs two threads some microseconds.
    fn idler(&self) -> Option<usize> {
        let load = |load: &AtomicUsize| load.load(Ordering::Relaxed);
        let own = load(&self.shared.loads[self.index]);
        let loads = self.shared.loads.iter().map(load).enumerate();
        let (index, least) = loads.min_by_key(|(_, load)| *load)?;
        (own > least + 1 + least / 8).then_some(index)
    }

    /// Hands the connection on; `false`: it stays.
    fn hand_on(&self, lp: &Loop, tcp: TcpStream, to: usize) -> bool {
        let place = &self.places[to];
        let Some(listener) = place.listener() else {
            return false;
        };
        let posted = place.remote.post_made(|| {
            let socket = tcp.release(lp)?;
            Ok(move |lp: &Loop| accept_handed(lp, listener.id(), socket))
        });
        if posted.is_ok() {
            self.shared.loads[to].fetch_add(1, Ordering::Relaxed);
        }
        posted.is_ok()
    }
}

fn accept_handed(lp: &Loop, listener: Id, socket: Socket) {
    struct Handed;
    impl Drop for Handed {
        fn drop(&mut self) {
            HANDED.set(false);
        }
    }
    HANDED.set(true);
    let _handed = Handed;
    lp.listener_accepted(listener, Object::Socket(socket.into()));
}

impl Acceptor for Spread {
    fn accepted(&mut self, lp: &Loop, listener: Id, stream: Id) {
        if !HANDED.get() {
            self.shared.loads[self.index].fetch_add(1, Ordering::Relaxed);
            let idler = self.idler();
            if idler.is_some_and(|to| self.hand_on(lp, TcpStream::from_id(stream), to)) {
                self.shared.loads[self.index].fetch_sub(1, Ordering::Relaxed);
                return;
            }
        }
        self.inner.accepted(lp, listener, stream);
    }

    fn failed(&mut self, lp: &Loop, listener: Id, error: Error) {
        self.inner.failed(lp, listener, error);
    }

    fn closed(&mut self, lp: &Loop, listener: Id) {
        self.inner.closed(lp, listener);
    }
}
