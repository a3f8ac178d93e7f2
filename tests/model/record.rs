//! What a program did, and the first thing that was not as the model says.

use std::collections::{BTreeMap, VecDeque};

use kolo::{Code, Result};

/// Lines of a trace that are kept: the last ones.
const LINES_MAX: usize = 400;

/// How often each thing happened.
pub type Counts = BTreeMap<&'static str, u64>;

#[derive(Default)]
pub struct Record {
    pub failure: Option<String>,
    pub tracing: bool,
    pub trace: VecDeque<String>,
    /// Calls of the library whose answers were compared with the model's.
    pub steps: u64,
    /// Callbacks that were compared with it.
    pub callbacks: u64,
    pub counts: Counts,
    /// What is noted happens in a callback.
    pub inside: bool,
    /// Nothing is noted: waiting for rest would fill the trace.
    pub quiet: bool,
}

impl Record {
    pub fn new(tracing: bool) -> Record {
        Record {
            tracing,
            ..Record::default()
        }
    }

    pub fn is_over(&self) -> bool {
        self.failure.is_some()
    }

    /// What must hold. The first thing that does not is the failure of the program.
    pub fn check(&mut self, holds: bool, what: impl FnOnce() -> String) -> bool {
        if !holds && self.failure.is_none() {
            let what = what();
            self.failure = Some(what.clone());
            self.note(|| format!("FAILED: {what}"));
        }
        holds
    }

    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if self.tracing && (!self.quiet || self.is_over()) {
            if self.trace.len() == LINES_MAX {
                self.trace.pop_front();
            }
            let indent = if self.inside { "    " } else { "" };
            self.trace.push_back(format!("{indent}{}", line()));
        }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// A call whose outcome the model knows: `None` for success.
    pub fn outcome<T>(&mut self, call: &str, got: Result<T>, expected: Option<Code>) -> Option<T> {
        self.steps += 1;
        let code = got.as_ref().err().map(|error| error.code());
        self.note(|| {
            let name = code.map_or("ok".into(), |code| code.name().to_string());
            format!("{call} -> {name}")
        });
        self.check(code == expected, || {
            format!("{call} gave {code:?}, not {expected:?}")
        });
        got.ok()
    }
}
