//! What carries bytes over a network: TCP and UDP.

pub(crate) mod connecting;
pub(crate) mod listener;
mod moving;
mod race;
pub(crate) mod tcp;
pub(crate) mod udp;
