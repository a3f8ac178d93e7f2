//! Requests on mio: the program gathers the answers to what one read brought.

use crate::mio_server::{serve, Conversation};
use crate::requests::{Protocol, Requests};

#[derive(Default)]
struct Dialogue {
    requests: Requests,
    over: bool,
}

/// One of each for all connections.
struct Shared {
    protocol: Protocol,
    answers: Vec<u8>,
}

impl Conversation for Dialogue {
    type Shared = Shared;

    fn answer<'a>(&mut self, bytes: &'a [u8], shared: &'a mut Shared) -> &'a [u8] {
        shared.answers.clear();
        self.over = !self
            .requests
            .take(shared.protocol, bytes, &mut shared.answers);
        &shared.answers
    }

    fn is_over(&self) -> bool {
        self.over
    }
}

pub fn main() {
    serve::<Dialogue>(Shared {
        protocol: Protocol::from_arguments(),
        answers: Vec::new(),
    });
}
