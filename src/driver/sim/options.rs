//! What a simulation does to the programs in it.

use std::time::Duration;

use super::random::MILLION;
use crate::error::{Code, Result};

/// How a [`Simulation`](crate::sim::Simulation) is made. `..Default::default()` leaves the rest as it is.
///
/// Probabilities are in parts per million (`_ppm`): 10,000 is one in a hundred, 1,000,000 is always.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimulationOptions {
    /// What all chance is drawn from. The same seed, the same program and the same version of kolo give the same run.
    pub seed: u64,
    /// The network between hosts, where [`Simulation::set_link`](crate::sim::Simulation::set_link) says nothing else.
    pub link: LinkOptions,
    /// How long one turn of a loop takes, at least: the time until the loop may have its next.
    pub turn_min: Duration,
    /// How long one turn of a loop takes, at most.
    pub turn_max: Duration,
    /// How long work, files and names take, at least.
    pub work_min: Duration,
    /// How long work, files and names take, at most.
    pub work_max: Duration,
    /// How likely a reading call brings only a part of what has come.
    pub partial_read_ppm: u32,
    /// How likely a writing call takes only a part of what there is room for.
    pub partial_write_ppm: u32,
    /// The kernel's send buffer of a socket in bytes, where its owner does not set one.
    pub send_buffer: u32,
    /// The kernel's receive buffer of a socket in bytes, where its owner does not set one.
    pub receive_buffer: u32,
    /// Sockets that one loop may have; one more gives [`Code::EMFILE`](crate::Code::EMFILE). `None`: no limit.
    pub descriptors: Option<u32>,
    /// How long sent bytes may go unacknowledged until [`Code::ETIMEDOUT`](crate::Code::ETIMEDOUT) (Linux: about 15
    /// minutes, tcp_retries2).
    pub give_up: Duration,
}

impl Default for SimulationOptions {
    fn default() -> SimulationOptions {
        SimulationOptions {
            seed: 0,
            link: LinkOptions::default(),
            turn_min: Duration::from_micros(1),
            turn_max: Duration::from_micros(20),
            work_min: Duration::from_micros(50),
            work_max: Duration::from_millis(5),
            partial_read_ppm: 50_000,
            partial_write_ppm: 50_000,
            send_buffer: 64 * 1024,
            receive_buffer: 64 * 1024,
            descriptors: None,
            give_up: Duration::from_secs(924),
        }
    }
}

impl SimulationOptions {
    /// A network that works, and whatever is legal in small: partial reads and writes, varying delays.
    pub fn with_seed(seed: u64) -> SimulationOptions {
        SimulationOptions {
            seed,
            ..SimulationOptions::default()
        }
    }

    /// Nothing is partial, and no delay varies, one millisecond each way: for tests that count.
    pub fn plain(seed: u64) -> SimulationOptions {
        SimulationOptions {
            link: LinkOptions {
                latency_min: Duration::from_millis(1),
                latency_max: Duration::from_millis(1),
                ..LinkOptions::default()
            },
            partial_read_ppm: 0,
            partial_write_ppm: 0,
            ..SimulationOptions::with_seed(seed)
        }
    }

    /// A bad network: long and varying delays, lost and doubled packets, connections that are refused and reset, small
    /// buffers, half of all reads and writes partial.
    pub fn harsh(seed: u64) -> SimulationOptions {
        SimulationOptions {
            link: LinkOptions {
                latency_min: Duration::from_millis(1),
                latency_max: Duration::from_millis(200),
                loss_ppm: 10_000,
                duplicate_ppm: 10_000,
                reset_ppm: 2_000,
                refuse_ppm: 20_000,
                ..LinkOptions::default()
            },
            partial_read_ppm: 500_000,
            partial_write_ppm: 500_000,
            send_buffer: 8 * 1024,
            receive_buffer: 8 * 1024,
            ..SimulationOptions::with_seed(seed)
        }
    }
}

/// An error unless everything holds.
fn check(conditions: &[bool]) -> Result<()> {
    match conditions.contains(&false) {
        true => Err(Code::EINVAL.into()),
        false => Ok(()),
    }
}

/// The longest time that is not taken for a mistake: sums of a few stay far from the end of a clock of 64 bits.
const TIME_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

impl SimulationOptions {
    pub(crate) fn check(&self) -> Result<()> {
        self.link.check()?;
        check(&[
            self.turn_min <= self.turn_max && self.turn_max <= TIME_MAX,
            self.work_min <= self.work_max && self.work_max <= TIME_MAX,
            self.partial_read_ppm <= MILLION,
            self.partial_write_ppm <= MILLION,
            self.send_buffer > 0,
            self.receive_buffer > 0,
        ])
    }
}

impl LinkOptions {
    pub(crate) fn check(&self) -> Result<()> {
        check(&[
            self.latency_min <= self.latency_max && self.latency_max <= TIME_MAX,
            self.bandwidth != Some(0),
            (64..=65_536).contains(&self.packet_max),
            self.loss_ppm <= MILLION,
            self.duplicate_ppm <= MILLION,
            self.reset_ppm <= MILLION,
            self.refuse_ppm <= MILLION,
        ])
    }
}

/// The network between two hosts, in each direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkOptions {
    /// How long a packet is under way, at least.
    pub latency_min: Duration,
    /// How long a packet is under way, at most. Datagrams overtake each other; the segments of one connection do not.
    pub latency_max: Duration,
    /// Bytes per second; packets wait for those before them, and datagrams that wait fill their socket's send buffer.
    /// `None`: no limit.
    pub bandwidth: Option<u64>,
    /// The largest packet in bytes. Connections send segments of this size; larger datagrams travel in pieces, each of
    /// which may be lost. From 64 on.
    pub packet_max: u32,
    /// How likely a packet is lost. TCP sends it again.
    pub loss_ppm: u32,
    /// How likely a datagram comes twice.
    pub duplicate_ppm: u32,
    /// How likely a segment with data resets its connection, on both sides
    /// ([`Code::ECONNRESET`](crate::Code::ECONNRESET)).
    pub reset_ppm: u32,
    /// How likely a connection is refused ([`Code::ECONNREFUSED`](crate::Code::ECONNREFUSED)), though somebody listens.
    pub refuse_ppm: u32,
}

impl Default for LinkOptions {
    fn default() -> LinkOptions {
        LinkOptions {
            latency_min: Duration::from_micros(50),
            latency_max: Duration::from_micros(500),
            bandwidth: None,
            packet_max: 1460,
            loss_ppm: 0,
            duplicate_ppm: 0,
            reset_ppm: 0,
            refuse_ppm: 0,
        }
    }
}
