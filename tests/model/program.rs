//! Programs: what one seed does, as a list of operations that can be shortened and printed.

use std::fmt;
use std::time::Duration;

use super::random::Random;

macro_rules! operations {
    ($($name:ident $outside:literal $inside:literal;)*) => {
        /// What an operation does. Which handle it is done to, and how, is in its numbers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum What { $($name,)* }

        /// Every operation with its weights outside of callbacks and inside.
        const WEIGHTS: &[(What, u32, u32)] = &[$((What::$name, $outside, $inside),)*];
    };
}

operations! {
    Run 60 0;
    Stop 1 1;
    Observe 3 3;
    Close 3 4;
    CloseSelf 0 6;
    UseStale 4 4;
    Unref 2 2;
    Reference 2 2;
    OnClose 2 2;
    UpdateClock 1 1;

    Defer 4 4;
    Post 4 4;
    Wake 1 1;

    TimerOpen 3 2;
    TimerAfter 2 2;
    TimerStart 8 8;
    TimerRepeat 3 3;
    TimerStop 2 3;
    TimerAgain 2 2;

    HookOpen 2 1;
    HookStart 3 3;
    HookStop 3 4;

    WakerOpen 2 1;
    WakerWake 5 5;

    SignalOpen 2 1;
    SignalStart 4 3;
    SignalStop 1 1;
    SignalRaise 4 4;

    PollOpen 1 1;
    PollStart 3 2;
    PollStop 1 3;
    PollFeed 3 2;
    PollTake 1 6;

    Listen 3 1;
    Pause 1 1;
    Resume 2 2;
    Connect 8 3;
    ConnectToRaw 4 2;
    ConnectRefused 1 1;
    LocalListen 2 1;
    LocalConnect 4 2;
    LocalPair 3 2;
    PipePair 3 2;
    RawConnect 4 2;
    RawAccept 4 2;
    Adopt 3 2;

    Write 16 16;
    WriteSmall 8 10;
    WriteOwned 14 14;
    SendFile 5 7;
    MoveTo 2 2;
    PassDescriptors 5 4;
    PassHandle 4 3;
    TakeDescriptors 6 6;
    CancelWrite 9 9;
    Shutdown 3 3;
    Finish 2 2;
    FinishLingering 2 2;
    Fail 1 2;
    Reset 1 2;
    ReadStop 3 5;
    ReadStart 6 5;
    SetTimeouts 3 3;
    SetWatermarks 4 3;
    Attach 3 4;
    Release 2 4;

    Panic 0 1;

    Work 5 4;
    RequestCancel 3 3;
    Resolve 3 2;
    Reverse 1 1;
    PathStat 1 1;
    FileOpen 3 2;
    FileRead 4 4;
    FileWrite 4 4;
    FileStat 1 1;
    FileRelease 1 1;
    Spawn 1 0;
    ProcessKill 1 1;

    WatchOpen 4 2;
    WatchNothing 1 1;
    TouchFolder 10 6;

    UdpOpen 4 2;
    UdpSend 10 8;
    CancelSend 3 3;
    UdpConnect 2 2;
    UdpReceiveStart 2 2;
    UdpReceiveStop 1 1;
    UdpWatermarks 1 1;
    RawUdpOpen 2 1;
    RawUdpSend 6 2;
    RawUdpReceive 4 1;

    RawWrite 12 4;
    RawRead 12 4;
    RawShutdown 2 1;
    RawClose 1 1;
    RawReset 1 1;

    // Only between the hosts of a simulated network.
    ConnectByName 0 0;
    ConnectToNobody 0 0;
    Cut 0 0;
    Heal 0 0;
    ResetAll 0 0;
    SetLink 0 0;
    LimitDescriptors 0 0;
    EndLoop 0 0;
}

