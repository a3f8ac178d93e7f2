//! Echo on mio.

use crate::common::flags;
use crate::mio_server::{serve, Conversation};

#[derive(Default)]
struct Echo;

impl Conversation for Echo {
    type Shared = ();

    fn answer<'a>(&mut self, bytes: &'a [u8], (): &'a mut ()) -> &'a [u8] {
        bytes
    }
}

pub fn main() {
    flags(&[]);
    serve::<Echo>(());
}
