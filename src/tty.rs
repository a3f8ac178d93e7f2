//! Terminals: streams of keys and text, with modes that are put back.

use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd};

use crate::driver::Interest;
use crate::error::{Code, Result};
use crate::event_loop::{Core, Final, Loop};
use crate::handles::{Body, Id, Kind};
use crate::signal;
use crate::stream::{open_descriptor, Stream, StreamHandler};
use crate::sys::terminal::{self, Claim};
use crate::sys::Descriptor;

/// What a terminal does with keys and text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TtyMode {
    /// As the terminal was found: as a rule it hands out whole lines, which the user can edit, and
    /// shows what is typed.
    Normal,
    /// Every byte as it is, both ways (cfmakeraw(3)): keys come at once and are not shown, Ctrl-C
    /// is the byte 3 and no signal, and a new line is written as `"\r\n"`.
    Raw,
    /// Keys come at once and are not shown, but those that make signals make them, and text is
    /// written as ever.
    Cbreak,
    /// Keys as [`TtyMode::Raw`] has them, and text written as ever: `"\n"` is a new line.
    RawInput,
}

/// The size of a terminal's window. What the terminal does not know is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct WindowSize {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
    /// Pixels from left to right.
    pub width_px: u16,
    /// Pixels from top to bottom.
    pub height_px: u16,
}

/// A terminal (termios(3)): a [`Stream`], whose operations it has, and more.
///
/// # Its descriptor
///
/// The descriptor stays the caller's. kolo opens the terminal anew and works with an open file
/// description of its own: that of a standard stream is shared with the shell and with every
/// program that it has started, and one that no longer waits (`O_NONBLOCK`) would surprise them.
/// Where it cannot be opened anew (no permission, as after su(1); a terminal out of sight; the
/// emulator's side of a pseudo-terminal), the description is shared after all, does not wait while
/// the handle is open, and is put back when that closes. Then a signal or a call that ends the
/// process leaves it as it is.
///
/// # Modes
///
/// A mode is the terminal's, not the handle's. The one it was found in is put back when every
/// handle that has set another one is closed, or the loop dropped; when the process ends, by
/// exit(3) or by a signal whose disposition is the default one; and while it is stopped by
/// `SIGTSTP`. It is not put back by `SIGKILL` or `SIGSTOP` (after which it is set again when the
/// process goes on), by `_exit(2)` and exec(3), nor by real-time signals. A program with a handler
/// of its own for a signal that ends it calls [`Tty::reset_modes`] there; a Rust program has one
/// for `SIGSEGV` and `SIGBUS`, from its runtime. A forked child leaves the terminal alone unless it
/// sets a mode itself. From the background, nothing is put back: the terminal is somebody else's
/// then.
///
/// # Example
///
/// ```no_run
/// use kolo::{Loop, RunMode, Stream, Tty, TtyMode};
///
/// let lp = Loop::new()?;
/// let keys = |lp: &Loop, tty: Stream, keys: &[u8]| {
///     println!("{keys:?}\r");
///     if keys.contains(&b'q') {
///         lp.close(tty).unwrap();
///     }
/// };
/// let tty = Tty::open(&lp, std::io::stdin(), keys)?;
/// tty.set_mode(&lp, TtyMode::Raw)?;
/// lp.run(RunMode::Default)?;
/// # Ok::<(), kolo::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tty(Stream);

type Resized = Box<dyn FnMut(&Loop, Tty, WindowSize)>;

/// What a loop has of its terminals beside their streams.
#[derive(Default)]
pub(crate) struct Ttys(Vec<TtyState>);

struct TtyState {
    id: Id,
    mode: Option<Claim>,
    watch: Option<Watch>,
}

struct Watch {
    last: WindowSize,
    /// Out while it runs.
    callback: Option<Resized>,
}

/// What may have to do with another size: the window's own signal, and going on after a stop,
/// during which that one went to others.
const RESIZE_SIGNALS: [libc::c_int; 2] = [libc::SIGWINCH, libc::SIGCONT];

impl Tty {
    /// The handle's number, whatever its kind.
    pub const fn id(self) -> Id {
        self.0 .0
    }

    /// Names a terminal by its number. Whether it is one is seen when it is used: every operation
    /// on a handle of another kind gives [`Code::EBADF`].
    pub const fn from_id(id: Id) -> Tty {
        Tty(Stream(id))
    }

    /// Opens a terminal as a stream, for what the descriptor is open for: reading, writing or
    /// both. The mode stays as it is, and the descriptor the caller's.
    ///
    /// In the normal mode the end of input (Ctrl-D on an empty line) is
    /// [`StreamHandler::on_end`], as on any stream.
    ///
    /// Errors: [`Code::ENOTTY`] for what is no terminal, [`Code::EBADF`] for a descriptor that is
    /// not open, [`Code::EMFILE`] and [`Code::ENFILE`] when descriptors are short,
    /// [`Code::ENOBUFS`] when the loop holds as many handles as it can.
    pub fn open(lp: &Loop, terminal: impl AsFd, handler: impl StreamHandler) -> Result<Tty> {
        Tty::open_boxed(lp, terminal.as_fd().as_raw_fd(), Box::new(handler))
    }

