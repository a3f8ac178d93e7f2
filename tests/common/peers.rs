//! Addresses to connect to: one that answers, one that refuses, one that is silent.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// This machine's IPv4 address.
pub const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn socket_at(address: SocketAddr) -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    socket.bind(&address.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// An address that answers.
pub fn listen_at(ip: IpAddr) -> (StdListener, SocketAddr) {
    listen_at_port((ip, 0).into())
}

pub fn listen_at_port(address: SocketAddr) -> (StdListener, SocketAddr) {
    let (socket, address) = socket_at(address);
    socket.listen(16).unwrap();
    (socket.into(), address)
}

/// An address of this machine at which nobody listens, as long as the socket holds it.
pub fn nobody(ip: IpAddr) -> (Socket, SocketAddr) {
    socket_at((ip, 0).into())
}

/// An address whose listener answers no more: its queue is full, and connects to it hang.
pub struct Unresponsive {
    _listener: Socket,
    _waiting: Vec<Socket>,
    pub address: SocketAddr,
}

impl Unresponsive {
    pub fn new(ip: IpAddr) -> Unresponsive {
        Unresponsive::at((ip, 0).into())
    }

    pub fn at(address: SocketAddr) -> Unresponsive {
        let (listener, address) = socket_at(address);
        listener.listen(0).unwrap();
        // The queue of backlog 0 has room for one; whoever comes later is not answered.
        let connect = || {
            let next = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
            let outcome = next.connect_timeout(&address.into(), Duration::from_millis(20));
            (next, outcome.is_err())
        };
        let mut waiting = Vec::new();
        loop {
            let (next, unanswered) = connect();
            waiting.push(next);
            if unanswered {
                break;
            }
            assert!(waiting.len() < 100, "the queue does not fill");
        }
        Unresponsive {
            _listener: listener,
            _waiting: waiting,
            address,
        }
    }
}
