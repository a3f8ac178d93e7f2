//! Requests' work that the kernel does without a thread.
//!
//! The kernel reads and writes the job's memory until the call has completed. So a job that was begun stands in a table
//! here, by a number of its own, until then: whoever closes its request or frees the loop only asks for an early end.
//! What the kernel would not let go of when the ring goes is never freed.

use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::sync::Arc;

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{opcode, squeue};

use super::token::Token;
use super::Uring;
use crate::driver::Completion;
use crate::error::{Code, Result};
use crate::handles::Id;
use crate::pool::{AfterCall, Job, KernelCall, Ticket};
use crate::sys::fork;

/// Jobs that are with the kernel at the same time: as much as fast disks take; the others wait, and can be taken back.
const UNDER_WAY_MAX: usize = 128;

/// What one call moves at most: what the kernel takes for read(2) and write(2).
const LENGTH_MAX: usize = 0x7fff_f000;

pub(super) struct Jobs {
    /// Not begun.
    waiting: VecDeque<(Id, Arc<Ticket>)>,
    /// Begun, by their numbers.
    table: Vec<Option<Begun>>,
    /// Numbers that are free.
    free: Vec<u32>,
    /// Begun, with another call to be made.
    again: VecDeque<u32>,
    /// Over, and still to be told; how many of them in this turn.
    ended: VecDeque<Completion>,
    told_now: usize,
    fork_generation: u32,
}

struct Begun {
    id: Id,
    job: Box<dyn Job>,
    /// The kernel has a call of it, and may be at its memory.
    in_kernel: bool,
    /// Nobody waits for it.
    abandoned: bool,
}

impl Default for Jobs {
    fn default() -> Jobs {
        Jobs {
            waiting: VecDeque::new(),
            table: Vec::new(),
            free: Vec::new(),
            again: VecDeque::new(),
            ended: VecDeque::new(),
            told_now: 0,
            fork_generation: fork::generation(),
        }
    }
}

impl Jobs {
    pub fn add(&mut self, id: Id, ticket: Arc<Ticket>, waiting_max: usize) -> Result<()> {
        if self.waiting.len() >= waiting_max {
            self.waiting.retain(|(_, ticket)| ticket.waits());
            if self.waiting.len() >= waiting_max {
                return Err(Code::ENOBUFS.into());
            }
        }
        self.waiting.push_back((id, ticket));
        Ok(())
    }

    pub fn has_ended(&self) -> bool {
        !self.ended.is_empty()
    }

    /// What ends later in this turn has its time in the next.
    pub fn begin_turn(&mut self) {
        self.told_now = self.ended.len();
    }

    pub fn next_ended(&mut self) -> Option<Completion> {
        self.told_now = self.told_now.checked_sub(1)?;
        self.ended.pop_front()
    }

    /// The number of the next job for which a call is to be made.
    fn next_due(&mut self) -> Option<u32> {
        if let Some(number) = self.again.pop_front() {
            return Some(number);
        }
        if self.under_way() >= UNDER_WAY_MAX {
            return None;
        }
        let (id, job) = loop {
            let (id, ticket) = self.waiting.pop_front()?;
            // Some were taken back.
            if let Some(job) = ticket.take() {
                break (id, job);
            }
        };
        let begun = Some(Begun {
            id,
            job,
            in_kernel: false,
            abandoned: false,
        });
        Some(match self.free.pop() {
            Some(number) => {
                self.table[number as usize] = begun;
                number
            }
            None => {
                self.table.push(begun);
                self.table.len() as u32 - 1
            }
        })
    }

    fn under_way(&self) -> usize {
        self.table.len() - self.free.len()
    }

    fn get(&mut self, number: u32) -> Option<&mut Begun> {
        self.table.get_mut(number as usize)?.as_mut()
    }

    fn take(&mut self, number: u32) -> Option<Begun> {
        let begun = self.table.get_mut(number as usize)?.take()?;
        self.free.push(number);
        Some(begun)
    }

