//! What carries bytes over a network: TCP and UDP.

pub(crate) mod listener;
pub(crate) mod tcp;
pub(crate) mod udp;
