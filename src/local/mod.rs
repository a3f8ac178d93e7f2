//! Unix-domain sockets, pipes, and descriptors passed between processes.

pub(crate) mod pipe;
pub(crate) mod stream;
