//! Unix-domain sockets, pipes, and descriptors passed between processes.

pub(crate) mod listener;
pub(crate) mod name;
pub(crate) mod passing;
pub(crate) mod pipe;
mod socket_file;
pub(crate) mod stream;

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;

use crate::handles::Id;
pub(crate) use socket_file::SocketFile;

/// What few streams need, and so does not stand in each.
#[derive(Default)]
pub(crate) struct LocalCore {
    /// Streams that wait for room in a listener's backlog.
    connecting: HashMap<Id, stream::Connecting>,
    /// Received descriptors that wait to be taken.
    received: HashMap<Id, VecDeque<OwnedFd>>,
    /// The stream that is just told of descriptors, and of the bytes they came with right after.
    telling: Option<Id>,
}

impl LocalCore {
    /// Whether bytes of the stream are still to be told, which would be missing from its socket.
    pub fn is_telling(&self, id: Id) -> bool {
        self.telling == Some(id)
    }

    /// A stream is closed: descriptors that nobody took are closed too.
    pub fn forget(&mut self, id: Id) {
        self.connecting.remove(&id);
        self.received.remove(&id);
    }
}
