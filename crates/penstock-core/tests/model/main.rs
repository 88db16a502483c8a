//! Random programs of several processes, compared with a plain model that is too simple to be wrong.
//!
//! program.rs says what a program is, plain.rs is the model, participant.rs runs the processes, run.rs the
//! steps, and compare.rs compares the two after every one. A program that fails is shrunk, and printed so
//! that it can be pasted into [`kept`].
#![cfg(not(loom))]
#![allow(unsafe_code)]

mod compare;
mod participant;
mod plain;
mod program;
mod run;

use proptest::prelude::*;

use program::*;

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 120,
        max_shrink_time: 120_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_queue_behaves_like_its_model(program in program(1..80)) {
        run::run(&program)?;
    }
}

/// Programs that every run of the test runs.
#[test]
fn kept() {
    let program = |rules: &Rules, steps: &[(usize, Action)]| Program {
        rules: rules.clone(),
        is_named: false,
        steps: steps
            .iter()
            .map(|(by, action)| Step {
                by: *by,
                action: action.clone(),
            })
            .collect(),
    };
    let rules = Rules {
        maxsize: 0,
        max_bytes: None,
        soft_bytes: 0,
        acknowledged: true,
        max_deliveries: 1,
    };
    use Action::*;
    let programs = [
        // Returned items are in front of a younger one, in their old order, and become dead letters at the
        // second return.
        program(
            &rules,
            &[
                (0, Start(Origin::Forked)),
                (0, Put { len: 9, waits: false }),
                (
                    0,
                    Put {
                        len: 70_000,
                        waits: false,
                    },
                ),
                (1, Get { waits: false }),
                (1, Borrow),
                (0, Put { len: 3, waits: false }),
                (1, Kill),
                (0, Start(Origin::Attached)),
                (1, Get { waits: false }),
                (1, Get { waits: false }),
                (1, Kill),
                (0, Get { waits: false }),
                (0, TaskDone),
            ],
        ),
        // Two getters wait, and get the items of a third process that dies.
        program(
            &rules,
            &[
                (0, Start(Origin::Forked)),
                (0, Start(Origin::Forked)),
                (0, Start(Origin::Attached)),
                (
                    0,
                    Put {
                        len: 100,
                        waits: false,
                    },
                ),
                (
                    0,
                    Put {
                        len: 5000,
                        waits: false,
                    },
                ),
                (3, Get { waits: false }),
                (3, Borrow),
                (1, WaitForItem),
                (2, WaitForItem),
                (3, Kill),
                (1, TaskDone),
                (2, TaskDone),
            ],
        ),
    ];
    for program in programs {
        run::run(&program).unwrap_or_else(|error| panic!("{error}\n{program:#?}"));
    }
}

/// Not a test: the program that a participant by descriptor or by name runs.
#[test]
fn a_participant() {
    participant::run_if_asked();
}
