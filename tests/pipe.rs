//! Pipes.

#![cfg(all(unix, feature = "local"))]

mod common;

use common::*;
use kolo::{Code, Kind, Pipe};

fn pair(lp: &kolo::Loop, reader: &Log, writer: &Log) -> (Pipe, Pipe) {
    Pipe::pair(lp, Script::new(reader), Script::new(writer)).unwrap()
}

#[test]
fn bytes_go_through_a_pipe_and_its_end_after_them() {
    each_driver(|lp| {
        let (read, written) = (Log::default(), Log::default());
        let (reader, writer) = pair(&lp, &read, &written);
        assert_eq!(lp.kind(reader).unwrap(), Kind::Pipe);
        let bytes = pattern(0, 1_000_000);
        writer.write(&lp, &bytes).unwrap();
        assert!(writer.queued(&lp).unwrap() > 0);
        writer.shutdown(&lp, written.done(1)).unwrap();
        run_until(&lp, || read.has(&Event::End));
        assert_eq!(read.data().len(), bytes.len());
        assert_pattern(&read.data(), 0);
        assert!(written.has(&Event::Done(1, Ok(()))));
        assert_eq!(code(writer.write(&lp, b"more")), Code::EPIPE);
        lp.close(reader).unwrap();
        lp.close(writer).unwrap();
        run_to_end(&lp);
    });
}

#[test]
fn what_a_pipe_cannot_do_has_ended_from_the_start() {
    each_driver(|lp| {
        let (read, written) = (Log::default(), Log::default());
        let (reader, writer) = pair(&lp, &read, &written);
        assert_eq!(code(reader.write(&lp, b"x")), Code::EPIPE);
        assert_eq!(code(writer.read_start(&lp)), Code::ENOTCONN);
        assert!(!lp.is_active(writer).unwrap());
        assert!(lp.is_active(reader).unwrap());
        some_turns(&lp);
        assert_eq!((read.events(), written.events()), (vec![], vec![]));
        reader.finish(&lp).unwrap();
        run_until(&lp, || read.closed());
    });
}

#[test]
fn a_reader_that_goes_is_an_error_at_the_next_write() {
    each_driver(|lp| {
        let (read, written) = (Log::default(), Log::default());
        let (reader, writer) = pair(&lp, &read, &written);
        lp.close(reader).unwrap();
        writer.write(&lp, b"to nobody").unwrap();
        run_until(&lp, || written.closed());
        assert_eq!(written.events(), [Event::Error(Code::EPIPE), Event::Close]);

        // Also when it goes while bytes wait.
        let (read, written) = (Log::default(), Log::default());
        let (reader, writer) = pair(&lp, &read, &written);
        reader.read_stop(&lp).unwrap();
        fill(&lp, *writer);
        lp.close(reader).unwrap();
        run_until(&lp, || written.closed());
        assert!(written.has(&Event::Error(Code::EPIPE)));
    });
}
