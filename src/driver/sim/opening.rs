//! Sockets are made here, since a simulation's are not the system's.

use std::net::SocketAddr;

use super::{Object, Simulated, SocketKey, Source, State};
use crate::error::Result;

/// SO_REUSEADDR, SO_REUSEPORT, IPV6_V6ONLY.
type Sharing = (bool, bool, bool);

/// The sizes of the send and the receive buffer.
type Buffers = (Option<u32>, Option<u32>);

impl Simulated {
    /// A socket to connect from, at a local address or any.
    pub fn open_to_connect(
        &self,
        v6: bool,
        local: Option<SocketAddr>,
        reuse_address: bool,
        (send, receive): Buffers,
    ) -> Result<Source> {
        let key = self.world.borrow_mut().open_stream(self.number, v6)?;
        let mut world = self.world.borrow_mut();
        world.set_reuse(key, reuse_address, false, false);
        world.set_buffers(key, send, receive);
        drop(world);
        self.bound(key, local)
    }

    /// A socket that listens.
    pub fn open_to_listen(
        &self,
        address: SocketAddr,
        backlog: u32,
        (reuse_address, reuse_port, ipv6_only): Sharing,
        (send, receive): Buffers,
    ) -> Result<Source> {
        let v6 = address.is_ipv6();
        let key = self.world.borrow_mut().open_stream(self.number, v6)?;
        let mut world = self.world.borrow_mut();
        world.set_reuse(key, reuse_address, reuse_port, ipv6_only);
        world.set_buffers(key, send, receive);
        drop(world);
        let source = self.bound(key, Some(address))?;
        self.world.borrow_mut().listen(key, backlog)?;
        Ok(source)
    }

    /// A socket for datagrams.
    pub fn open_for_datagrams(
        &self,
        address: SocketAddr,
        (reuse_address, reuse_port, ipv6_only): Sharing,
        (send, receive): Buffers,
        report_errors: bool,
    ) -> Result<Source> {
        let v6 = address.is_ipv6();
        let key = self.world.borrow_mut().open_datagrams(self.number, v6)?;
        let mut world = self.world.borrow_mut();
        world.set_reuse(key, reuse_address, reuse_port, ipv6_only);
        world.set_buffers(key, send, receive);
        if report_errors {
            world.report_errors(key);
        }
        drop(world);
        let mut source = self.bound(key, Some(address))?;
        source.state.insert(State::DATAGRAMS);
        source.state.set(State::ERROR_QUEUE, report_errors);
        Ok(source)
    }

    /// The source of a socket at an address; the socket is closed when it cannot have it.
    fn bound(&self, key: SocketKey, address: Option<SocketAddr>) -> Result<Source> {
        let mut world = self.world.borrow_mut();
        if let Some(address) = address {
            if let Err(error) = world.bind(key, address) {
                world.close(key);
                return Err(error);
            }
        }
        Ok(Source::new(Object::Simulated(key)))
    }

    /// Resets connections that wait at a listener.
    pub fn reject_waiting(&self, source: &Source, most: u32) {
        if let Object::Simulated(key) = source.object {
            self.world.borrow_mut().reject(key, most);
        }
    }
}