    /// Over, or not to be done here.
    fn end(&mut self, number: u32, how: fn(Id, Box<dyn Job>) -> Completion) {
        if let Some(begun) = self.take(number) {
            self.ended.push_back(how(begun.id, begun.job));
        }
    }

    /// A call has completed: the kernel is through with the job's memory.
    pub fn came(&mut self, token: Token, result: i32) {
        let number = token.index() as u32;
        let Some(begun) = self.get(number) else {
            return;
        };
        begun.in_kernel = false;
        let outcome = u32::try_from(result).map_err(|_| -result);
        // Interrupted, or ended by `interrupt_jobs` before it began.
        let undone = matches!(outcome, Err(libc::EINTR | libc::ECANCELED));
        let after = match undone {
            true => AfterCall::Again,
            false => begun.job.called(outcome),
        };
        match after {
            _ if begun.abandoned => self.end(number, Completion::JobDone),
            AfterCall::Over => self.end(number, Completion::JobDone),
            AfterCall::Again => self.again.push_back(number),
            AfterCall::Elsewhere => self.end(number, Completion::JobUnable),
        }
    }

    fn in_kernel(&self) -> impl Iterator<Item = u32> + '_ {
        let table = self.table.iter().zip(0..);
        table.filter_map(|(begun, number)| begun.as_ref()?.in_kernel.then_some(number))
    }

    /// In a forked child: the calls, and the memory that they are about, are the parent's. What this process has is a
    /// copy that nobody else touches.
    pub fn leave_to_parent(&mut self) {
        *self = Jobs::default();
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        if self.fork_generation != fork::generation() {
            return;
        }
        for begun in self.table.drain(..).flatten().filter(|it| it.in_kernel) {
            let _ = ManuallyDrop::new(begun);
        }
    }
}

impl Uring {
    /// Pushes the calls of those that are to go on, and of as many new ones as may be under way.
    pub(super) fn start_jobs(&mut self) -> Result<()> {
        while let Some(number) = self.jobs.next_due() {
            if let Err(error) = self.make_room() {
                self.jobs.again.push_front(number);
                return Err(error);
            }
            let Some(begun) = self.jobs.get(number) else {
                continue;
            };
            let entry = begun.job.kernel_call().map(entry_of);
            let pushed = entry.map(|entry| self.ring.push(entry, Token::of_job(number)));
            match pushed {
                Some(Ok(())) => begun.in_kernel = true,
                _ => self.jobs.end(number, Completion::JobUnable),
            }
        }
        Ok(())
    }

    /// Nobody waits for a job any more.
    pub(super) fn give_up_job(&mut self, id: Id) {
        let mut all = self.jobs.table.iter_mut().zip(0..);
        let found = all.find_map(|(begun, number)| {
            let begun = begun.as_mut().filter(|begun| begun.id == id)?;
            begun.abandoned = true;
            Some((number, begun.in_kernel))
        });
        if let Some((number, true)) = found {
            // What cannot be cancelled is waited for.
            let _ = self.cancel(Token::of_job(number));
            let _ = self.settle();
        }
    }

    /// Has the kernel let go of every job. Those that it had not begun, or had begun without effect, are begun anew
    /// with the next ring; the others are over.
    #[cfg(feature = "capi")]
    pub(super) fn interrupt_jobs(&mut self) -> Result<()> {
        self.await_jobs()
    }

    fn await_jobs(&mut self) -> Result<()> {
        let under_way: Vec<u32> = self.jobs.in_kernel().collect();
        for number in under_way {
            self.cancel(Token::of_job(number))?;
        }
        self.flush()?;
        while self.jobs.in_kernel().next().is_some() {
            self.wait_for_one()?;
        }
        Ok(())
    }

