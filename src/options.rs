//! Options of a loop.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::event_loop::Loop;
use crate::handles::Id;
use crate::pool::Pool;

/// Called when a callback ran longer than the watchdog's limit: the handle whose callback it was
/// (`None` for deferred and posted functions), and how long it ran.
pub type SlowCallback = Box<dyn FnMut(&Loop, Option<Id>, Duration)>;

/// Called while a callback is still running, longer than the limit allows: the handle whose callback
/// it is (`None` for deferred and posted functions), and how long it has run. On a thread of kolo's
/// own, for the loop's is the one that is stuck: it can write a log, or end the process.
pub type StuckCallback = Box<dyn Fn(Option<Id>, Duration) + Send>;

/// How a [`Loop`] is made. `..Default::default()` leaves the rest as it is.
pub struct LoopOptions {
    /// The driver by name; `None`: the environment's `KOLO_DRIVER`, or else the best there is.
    ///
    /// `"poller"` is the system's own readiness interface; `"polling"` the portable one, through
    /// the `polling` crate, which is the same where the system has nothing faster; `"uring"` is
    /// io_uring (Linux 6.12 and later, where nothing forbids it): fewer system calls, which pays
    /// with many connections.
    pub driver: Option<String>,
    /// Events handed out in one turn, at most. Timers, posted functions and closing callbacks
    /// have their turn after so many. More than 65,536 are taken as that.
    pub events_per_turn: NonZeroU32,
    /// Posted functions that may wait, at most; one more gives
    /// [`Code::ENOBUFS`](crate::Code::ENOBUFS).
    pub post_capacity: NonZeroU32,
    /// The watchdog: a limit, and what to call after a callback that exceeded it. Costs two
    /// clock readings a callback.
    pub slow_callback: Option<(Duration, SlowCallback)>,
    /// The same for a callback that does not return: a limit, and what to call once when a callback
    /// has run for longer, while it runs. Takes a thread for the loop, which looks four times as often
    /// as the limit is long, and two clock readings a callback.
    pub stuck_callback: Option<(Duration, StuckCallback)>,
    /// Keep the times in [`Metrics`](crate::Metrics). Costs two clock readings a callback.
    pub measure_time: bool,
    /// The threads for work, files and names; `None`: a pool of the loop's own, with default
    /// options, made when it is first needed.
    pub pool: Option<Pool>,
}

/// 1024 events are 12 KiB of buffer, and several milliseconds of callbacks at the most common
/// rates: few enough that timers stay punctual, so many that the wait's cost is spread thin.
const EVENTS_PER_TURN: NonZeroU32 = NonZeroU32::new(1024).unwrap();

/// Enough for a burst from many threads, and a bound on what a loop that does not keep up costs.
const POST_CAPACITY: NonZeroU32 = NonZeroU32::new(65_536).unwrap();

impl Default for LoopOptions {
    fn default() -> LoopOptions {
        LoopOptions {
            driver: None,
            events_per_turn: EVENTS_PER_TURN,
            post_capacity: POST_CAPACITY,
            slow_callback: None,
            stuck_callback: None,
            measure_time: false,
            pool: None,
        }
    }
}

impl std::fmt::Debug for LoopOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoopOptions")
            .field("driver", &self.driver)
            .field("events_per_turn", &self.events_per_turn)
            .field("post_capacity", &self.post_capacity)
            .field(
                "stuck_callback",
                &self.stuck_callback.as_ref().map(|(limit, _)| limit),
            )
            .field(
                "slow_callback",
                &self.slow_callback.as_ref().map(|(limit, _)| limit),
            )
            .field("measure_time", &self.measure_time)
            .field("pool", &self.pool)
            .finish()
    }
}
