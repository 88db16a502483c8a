//! Nothing but the benchmark in benches/steps.rs: a package of its own, so that no test has to build
//! criterion.
