//! What happens to UDP sockets: datagrams that came, errors, and what else is told.

use super::handler::{Datagram, DatagramError, UdpHandler};
use super::sending::{defer, drain, flush, refresh_active};
use super::state::{slot, state, Status};
use super::UdpSocket;
use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::event_loop::{Core, Loop};
use crate::handles::Id;
use crate::sys::datagrams::{Batch, Told};

/// A batch that is being handed out, and the handler that is out for it. Both are put back when
/// it goes out of scope, also by a panic: what is left of the batch is not lost.
struct Handing<'a> {
    lp: &'a Loop,
    id: Id,
    batch: Option<Box<Batch>>,
    handler: Option<Box<dyn UdpHandler>>,
}

impl Drop for Handing<'_> {
    fn drop(&mut self) {
        let mut core = self.lp.leave_callback();
        core.datagrams.held = false;
        if let Some(owner) = core.datagrams.owner() {
            flush(&mut core, owner);
        }
        // A closed handle's handler is still to hear `on_close`.
        if let Some(entry) = core.handles.any_mut(self.id) {
            if let Some(home @ None) = slot(&mut entry.body) {
                *home = self.handler.take();
            }
        }
        if let Some(batch) = self.batch.take() {
            put_back(&mut core, self.id, batch);
        }
        // A handler that is left is dropped after the borrow has ended: the user's destructor may
        // call the loop.
    }
}

/// What becomes of a batch that was handed out, as far as it was.
fn put_back(core: &mut Core, id: Id, batch: Box<Batch>) {
    let Core {
        handles, driver, ..
    } = &mut *core;
    let Ok(udp) = state(handles, id) else {
        return driver.recycle_datagrams(batch);
    };
    if batch.is_empty() {
        return driver.recycle_datagrams(batch);
    }
    driver.receive_stop(id, &mut udp.source);
    if udp.status.contains(Status::RECEIVING) {
        // A panic, or another handler: the rest comes right after this.
        udp.parked = Some(batch);
        defer(core, id);
    } else {
        // It may stay for long.
        udp.parked = Some(Box::new(batch.compact()));
        driver.recycle_datagrams(batch);
    }
}

impl Loop {
    /// Calls a socket's handler.
    fn tell_udp(&self, id: Id, tell: impl FnOnce(&Loop, &mut Box<dyn UdpHandler>)) {
        let handler = self.core.borrow_mut().handles.lend(id, slot);
        self.call_lent(id, handler, slot, tell);
    }

    /// Hands datagrams to the socket's handler, one after the other, until there is a reason to
    /// stop: none is left, the socket was closed, receiving was stopped, another handler came.
    pub(crate) fn udp_received(&self, id: Id, batch: Box<Batch>) {
        let mut handing = Handing {
            lp: self,
            id,
            batch: Some(batch),
            handler: None,
        };
        {
            let mut core = self.core.borrow_mut();
            let Ok(udp) = state(&mut core.handles, id) else {
                return;
            };
            if !udp.status.contains(Status::RECEIVING) {
                return;
            }
            handing.handler = udp.handler.take();
            core.datagrams.held = true;
        }
        let (Some(batch), Some(handler)) = (&mut handing.batch, &mut handing.handler) else {
            return;
        };
        while let Some((item, range)) = batch.advance() {
            let datagram = Datagram {
                data: batch.bytes(range),
                from: item.from,
                to: item.to,
                interface: item.interface,
                tos: item.tos,
                truncated: item.truncated,
            };
            let started = self.enter_callback(Some(id));
            handler.on_datagram(self, UdpSocket(id), &datagram);
            let goes_on = {
                let mut core = self.leave_callback();
                let goes_on = state(&mut core.handles, id).is_ok_and(|udp| {
                    udp.status.contains(Status::RECEIVING) && udp.handler.is_none()
                });
                goes_on && !self.is_parents()
            };
            if let Some(started) = started {
                self.meter.callback_ended(self, Some(id), started);
            }
            if !goes_on {
                break;
            }
        }
    }

    /// A datagram met an error on the network, or a receiving call failed.
    pub(crate) fn udp_failed(&self, id: Id, error: Error, told: Option<Box<Told>>) {
        let peer = match state(&mut self.core.borrow_mut().handles, id) {
            Ok(udp) => udp.peer,
            Err(_) => return,
        };
        let error = DatagramError {
            error,
            to: told.as_ref().map_or(peer, |told| told.to),
            by: told.as_ref().and_then(|told| told.by),
            mtu: told.as_ref().and_then(|told| told.mtu),
            count: 1,
        };
        self.tell_udp(id, |lp, handler| {
            handler.on_error(lp, UdpSocket(id), &error)
        });
    }

