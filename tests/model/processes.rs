//! Programs that are started: few, since each takes a while.

use kolo::{Command, ExitStatus, Loop, Process};

use super::world::{called_then, Body, Callback, Token, World};

pub struct ProcessModel {
    code: i32,
    /// It waits to be killed.
    waits: bool,
    /// A signal was sent that ends it.
    killed: bool,
}

impl ProcessModel {
    /// Whether its end will come.
    pub fn ends(&self) -> bool {
        !self.waits || self.killed
    }
}

impl World {
    fn process(&mut self, at: usize) -> &mut ProcessModel {
        match &mut self.handles[at].body {
            Body::Process(process) => process,
            _ => unreachable!("#{at} is a process"),
        }
    }

    pub fn spawn(&mut self, lp: &Loop, number: u32) {
        let (at, token) = (self.handles.len(), Token::new());
        let waits = number.is_multiple_of(4);
        let code = i32::from(number as u8 % 3);
        let command = if waits {
            Command::new("/bin/sleep").arg("1000")
        } else {
            Command::new("/bin/sh").args(["-c", &format!("exit {code}")])
        };
        // One that waits must not outlive its sequence.
        let spawned = command
            .kill_on_close(waits)
            .spawn(lp, move |lp, _, status| {
                let _token = &token;
                called_then(
                    lp,
                    Callback::Exit,
                    Some(at),
                    |world| world.exited(at, status),
                    |world| world.closed_by_loop(at),
                );
            });
        let spawned = spawned.map_err(|error| error.error);
        if let Some(child) = self.opened("Command::spawn", spawned) {
            let model = ProcessModel {
                code,
                waits,
                killed: false,
            };
            self.add(child.process.id(), Body::Process(model));
        }
    }

    fn exited(&mut self, at: usize, status: ExitStatus) {
        let process = self.process(at);
        let ended = ExitStatus::Code(process.code);
        let fits = match status {
            ExitStatus::Signal { .. } => process.killed,
            _ => !process.waits && status == ended,
        };
        let killed = process.killed;
        self.note(|| format!("{status:?}"));
        self.check(fits, || {
            format!("process #{at} ended with {status:?}, not {ended:?}; killed {killed}")
        });
    }

    pub fn process_kill(&mut self, lp: &Loop, at: usize) {
        let got = Process::from_id(self.handles[at].id).kill(lp, libc::SIGKILL);
        // It may have ended, and that was not told yet.
        let over = got.is_err_and(|error| error.code() == kolo::Code::ESRCH);
        let expected = over.then_some(kolo::Code::ESRCH);
        let ends_by_itself = !self.process(at).waits;
        self.outcome("Process::kill", got, expected);
        self.process(at).killed |= !over;
        let killed = self.process(at).killed;
        self.check(!over || ends_by_itself || killed, || {
            format!("process #{at} is gone and was not killed")
        });
    }
}
