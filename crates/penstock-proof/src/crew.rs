//! The crew: cases run in processes forked from one pristine image, many at a time, because most of them
//! sleep.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::case::{Report, Request, perform};
use crate::path::Paths;
use crate::process::{self, Child, Pipe};

/// Longer than a case's own watchdog.
const LOST: Duration = Duration::from_secs(100);

pub struct Crew {
    requests: Pipe,
    reports: Pipe,
    pub paths: &'static Paths,
    at_work: HashMap<u32, (Request, Instant)>,
    most: usize,
    next_id: u32,
    _forker: Child,
}

impl Crew {
    pub fn new(most: usize) -> Crew {
        let paths: &'static Paths = Box::leak(Box::new(Paths::new()));
        let (mut requests, mut reports) = (Pipe::new(), Pipe::new());
        // Takes no memory after its start, so that what it forks is always the same.
        let forker = Child::run(|| {
            process::let_children_go();
            // A case reports its panic itself.
            std::panic::set_hook(Box::new(|_| {}));
            requests.close_writer();
            while let Some(request) = requests.receive::<Request>(Duration::from_secs(3600)) {
                process::run_detached(|| perform(&request, paths, &reports));
            }
        });
        requests.close_reader();
        reports.close_writer();
        Crew {
            requests,
            reports,
            paths,
            at_work: HashMap::new(),
            most,
            next_id: 0,
            _forker: forker,
        }
    }

    /// Lets cases perform all requests, in about that order, so many at once at most; `done` is told of each.
    pub fn run(
        &mut self,
        requests: impl IntoIterator<Item = Request>,
        at_once: usize,
        mut done: impl FnMut(&Request, &Report),
    ) {
        let mut requests = requests.into_iter();
        loop {
            while self.at_work.len() < self.most.min(at_once) {
                let Some(mut request) = requests.next() else { break };
                self.next_id += 1;
                request.id = self.next_id;
                self.at_work.insert(request.id, (request, Instant::now()));
                self.requests.send(&request);
            }
            if self.at_work.is_empty() {
                return;
            }
            match self.reports.receive::<Report>(Duration::from_secs(1)) {
                Some(report) => {
                    if let Some((request, _)) = self.at_work.remove(&report.id) {
                        done(&request, &report);
                    }
                }
                None => self.give_up_on_the_lost(&mut done),
            }
        }
    }

    fn give_up_on_the_lost(&mut self, done: &mut impl FnMut(&Request, &Report)) {
        self.at_work.retain(|id, (request, since)| {
            let is_lost = since.elapsed() > LOST;
            if is_lost {
                done(request, &Report::failed(*id, "the case ended without a word"));
            }
            !is_lost
        });
    }
}