    /// The socket itself failed: it receives no more.
    pub(crate) fn udp_receive_failed(&self, id: Id, error: Error) {
        {
            let mut core = self.core.borrow_mut();
            let Ok(udp) = state(&mut core.handles, id) else {
                return;
            };
            udp.status.remove(Status::RECEIVING);
            refresh_active(&mut core, id);
        }
        self.udp_failed(id, error, None);
    }

    /// Tells what the socket has to tell: datagrams that were left, sends that ended, errors, a
    /// drained queue.
    pub(crate) fn udp_events(&self, id: Id) {
        /// When a callback unwinds, the next run tells the rest.
        struct Rest<'a>(&'a Loop, Id);
        impl Drop for Rest<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    defer(&mut self.0.core.borrow_mut(), self.1);
                }
            }
        }
        let _rest = Rest(self, id);
        let (parked, finished, errors) = {
            let mut core = self.core.borrow_mut();
            let Ok(udp) = state(&mut core.handles, id) else {
                return;
            };
            udp.status.remove(Status::DEFERRED);
            if udp.status.contains(Status::SEND_ON) {
                udp.status.remove(Status::SEND_ON);
                drain(&mut core, id);
            }
            let Ok(udp) = state(&mut core.handles, id) else {
                return;
            };
            let receives = udp.status.contains(Status::RECEIVING);
            let parked = if receives { udp.parked.take() } else { None };
            let queue = udp.queue.as_ref();
            let counts = queue.map_or((0, 0), |q| (q.finished_count(), q.errors_count()));
            (parked, counts.0, counts.1)
        };
        if let Some(parked) = parked {
            self.udp_received(id, parked);
        }
        for _ in 0..finished {
            let next = self.of_queue(id, |queue| queue.next_finished());
            let Some((done, outcome)) = next else { break };
            self.callback(Some(id), |lp| done(lp, UdpSocket(id), outcome));
        }
        for _ in 0..errors {
            let next = self.of_queue(id, |queue| queue.next_error());
            let Some(error) = next else { break };
            self.tell_udp(id, |lp, handler| {
                handler.on_error(lp, UdpSocket(id), &error)
            });
        }
        if self.udp_drained(id) {
            self.tell_udp(id, |lp, handler| handler.on_drain(lp, UdpSocket(id)));
        }
        let mut core = self.core.borrow_mut();
        self.udp_told(&mut core, id);
    }

    fn of_queue<R>(
        &self,
        id: Id,
        run: impl FnOnce(&mut super::queue::Queue) -> Option<R>,
    ) -> Option<R> {
        let mut core = self.core.borrow_mut();
        let udp = state(&mut core.handles, id).ok()?;
        run(udp.queue.as_mut()?)
    }

    fn udp_drained(&self, id: Id) -> bool {
        let mut core = self.core.borrow_mut();
        state(&mut core.handles, id).is_ok_and(|udp| {
            let had = udp.status.contains(Status::DRAINED);
            udp.status.remove(Status::DRAINED);
            had
        })
    }

    /// After the socket has told what there was.
    fn udp_told(&self, core: &mut Core, id: Id) {
        let more = {
            let Core {
                handles, driver, ..
            } = &mut *core;
            let Ok(udp) = state(handles, id) else {
                return;
            };
            if udp.parked.is_none() && udp.status.contains(Status::RECEIVING) {
                // If the selector is short of memory, the next try is as good as any.
                let _ = driver.receive_start(id, &mut udp.source);
            }
            let more = udp.queue.as_ref().is_some_and(|queue| queue.has_to_tell());
            udp.tidy();
            more
        };
        if more {
            defer(core, id);
        }
        refresh_active(core, id);
    }
}

/// Receives, unless it does already.
pub(super) fn start(core: &mut Core, id: Id) -> Result<()> {
    let Core {
        handles, driver, ..
    } = &mut *core;
    let udp = state(handles, id)?;
    if udp.parked.is_some() {
        udp.status.insert(Status::RECEIVING);
        defer(core, id);
    } else {
        driver.receive_start(id, &mut udp.source)?;
        udp.status.insert(Status::RECEIVING);
    }
    refresh_active(core, id);
    Ok(())
}

/// Receives no more, from now on.
pub(super) fn stop(core: &mut Core, id: Id) -> Result<()> {
    let Core {
        handles, driver, ..
    } = &mut *core;
    let udp = state(handles, id)?;
    udp.status.remove(Status::RECEIVING);
    driver.receive_stop(id, &mut udp.source);
    refresh_active(core, id);
    Ok(())
}