    pub(crate) fn open_boxed(
        lp: &Loop,
        descriptor: Descriptor,
        handler: Box<dyn StreamHandler>,
    ) -> Result<Tty> {
        lp.needs_kernel()?;
        lp.can_insert()?;
        terminal::check(descriptor)?;
        let access = terminal::access_mode(descriptor)?;
        let ways = match access {
            libc::O_RDONLY => Interest::READABLE,
            libc::O_WRONLY => Interest::WRITABLE,
            _ => Interest::READABLE | Interest::WRITABLE,
        };
        let own = terminal::reopen(descriptor, access);
        let sole = own.is_some();
        let own = match own {
            Some(own) => own,
            None => terminal::duplicate(descriptor)?,
        };
        let opened = open_descriptor(lp, own, Kind::Tty, ways, sole, handler);
        opened.map(Tty).map_err(|(error, _own)| error)
    }

    /// Sets the terminal's mode, at once: keys that wait to be read stay. [`TtyMode::Normal`] puts
    /// back the mode that the terminal was found in, whichever handle has set another one.
    ///
    /// A program in the background that does this is stopped (`SIGTTOU`), as every program that
    /// changes the terminal.
    ///
    /// Errors: [`Code::EIO`] for a terminal that was hung up, and in the background where nobody
    /// could continue the program; [`Code::ENOBUFS`] when 64 terminals of the process are in
    /// another mode already; [`Code::EMFILE`] when descriptors are short; [`Code::EBADF`] for a
    /// closed handle.
    pub fn set_mode(self, lp: &Loop, mode: TtyMode) -> Result<()> {
        let mut core = lp.core()?;
        let at = descriptor(&core, self)?;
        let claim = match mode {
            TtyMode::Normal => {
                Claim::end_all(at)?;
                None
            }
            mode => Some(Claim::new(at, |attributes| change(attributes, mode))?),
        };
        // The former claim goes after the new one has come: the terminal is not put back between.
        core.ttys.of(self.id()).mode = claim;
        core.ttys.tidy(self.id());
        Ok(())
    }

    /// Puts every terminal of the process back into the mode it was found in, at once, until a
    /// mode is set again: for a handler of a signal that ends the process, and before exec(3). In a
    /// forked child it does nothing: the terminal is its parent's.
    ///
    /// Async-signal-safe: it may be called in a signal handler. Any thread.
    ///
    /// Errors: those of the system for the first that cannot be put back, such as [`Code::EIO`]
    /// for one that was hung up; [`Code::EBUSY`] in a handler for a fault inside kolo's own change
    /// of a mode.
    pub fn reset_modes() -> Result<()> {
        terminal::put_back_by_hand()
    }

    /// The size of the terminal's window, as it is now.
    ///
    /// Errors: [`Code::EIO`] for a terminal that was hung up, [`Code::EBADF`] for a closed handle.
    pub fn window_size(self, lp: &Loop) -> Result<WindowSize> {
        window_size(descriptor(&*lp.core()?, self)?)
    }

    /// Calls `callback` when the size of the window has become another one, instead of the one it
    /// called before. The system tells by `SIGWINCH`, so only the process' own terminal
    /// (tty(4)) is heard of, and only in the foreground; what changed meanwhile is told when
    /// the process goes on in it. Several changes may be one callback. This does not keep the loop
    /// alive.
    ///
    /// Errors: those of [`Signal::start`](crate::Signal::start), [`Code::EIO`] for a terminal that
    /// was hung up, [`Code::EBADF`] for a closed handle.
    pub fn on_resize(
        self,
        lp: &Loop,
        callback: impl FnMut(&Loop, Tty, WindowSize) + 'static,
    ) -> Result<()> {
        let last = self.window_size(lp)?;
        let is_new = lp.core()?.ttys.of(self.id()).watch.is_none();
        if is_new {
            if let Err(error) = watch_signals(lp, self.id()) {
                lp.core()?.ttys.tidy(self.id());
                return Err(error);
            }
        }
        let watch = Watch {
            last,
            callback: Some(Box::new(callback)),
        };
        let former = lp.core()?.ttys.of(self.id()).watch.replace(watch);
        // Its destructor may call the loop.
        drop(former);
        Ok(())
    }

    /// Calls [`Tty::on_resize`]'s callback no more.
    ///
    /// Errors: [`Code::EBADF`] for a closed handle.
    pub fn stop_resize(self, lp: &Loop) -> Result<()> {
        let former = {
            let mut core = lp.core()?;
            descriptor(&core, self)?;
            let former = core.ttys.of(self.id()).watch.take();
            core.ttys.tidy(self.id());
            if former.is_some() {
                unwatch_signals(&mut core, self.id());
            }
            former
        };
        // Its destructor may call the loop.
        drop(former);
        Ok(())
    }
}

