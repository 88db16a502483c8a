//! Acting: a thread that runs tasks, or greenlets, in turn makes the calls of each under a number of its own.
//!
//! What is said of a thread holds for such a task then: its items are what its `task_done` finishes first.
//! Only the items that are in hand while nothing is acknowledged (state/aside.rs) are the thread's: it cannot
//! tell that a task has ended.

use crate::platform;
use crate::state::holding::{self, OF_TASK};
use crate::state::slot::BY_NAME;

/// While it lives, the calls of this thread are those of a task.
pub struct Acting {
    former: u32,
}

impl Acting {
    /// As the task of that number. The numbers of threads are below 2^30.
    pub fn of_task(number: u32) -> Acting {
        // The thread's own number may change in that.
        holding::begin();
        Acting {
            former: platform::replace_thread_id(number & !BY_NAME | OF_TASK),
        }
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        platform::replace_thread_id(self.former);
    }
}
