//! What a socket is asked beside bytes and connections: its addresses, its options, its end. The kernel's sockets
//! answer by themselves, a simulation's through their world.

use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use socket2::{SockAddr, Socket};

#[cfg(feature = "sim")]
use super::sim::{SocketKey, World};
use super::{AnyDriver, Object, Source};
use crate::error::{Code, Error, Result};

/// A socket of one world or the other.
pub(crate) enum Endpoint<'a> {
    Kernel(&'a Socket),
    #[cfg(feature = "sim")]
    Simulated(&'a std::cell::RefCell<World>, SocketKey),
}

impl AnyDriver {
    /// The socket behind a source.
    ///
    /// Errors: [`Code::ENOTCONN`] without one.
    #[cfg_attr(not(feature = "sim"), allow(clippy::unused_self))]
    pub fn endpoint<'a>(&'a self, source: &'a Source) -> Result<Endpoint<'a>> {
        #[cfg(feature = "sim")]
        if let (Object::Simulated(key), Some(driver)) = (&source.object, self.simulated()) {
            return Ok(Endpoint::Simulated(&driver.world, *key));
        }
        match &source.object {
            Object::Socket(socket) | Object::Local(socket) => Ok(Endpoint::Kernel(socket)),
            _ => Err(Code::ENOTCONN.into()),
        }
    }
}

impl<'a> Endpoint<'a> {
    /// For options that only the kernel has.
    ///
    /// Errors: [`Code::ENOTSUP`] in a simulation.
    pub fn kernel(&self) -> Result<&'a Socket> {
        match self {
            Endpoint::Kernel(socket) => Ok(socket),
            #[cfg(feature = "sim")]
            Endpoint::Simulated(..) => Err(Code::ENOTSUP.into()),
        }
    }

    pub fn local_address(&self) -> Result<SocketAddr> {
        match self {
            Endpoint::Kernel(socket) => ip_address(socket.local_addr()?),
            #[cfg(feature = "sim")]
            Endpoint::Simulated(world, key) => world.borrow().local_address(*key),
        }
    }

    pub fn peer_address(&self) -> Result<SocketAddr> {
        match self {
            Endpoint::Kernel(socket) => ip_address(socket.peer_addr()?),
            #[cfg(feature = "sim")]
            Endpoint::Simulated(world, key) => world.borrow().peer_address(*key),
        }
    }

    /// Nagle's algorithm, which a simulation has not.
    pub fn set_nodelay(&self, on: bool) -> Result<()> {
        match self {
            Endpoint::Kernel(socket) => Ok(socket.set_tcp_nodelay(on)?),
            #[cfg(feature = "sim")]
            Endpoint::Simulated(..) => Ok(()),
        }
    }

    /// Whether closing resets the connection: lingering for no time is how that is asked for (socket(7), SO_LINGER).
    pub fn set_reset_on_close(&self, on: bool) -> Result<()> {
        match self {
            Endpoint::Kernel(socket) => Ok(socket.set_linger(on.then_some(Duration::ZERO))?),
            #[cfg(feature = "sim")]
            Endpoint::Simulated(world, key) => {
                world.borrow_mut().set_reset_on_close(*key, on);
                Ok(())
            }
        }
    }

    pub fn set_buffers(&self, send: Option<u32>, receive: Option<u32>) -> Result<()> {
        match self {
            Endpoint::Kernel(socket) => {
                if let Some(bytes) = send {
                    socket.set_send_buffer_size(bytes as usize)?;
                }
                if let Some(bytes) = receive {
                    socket.set_recv_buffer_size(bytes as usize)?;
                }
                Ok(())
            }
            #[cfg(feature = "sim")]
            Endpoint::Simulated(world, key) => {
                world.borrow_mut().set_buffers(*key, send, receive);
                Ok(())
            }
        }
    }

    pub fn buffers(&self) -> Result<(usize, usize)> {
        match self {
            Endpoint::Kernel(socket) => {
                Ok((socket.send_buffer_size()?, socket.recv_buffer_size()?))
            }
            #[cfg(feature = "sim")]
            Endpoint::Simulated(world, key) => world.borrow().buffers(*key),
        }
    }

    /// Ends our side of a connection.
    pub fn shutdown_write(&self) -> Result<()> {
        match self {
            Endpoint::Kernel(socket) => socket.shutdown(Shutdown::Write).map_err(|error| {
                // A reset that nobody has been told of yet says more than that there is no connection.
                let cause = socket.take_error().ok().flatten();
                Error::from(cause.unwrap_or(error))
            }),
            #[cfg(feature = "sim")]
            Endpoint::Simulated(world, key) => world.borrow_mut().shutdown(*key),
        }
    }
}

/// The address of an internet socket.
pub(crate) fn ip_address(address: SockAddr) -> Result<SocketAddr> {
    address.as_socket().ok_or(Code::EAFNOSUPPORT.into())
}
