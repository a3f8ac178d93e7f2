//! The simulated world: hosts, the loops on them, their sockets, and what is to happen when.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::network::{Network, Packet};
use super::options::SimulationOptions;
use super::random::Random;
use super::sockets::{Body, Socket};
use super::trace::{Event, Trace};
use crate::driver::State;
use crate::error::{Code, Result};
use crate::handles::Id;

/// Names a socket of the world. Numbers are not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SocketKey(pub(super) u32);

/// Names a host.
pub(crate) type HostNumber = usize;

/// When the world begins: not at 0, which stands for "never" in places.
pub(crate) const BEGINNING: u64 = 1_000_000_000;

/// What happens later.
pub(super) enum Happening {
    /// A packet arrives.
    Arrival(Box<Packet>),
    /// So many bytes of datagrams have left.
    Departure(SocketKey, usize),
    /// A connection's timer.
    Timer(SocketKey),
    /// The work of a request is done.
    Work(u32, Id),
}

struct Scheduled {
    at: u64,
    /// Of those at the same time, the first that was asked for comes first.
    order: u64,
    what: Happening,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        self.order == other.order
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

pub(super) struct Host {
    pub addresses: Vec<IpAddr>,
    /// The port that is tried next when any will do.
    pub next_port: u16,
}

/// What the world knows of a loop.
pub(super) struct LoopState {
    pub host: HostNumber,
    /// Sockets that may have something to tell.
    pub touched: BTreeSet<SocketKey>,
    /// Requests whose work is done.
    pub done: VecDeque<Id>,
    pub sockets: u32,
    pub descriptors: Option<u32>,
}

pub(crate) struct World {
    pub now: u64,
    pub options: SimulationOptions,
    pub random: Random,
    pub trace: Trace,
    pub(super) network: Network,
    pub(super) hosts: Vec<Host>,
    by_address: BTreeMap<IpAddr, HostNumber>,
    pub(super) loops: BTreeMap<u32, LoopState>,
    next_loop: u32,
    pub(super) sockets: BTreeMap<SocketKey, Socket>,
    next_socket: u32,
    /// Sockets that are bound to a port: of connections (`false`), or of datagrams (`true`).
    pub(super) bound: BTreeMap<(bool, HostNumber, u16), Vec<SocketKey>>,
    /// Connections by their host, their own address and their peer's.
    pub(super) connections: BTreeMap<(HostNumber, SocketAddr, SocketAddr), SocketKey>,
    agenda: BinaryHeap<Reverse<Scheduled>>,
    orders: u64,
    names: BTreeMap<String, Vec<IpAddr>>,
}

pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl World {
    pub fn new(options: SimulationOptions) -> World {
        World {
            now: BEGINNING,
            random: Random::new(options.seed),
            trace: Trace::new(options.seed),
            network: Network::new(options.link.clone()),
            options,
            hosts: Vec::new(),
            by_address: BTreeMap::new(),
            loops: BTreeMap::new(),
            next_loop: 1,
            sockets: BTreeMap::new(),
            next_socket: 1,
            bound: BTreeMap::new(),
            connections: BTreeMap::new(),
            agenda: BinaryHeap::new(),
            orders: 0,
            names: BTreeMap::new(),
        }
    }

    // Hosts, loops, names.

    /// The host at an address, which is made if there is none.
    pub fn host_at(&mut self, address: IpAddr) -> Result<HostNumber> {
        let address = address.to_canonical();
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            return Err(Code::EINVAL.into());
        }
        if let Some(host) = self.by_address.get(&address) {
            return Ok(*host);
        }
        let host = self.hosts.len();
        let first = self.random.below(u64::from(PORTS)) as u16;
        self.hosts.push(Host {
            addresses: vec![address],
            next_port: FIRST_PORT + first,
        });
        self.by_address.insert(address, host);
        Ok(host)
    }