/// What hosts on a network do, with the weights outside of callbacks and inside.
#[rustfmt::skip]
const OF_HOSTS: &[(What, u32, u32)] = {
    use What::*;
    &[
        (Run, 60, 0), (TimerAfter, 6, 4), (Close, 2, 3), (CloseSelf, 0, 4),
        (Listen, 6, 1), (Pause, 1, 1), (Resume, 2, 2),
        (Connect, 14, 4), (ConnectByName, 4, 2), (ConnectRefused, 1, 1), (ConnectToNobody, 1, 1),
        (Write, 14, 14), (WriteOwned, 12, 14), (CancelWrite, 6, 6), (Shutdown, 3, 3),
        (Finish, 2, 3), (FinishLingering, 2, 3), (Fail, 1, 2), (Reset, 1, 2),
        (ReadStop, 2, 3), (ReadStart, 4, 5), (SetTimeouts, 3, 3),
        (UdpOpen, 6, 2), (UdpSend, 12, 10), (CancelSend, 3, 3), (UdpReceiveStop, 1, 1), (UdpReceiveStart, 2, 2),
        (Cut, 3, 1), (Heal, 5, 1), (ResetAll, 1, 1), (SetLink, 2, 1), (LimitDescriptors, 1, 1), (EndLoop, 1, 0),
    ]
};

/// One operation; the numbers choose among what there is when it is done.
#[derive(Clone, Copy)]
pub struct Operation {
    pub what: What,
    pub a: u32,
    pub b: u32,
    pub c: u32,
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({}, {}, {})", self.what, self.a, self.b, self.c)
    }
}

const ROOMS: usize = 7;

/// The room to which an operation belongs that opens a handle. What is done to a handle of a room that a program has not
/// finds none.
fn room(what: What) -> Option<usize> {
    use What::*;
    Some(match what {
        TimerOpen | TimerAfter | HookOpen | Defer => 0,
        SignalOpen | PollOpen | WakerOpen | Post | Wake => 1,
        Listen | Connect | ConnectToRaw | ConnectRefused | RawConnect | RawAccept | Adopt => 2,
        LocalListen | LocalConnect | LocalPair | PipePair => 3,
        UdpOpen | UdpSend | CancelSend | UdpConnect | UdpReceiveStart | UdpReceiveStop
        | UdpWatermarks | RawUdpOpen | RawUdpSend | RawUdpReceive => 4,
        Work | Resolve | Reverse | PathStat | FileOpen | FileRead | FileWrite | FileStat
        | FileRelease | Spawn => 5,
        _ => return None,
    })
}

/// What a simulation has not.
fn needs_kernel(what: What) -> bool {
    use What::*;
    matches!(
        what,
        SignalOpen
            | PollOpen
            | LocalListen
            | LocalConnect
            | LocalPair
            | PipePair
            | Spawn
            | ConnectToRaw
            | RawConnect
            | Adopt
            | Release
            | MoveTo
            | RawUdpOpen
            | WatchOpen
            | WatchNothing
            | TouchFolder
    )
}

/// The "driver" of programs that are played by several hosts on a simulated network.
pub const NETWORK: &str = "network";

#[derive(Clone)]
pub struct Program {
    pub seed: u64,
    pub driver: &'static str,
    /// Done one after the other; `Run` runs the loop.
    pub outside: Vec<Operation>,
    /// The n-th callback does the n-th of these. Later ones do nothing.
    pub inside: Vec<Vec<Operation>>,
    /// How long it may take to come to rest: far more than it needs.
    pub rest_max: Duration,
}

impl Program {
    pub fn generate(seed: u64, driver: &'static str) -> Program {
        let mut random = Random::new(seed);
        if driver == NETWORK {
            let swarm: Vec<_> = OF_HOSTS
                .iter()
                .filter(|(what, _, _)| *what == What::Run || random.percent(75))
                .copied()
                .collect();
            return Program::from(seed, driver, random, &swarm);
        }
        // Each program leaves whole rooms and some operations out, and so does more of the others:
        // what needs many of one kind, undisturbed by another, happens too.
        let all = random.percent(25);
        let rooms: Vec<bool> = (0..ROOMS).map(|_| all || random.percent(40)).collect();
        let empty = rooms.iter().all(|there| !there);
        let swarm: Vec<_> = WEIGHTS
            .iter()
            .map(|(what, outside, inside)| match what {
                What::Run => (*what, *outside, *inside),
                _ if driver == "sim" && needs_kernel(*what) => (*what, 0, 0),
                _ if !empty && !room(*what).is_none_or(|room| rooms[room]) => (*what, 0, 0),
                _ if random.percent(25) => (*what, 0, 0),
                // They take a while.
                What::Spawn if random.percent(80) => (*what, 0, 0),
                What::WatchOpen if random.percent(95) => (*what, 0, 0),
                _ => (*what, *outside, *inside),
            })
            .collect();
        Program::from(seed, driver, random, &swarm)
    }