    pub(super) fn end_every_job(&mut self) -> Vec<(Id, Option<Box<dyn Job>>)> {
        if self.ring.is_foreign() {
            self.jobs.leave_to_parent();
            return Vec::new();
        }
        // Whom the kernel does not let go of is lost.
        let _ = self.await_jobs();
        let jobs = &mut self.jobs;
        let mut all: Vec<_> = std::mem::take(&mut jobs.ended)
            .into_iter()
            .filter_map(|ended| match ended {
                Completion::JobDone(id, job) | Completion::JobUnable(id, job) => {
                    Some((id, Some(job)))
                }
                _ => None,
            })
            .collect();
        for number in 0..jobs.table.len() as u32 {
            match jobs.get(number) {
                Some(lost) if lost.in_kernel => all.push((lost.id, None)),
                _ => all.extend(jobs.take(number).map(|begun| (begun.id, Some(begun.job)))),
            }
        }
        (jobs.again, jobs.told_now) = (VecDeque::new(), 0);
        all
    }
}

/// The submission for a call.
fn entry_of(call: KernelCall) -> squeue::Entry {
    match call {
        KernelCall::Read(bytes) => {
            let length = bytes.length.min(LENGTH_MAX) as u32;
            let read = opcode::Read::new(Fd(bytes.file), bytes.base, length);
            read.offset(bytes.offset).build()
        }
        KernelCall::Write(bytes) => {
            let length = bytes.length.min(LENGTH_MAX) as u32;
            let write = opcode::Write::new(Fd(bytes.file), bytes.base, length);
            write.offset(bytes.offset).build()
        }
        KernelCall::ReadEach(all) => {
            let read = opcode::Readv::new(Fd(all.file), all.first.cast(), all.count as u32);
            read.offset(all.offset).build()
        }
        KernelCall::Sync { file, only_data } => {
            let flags = match only_data {
                true => FsyncFlags::DATASYNC,
                false => FsyncFlags::empty(),
            };
            opcode::Fsync::new(Fd(file)).flags(flags).build()
        }
        KernelCall::WriteEach(all) => {
            let write = opcode::Writev::new(Fd(all.file), all.first.cast(), all.count as u32);
            write.offset(all.offset).build()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::sync::Weak;

    use super::super::ring::Ring;
    use super::*;
    use crate::driver::Driver;
    use crate::pool::Bytes;

    /// Reads this test's own program: some bytes from an offset.
    struct Read {
        file: File,
        memory: Box<[u8; 64]>,
        offset: u64,
        came: usize,
        /// How often it was told what came of a call.
        told: u32,
    }

    fn program() -> File {
        File::open(std::env::current_exe().unwrap()).unwrap()
    }

    fn reading(number: u64) -> Box<dyn Job> {
        Box::new(Read::new(program(), number * 64))
    }

    impl Read {
        fn new(file: impl Into<OwnedFd>, offset: u64) -> Read {
            Read {
                file: file.into().into(),
                memory: Box::new([0; 64]),
                offset,
                came: 0,
                told: 0,
            }
        }
    }

    impl Job for Read {
        fn run(&mut self) {
            unreachable!();
        }

        fn kernel_call(&mut self) -> Option<KernelCall> {
            Some(KernelCall::Read(Bytes {
                file: self.file.as_raw_fd(),
                base: self.memory.as_mut_ptr(),
                length: self.memory.len(),
                offset: self.offset,
            }))
        }

        fn called(&mut self, outcome: std::result::Result<u32, i32>) -> AfterCall {
            self.told += 1;
            self.came = outcome.unwrap() as usize;
            AfterCall::Over
        }
    }

    fn id(number: u64) -> Id {
        Id::in_slot(number, 0)
    }

    fn uring() -> Option<Uring> {
        Uring::new(64).ok()
    }

    fn begin(uring: &mut Uring, number: u64) {
        let ticket = Ticket::unqueued(reading(number), Weak::new(), id(number));
        uring.jobs.add(id(number), ticket, 1000).unwrap();
    }

    /// What is told in turns that do not wait for more than there is.
    fn told(uring: &mut Uring, count: usize) -> Vec<Id> {
        let mut ids = Vec::new();
        while ids.len() < count {
            uring.wait(None, 0).unwrap();
            while let Some(ended) = uring.jobs.next_ended() {
                let Completion::JobDone(id, job) = ended else {
                    panic!("it can be done");
                };
                let job: Box<dyn std::any::Any> = job;
                let read = job.downcast::<Read>().unwrap();
                assert_eq!((read.came, read.told), (64, 1));
                let mut expected = [0; 64];
                std::os::unix::fs::FileExt::read_exact_at(&read.file, &mut expected, read.offset)
                    .unwrap();
                assert_eq!(*read.memory, expected);
                ids.push(id);
            }
        }
        uring.rest();
        ids
    }

    #[test]
    fn completions_for_which_there_was_no_room_come_later() {
        let Some(mut uring) = uring() else { return };
        // Nobody may have begun anything in it.
        uring.ring = Ring::sized(4, 4).unwrap();
        (uring.watches_wake, uring.watches_inner) = (false, false);
        uring.inner.selector().told(0);
        const COUNT: u64 = 40;
        for number in 0..COUNT {
            begin(&mut uring, number);
            uring.start_jobs().unwrap();
            // Handed over, and what has completed is not looked at.
            uring.ring.enter(false, None).unwrap();
        }
        assert_eq!(uring.jobs.under_way(), COUNT as usize);
        assert!(uring.ring.has_overflowed());
        let mut ids = told(&mut uring, COUNT as usize);
        ids.sort();
        let expected: Vec<Id> = (0..COUNT).map(id).collect();
        assert_eq!(ids, expected);
        assert_eq!(uring.jobs.under_way(), 0);
    }

    #[test]
    fn what_another_thread_takes_over_goes_on_there() {
        let Some(mut uring) = uring() else { return };
        for number in 0..200 {
            begin(&mut uring, number);
        }
        uring.start_jobs().unwrap();
        uring.flush().unwrap();
        uring.await_jobs().unwrap();
        assert!(uring.jobs.in_kernel().next().is_none());
        uring.new_ring().unwrap();
        let ids = told(&mut uring, 200);
        assert_eq!(ids.len(), 200);
    }

    #[test]
    fn what_never_ends_by_itself_is_ended_with_all_or_when_nobody_waits_for_it() {
        for is_abandoned in [true, false] {
            let Some(mut uring) = uring() else { return };
            let (reader, _writer) = std::io::pipe().unwrap();
            let job = Read::new(reader, 0);
            let ticket = Ticket::unqueued(Box::new(job), Weak::new(), id(1));
            uring.begin_job(id(1), ticket, 1).unwrap();
            assert_eq!(uring.jobs.in_kernel().count(), 1);
            if is_abandoned {
                uring.abandon_job(id(1));
                while uring.jobs.in_kernel().next().is_some() {
                    uring.wait(None, 0).unwrap();
                }
                uring.rest();
            }
            let ended = uring.end_jobs();
            assert!(matches!(ended[..], [(of, Some(_))] if of == id(1)));
            assert_eq!(uring.jobs.under_way(), 0);
        }
    }

    #[test]
    fn what_the_kernel_still_has_when_the_ring_goes_is_not_freed() {
        let Some(mut uring) = uring() else { return };
        let (reader, mut writer) = std::io::pipe().unwrap();
        let job = Read::new(reader, 0);
        let descriptor = job.file.as_raw_fd();
        let ticket = Ticket::unqueued(Box::new(job), Weak::new(), id(1));
        uring.begin_job(id(1), ticket, 1).unwrap();
        drop(uring);
        // With the job goes its descriptor: it is still open.
        // SAFETY: reads flags of a descriptor.
        assert!(unsafe { libc::fcntl(descriptor, libc::F_GETFD) } >= 0);
        std::io::Write::write_all(&mut writer, b"nobody reads it").unwrap();
    }
}