    /// Gives a host another address.
    pub fn add_address(&mut self, host: HostNumber, address: IpAddr) -> Result<()> {
        let address = address.to_canonical();
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            return Err(Code::EINVAL.into());
        }
        if self.by_address.contains_key(&address) {
            return Err(Code::EADDRINUSE.into());
        }
        self.by_address.insert(address, host);
        self.hosts[host].addresses.push(address);
        Ok(())
    }

    pub fn known_host(&self, address: IpAddr) -> Result<HostNumber> {
        let host = self.by_address.get(&address.to_canonical());
        host.copied().ok_or(Code::ENOENT.into())
    }

    /// The host at an address, as another one reaches it.
    pub(super) fn reached(&self, from: HostNumber, address: IpAddr) -> Option<HostNumber> {
        match address.is_loopback() {
            true => Some(from),
            false => self.by_address.get(&address).copied(),
        }
    }

    pub fn add_loop(&mut self, host: HostNumber) -> u32 {
        let number = self.next_loop;
        self.next_loop += 1;
        let state = LoopState {
            host,
            touched: BTreeSet::new(),
            done: VecDeque::new(),
            sockets: 0,
            descriptors: self.options.descriptors,
        };
        self.loops.insert(number, state);
        number
    }

    /// A loop is gone, as a process that ends: what it had is closed.
    pub fn remove_loop(&mut self, number: u32) {
        let its = |socket: &Socket| socket.holder == Some(number);
        let keys: Vec<_> = self.sockets.iter().filter(|(_, it)| its(it)).collect();
        let keys: Vec<_> = keys.into_iter().map(|(key, _)| *key).collect();
        for key in keys {
            self.close(key);
        }
        self.loops.remove(&number);
    }

    pub fn set_descriptors(&mut self, number: u32, descriptors: Option<u32>) {
        if let Some(state) = self.loops.get_mut(&number) {
            state.descriptors = descriptors;
        }
    }

    /// Has a socket of the loop counted, if it may have one more.
    pub(super) fn take_descriptor(&mut self, number: u32) -> Result<()> {
        let state = self.loops.get_mut(&number).ok_or(Code::EBADF)?;
        if state.descriptors.is_some_and(|most| state.sockets >= most) {
            return Err(Code::EMFILE.into());
        }
        state.sockets += 1;
        Ok(())
    }

    pub(super) fn give_descriptor(&mut self, number: u32) {
        if let Some(state) = self.loops.get_mut(&number) {
            state.sockets = state.sockets.saturating_sub(1);
        }
    }

    pub fn set_name(&mut self, name: &str, addresses: &[IpAddr]) {
        let name = canonical(name);
        match addresses.is_empty() {
            true => self.names.remove(&name),
            false => self.names.insert(name, addresses.to_vec()),
        };
    }

    #[cfg_attr(not(feature = "dns"), allow(dead_code))]
    pub fn addresses_of(&self, host: HostNumber, name: &str) -> Option<Vec<IpAddr>> {
        let name = canonical(name);
        if let Some(known) = self.names.get(&name) {
            return Some(known.clone());
        }
        if name == "localhost" {
            let v6 = self.hosts[host].addresses.iter().any(|it| it.is_ipv6());
            let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
            if v6 {
                addresses.insert(0, IpAddr::V6(Ipv6Addr::LOCALHOST));
            }
            return Some(addresses);
        }
        None
    }

    /// The name of an address.
    #[cfg_attr(not(feature = "dns"), allow(dead_code))]
    pub fn name_of(&self, address: IpAddr) -> Option<String> {
        let address = address.to_canonical();
        let mut names = self.names.iter();
        let found = names.find(|(_, addresses)| addresses.contains(&address));
        found.map(|(name, _)| name.clone())
    }

    // Time.

    pub(super) fn schedule(&mut self, at: u64, what: Happening) {
        self.orders += 1;
        let order = self.orders;
        self.agenda.push(Reverse(Scheduled { at, order, what }));
    }

    /// When the next thing happens by itself.
    pub fn next_happening(&self) -> Option<u64> {
        self.agenda.peek().map(|Reverse(next)| next.at)
    }

    /// It is now `at`: everything that was to happen until then does.
    pub fn advance(&mut self, at: u64) {
        debug_assert!(at >= self.now);
        while self.agenda.peek().is_some_and(|Reverse(it)| it.at <= at) {
            let Some(Reverse(next)) = self.agenda.pop() else {
                break;
            };
            self.now = self.now.max(next.at);
            match next.what {
                Happening::Arrival(packet) => self.packet_arrived(*packet),
                Happening::Departure(key, length) => self.datagram_left(key, length),
                Happening::Timer(key) => self.timer_due(key, next.at),
                Happening::Work(number, id) => {
                    if let Some(state) = self.loops.get_mut(&number) {
                        state.done.push_back(id);
                    }
                }
            }
        }
        self.now = self.now.max(at);
    }

    /// Does the work of a request after a while.
    pub fn begin_work(&mut self, number: u32, id: Id) {
        let least = nanoseconds(self.options.work_min);
        let most = nanoseconds(self.options.work_max);
        let takes = self.random.between(least, most);
        self.schedule(self.now.saturating_add(takes), Happening::Work(number, id));
    }

    /// How long a turn takes.
    pub fn turn_time(&mut self) -> u64 {
        let least = nanoseconds(self.options.turn_min);
        let most = nanoseconds(self.options.turn_max);
        self.random.between(least, most)
    }

    pub fn record(&mut self, event: Event<'_>) {
        self.trace.record(self.now - BEGINNING, event);
    }

    // Sockets.

    pub(super) fn add_socket(&mut self, socket: Socket) -> SocketKey {
        let key = SocketKey(self.next_socket);
        self.next_socket += 1;
        self.sockets.insert(key, socket);
        key
    }

    pub(super) fn socket(&self, key: SocketKey) -> Result<&Socket> {
        self.sockets.get(&key).ok_or(Code::EBADF.into())
    }

    pub(super) fn socket_mut(&mut self, key: SocketKey) -> Result<&mut Socket> {
        self.sockets.get_mut(&key).ok_or(Code::EBADF.into())
    }

    /// The socket may have something to tell.
    pub(super) fn touch(&mut self, key: SocketKey) {
        let holder = self.sockets.get(&key).and_then(|it| it.holder);
        if let Some(state) = holder.and_then(|holder| self.loops.get_mut(&holder)) {
            state.touched.insert(key);
        }
    }

    /// What the handle waits for has changed.
    pub fn set_wants(&mut self, key: SocketKey, id: Id, wants: State) {
        if let Some(socket) = self.sockets.get_mut(&key) {
            socket.wants = wants;
            socket.id = Some(id);
            self.touch(key);
        }
    }

    /// What the handle would be told, of that which it waits for.
    pub fn ready(&self, key: SocketKey) -> State {
        self.sockets.get(&key).map_or(State::empty(), Socket::ready)
    }

    /// Whether the loop has something to do; sockets that have nothing to tell are forgotten.
    pub fn has_ready(&mut self, number: u32) -> bool {
        let Some(state) = self.loops.get_mut(&number) else {
            return false;
        };
        if !state.done.is_empty() {
            return true;
        }
        while let Some(key) = state.touched.first() {
            let ready = |socket: &Socket| !socket.ready().is_empty();
            if self.sockets.get(key).is_some_and(ready) {
                return true;
            }
            state.touched.pop_first();
        }
        false
    }

    /// Those that have something to tell, in an order drawn from the seed.
    pub fn take_ready(&mut self, number: u32, most: usize) -> Vec<(SocketKey, Id)> {
        let World { loops, sockets, .. } = self;
        let Some(state) = loops.get_mut(&number) else {
            return Vec::new();
        };
        let ready = |key: &SocketKey| sockets.get(key).is_some_and(|it| !it.ready().is_empty());
        state.touched.retain(ready);
        let ids = |key: &SocketKey| Some((*key, sockets.get(key)?.id?));
        let mut found: Vec<_> = state.touched.iter().filter_map(ids).collect();
        self.random.shuffle(&mut found);
        found.truncate(most);
        found
    }

    pub fn take_done(&mut self, number: u32) -> Option<Id> {
        self.loops.get_mut(&number)?.done.pop_front()
    }

    /// Whether a port of a host is free for a socket at this address.
    pub(super) fn may_bind(
        &self,
        host: HostNumber,
        datagrams: bool,
        address: SocketAddr,
        socket: &Socket,
    ) -> bool {
        let others = self.bound.get(&(datagrams, host, address.port()));
        let others = others.into_iter().flatten();
        let mut others = others.filter_map(|key| self.sockets.get(key));
        others.all(|other| {
            let shares = if datagrams {
                socket.reuse_address && other.reuse_address || socket.reuse_port && other.reuse_port
            } else {
                // Listening there is what excludes others; connections do only without the option.
                let listens = matches!(other.body, Body::Listener(_));
                socket.reuse_port && other.reuse_port || !listens && socket.reuse_address
            };
            shares || !other.overlaps(address, socket.ipv6_only)
        })
    }

    /// A port that nobody has.
    pub(super) fn free_port(
        &mut self,
        host: HostNumber,
        free: impl Fn(&World, u16) -> bool,
    ) -> Result<u16> {
        for _ in 0..PORTS {
            let port = self.hosts[host].next_port;
            let next = (port - FIRST_PORT + 1) % PORTS;
            self.hosts[host].next_port = FIRST_PORT + next;
            if free(self, port) {
                return Ok(port);
            }
        }
        Err(Code::EADDRINUSE.into())
    }

    /// Whether the host has this address.
    pub(super) fn is_local(&self, host: HostNumber, address: IpAddr) -> bool {
        address.is_unspecified()
            || address.is_loopback()
            || self.hosts[host].addresses.contains(&address)
    }

    /// The host's address from which another one is reached.
    pub(super) fn source_for(&self, host: HostNumber, to: IpAddr) -> Result<IpAddr> {
        if to.is_loopback() {
            return Ok(to);
        }
        let mut addresses = self.hosts[host].addresses.iter();
        let same = addresses.find(|it| it.is_ipv4() == to.is_ipv4());
        same.copied().ok_or(Code::ENETUNREACH.into())
    }
}

/// The ports that are given to those who want any (Linux: ip_local_port_range).
const FIRST_PORT: u16 = 32_768;
const PORTS: u16 = 28_232;

/// A name as it is looked up: case and a last dot do not matter.
fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}