    fn from(
        seed: u64,
        driver: &'static str,
        mut random: Random,
        swarm: &[(What, u32, u32)],
    ) -> Program {
        let outside = (0..30 + random.below(170))
            .map(|_| pick(&mut random, swarm, |(_, outside, _)| *outside))
            .collect();
        let busy = 15 + random.below(40);
        let inside = (0..100 + random.below(300))
            .map(|_| {
                let length = match random.below(100) {
                    n if n < busy => 1,
                    n if n < busy + busy / 3 => 2 + random.below(4),
                    _ => 0,
                };
                (0..length)
                    .map(|_| pick(&mut random, swarm, |(_, _, inside)| *inside))
                    .collect()
            })
            .collect();
        Program {
            seed,
            driver,
            outside,
            inside,
            rest_max: Duration::from_secs(20),
        }
    }

    /// Whether it starts programs.
    pub fn spawns(&self) -> bool {
        let inside = self.inside.iter().flatten();
        let mut all = self.outside.iter().chain(inside);
        all.any(|operation| operation.what == What::Spawn)
    }

    pub fn length(&self) -> usize {
        self.outside.len() + self.inside.iter().map(Vec::len).sum::<usize>()
    }
}

fn pick(
    random: &mut Random,
    swarm: &[(What, u32, u32)],
    weight: impl Fn(&(What, u32, u32)) -> u32,
) -> Operation {
    let total: u32 = swarm.iter().map(&weight).sum();
    let mut at = random.below(total.max(1));
    let chosen = swarm.iter().find(|entry| {
        let weight = weight(entry);
        let found = at < weight;
        at = at.wrapping_sub(if found { 0 } else { weight });
        found
    });
    Operation {
        what: chosen.map_or(What::Observe, |(what, _, _)| *what),
        a: random.word() >> 16,
        b: random.word() >> 16,
        c: random.word() >> 16,
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "driver {}, seed {}", self.driver, self.seed)?;
        for operation in &self.outside {
            writeln!(f, "  {operation:?}")?;
        }
        for (number, operations) in self.inside.iter().enumerate() {
            if !operations.is_empty() {
                writeln!(f, "  in callback {number}: {operations:?}")?;
            }
        }
        Ok(())
    }
}

/// Shortens a failing program as long as it still fails, at most so many tries.
pub fn shrink(program: Program, tries: usize, mut fails: impl FnMut(&Program) -> bool) -> Program {
    let mut best = program;
    let mut left = tries;
    let mut attempt = |best: &mut Program, candidate: Program| {
        if left == 0 {
            return false;
        }
        left -= 1;
        let better = fails(&candidate);
        if better {
            *best = candidate;
        }
        better
    };
    loop {
        let before = best.length();
        // Callbacks keep their numbers: what they do is emptied, not taken out.
        let mut size = best.inside.len();
        while size > 0 {
            let mut at = 0;
            while at < best.inside.len() {
                let end = (at + size).min(best.inside.len());
                if best.inside[at..end].iter().any(|script| !script.is_empty()) {
                    let mut candidate = best.clone();
                    candidate.inside[at..end].iter_mut().for_each(Vec::clear);
                    attempt(&mut best, candidate);
                }
                at = end;
            }
            size /= 2;
        }
        let mut size = best.outside.len() / 2;
        while size > 0 {
            let mut at = 0;
            while at < best.outside.len() {
                let mut candidate = best.clone();
                candidate
                    .outside
                    .drain(at..(at + size).min(best.outside.len()));
                if !attempt(&mut best, candidate) {
                    at += size;
                }
            }
            size /= 2;
        }
        for number in 0..best.inside.len() {
            let mut at = 0;
            while best.inside[number].len() > 1 && at < best.inside[number].len() {
                let mut candidate = best.clone();
                candidate.inside[number].remove(at);
                if !attempt(&mut best, candidate) {
                    at += 1;
                }
            }
        }
        if best.length() == before {
            return best;
        }
    }
}
