//! What carries streams over a network.

pub(crate) mod listener;
pub(crate) mod tcp;
