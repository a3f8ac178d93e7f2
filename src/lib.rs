//! kolo.