fn change(attributes: &mut libc::termios, mode: TtyMode) {
    let former = *attributes;
    match mode {
        TtyMode::Normal => return,
        TtyMode::Raw | TtyMode::RawInput => {
            // SAFETY: a valid struct.
            unsafe { libc::cfmakeraw(attributes) };
            if mode == TtyMode::RawInput {
                attributes.c_oflag = former.c_oflag;
            }
        }
        TtyMode::Cbreak => attributes.c_lflag &= !(libc::ICANON | libc::ECHO),
    }
    // A read gives what is there, and waits for one byte.
    attributes.c_cc[libc::VMIN] = 1;
    attributes.c_cc[libc::VTIME] = 0;
}

fn window_size(at: Descriptor) -> Result<WindowSize> {
    let size = terminal::window_size(at)?;
    Ok(WindowSize {
        columns: size.ws_col,
        rows: size.ws_row,
        width_px: size.ws_xpixel,
        height_px: size.ws_ypixel,
    })
}

/// The descriptor of an open terminal.
fn descriptor(core: &Core, tty: Tty) -> Result<Descriptor> {
    match &core.handles.get(tty.id())?.body {
        Body::Stream(stream) if stream.kind() == Kind::Tty => {
            // A stream that only wrote and has ended that is left without.
            stream.source.descriptor().ok_or(Code::ENOTCONN.into())
        }
        _ => Err(Code::EBADF.into()),
    }
}

fn watch_signals(lp: &Loop, id: Id) -> Result<()> {
    for number in RESIZE_SIGNALS {
        if let Err(error) = signal::watch(lp, id, number) {
            unwatch_signals(&mut *lp.core()?, id);
            return Err(error);
        }
    }
    Ok(())
}

fn unwatch_signals(core: &mut Core, id: Id) {
    for number in RESIZE_SIGNALS {
        signal::unwatch(core, id, number);
    }
}

impl Ttys {
    fn of(&mut self, id: Id) -> &mut TtyState {
        let at = self.0.iter().position(|tty| tty.id == id);
        let at = at.unwrap_or_else(|| {
            self.0.push(TtyState {
                id,
                mode: None,
                watch: None,
            });
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    /// Forgets a terminal of which there is nothing to know.
    fn tidy(&mut self, id: Id) {
        self.0
            .retain(|tty| tty.id != id || tty.mode.is_some() || tty.watch.is_some());
    }
}

/// The handle closes: its wishes go.
pub(crate) fn close(core: &mut Core, id: Id) {
    let Some(at) = core.ttys.0.iter().position(|tty| tty.id == id) else {
        return;
    };
    let tty = core.ttys.0.swap_remove(at);
    drop(tty.mode);
    if let Some(watch) = tty.watch {
        unwatch_signals(core, id);
        // Its destructor may call the loop.
        core.finals.push_back(Final::Any(Box::new(watch)));
    }
}

impl Loop {
    /// The window may have another size.
    pub(crate) fn tty_signal(&self, id: Id) {
        let (callback, size) = {
            let mut core = self.core.borrow_mut();
            let now = descriptor(&core, Tty::from_id(id)).and_then(window_size);
            let watch = core.ttys.of(id).watch.as_mut();
            match (watch, now) {
                (Some(watch), Ok(now)) if watch.last != now => {
                    watch.last = now;
                    (watch.callback.take(), now)
                }
                _ => {
                    core.ttys.tidy(id);
                    return;
                }
            }
        };
        let Some(callback) = callback else { return };
        let mut lent = Lent {
            lp: self,
            id,
            callback: Some(callback),
        };
        self.callback(Some(id), |lp| {
            if let Some(callback) = &mut lent.callback {
                callback(lp, Tty::from_id(id), size);
            }
        });
    }
}

/// A callback that runs. It goes back, also when it unwinds; not if another one has taken its
/// place.
struct Lent<'a> {
    lp: &'a Loop,
    id: Id,
    callback: Option<Resized>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut core = self.lp.core.borrow_mut();
        let known = core.ttys.0.iter_mut().find(|tty| tty.id == self.id);
        if let Some(watch) = known.and_then(|tty| tty.watch.as_mut()) {
            if watch.callback.is_none() {
                watch.callback = self.callback.take();
            }
        }
        // What is left is dropped after the borrow has ended: its destructor may call the loop.
    }
}

impl From<Tty> for Id {
    fn from(tty: Tty) -> Id {
        tty.id()
    }
}

impl From<Tty> for Stream {
    fn from(tty: Tty) -> Stream {
        tty.0
    }
}

impl Deref for Tty {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.0
    }
}
