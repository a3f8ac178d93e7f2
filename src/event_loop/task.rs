//! Work in a queue.

use smallbox::space::S2;
use smallbox::SmallBox;

use super::Loop;

/// Work that runs on the loop, or hears that it will not.
///
/// Every `FnOnce(&Loop)` is a task; its `cancel` does nothing but drop it.
pub trait Task: Sized + 'static {
    /// Runs it.
    fn run(self, lp: &Loop);
    /// The loop is being freed before it could run.
    fn cancel(self, _lp: &Loop) {}
}

impl<F: FnOnce(&Loop) + 'static> Task for F {
    fn run(self, lp: &Loop) {
        self(lp)
    }
}

/// A [`Task`] in a queue: of whatever type, and used once.
pub(crate) trait Queued {
    fn run(&mut self, lp: &Loop);
    fn cancel(&mut self, lp: &Loop);
}

impl<T: Task> Queued for Option<T> {
    fn run(&mut self, lp: &Loop) {
        if let Some(task) = self.take() {
            task.run(lp);
        }
    }

    fn cancel(&mut self, lp: &Loop) {
        if let Some(task) = self.take() {
            task.cancel(lp);
        }
    }
}

/// A posted task. Two words of it stand in place: posting a C function takes no memory but the
/// queue's.
pub(crate) type Posted = SmallBox<dyn Queued + Send, S2>;
