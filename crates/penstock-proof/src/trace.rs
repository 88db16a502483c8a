//! A traced process: stepped, run to an instruction, killed there.
//!
//! It stops by itself at two markers around the operation. Between them each `PTRACE_SINGLESTEP` is one
//! instruction; a system call is one too. A `rep` string instruction stops after each repetition: see
//! path.rs.
#![allow(unsafe_code)]

use std::io;
use std::time::Duration;

use crate::process::{self, Child};

std::arch::global_asm!(
    ".globl penstock_proof_begin",
    "penstock_proof_begin:",
    "int3",
    "ret",
    ".globl penstock_proof_end",
    "penstock_proof_end:",
    "int3",
    "ret",
);

unsafe extern "C" {
    fn penstock_proof_begin();
    fn penstock_proof_end();
}

/// Where a process stands whose operation has ended.
pub fn end() -> u64 {
    penstock_proof_end as *const () as u64
}

/// Runs what is to be traced, between the markers.
pub fn between_markers(run: impl FnOnce()) {
    // SAFETY: the markers stop a traced process and do nothing else.
    unsafe { penstock_proof_begin() };
    run();
    // SAFETY: as above.
    unsafe { penstock_proof_end() };
}

/// Lets the parent trace this process from now on. False if the system forbids it.
pub fn trace_me() -> bool {
    // SAFETY: affects this process alone.
    unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) == 0 }
}

/// What is still to be done, once, when the traced process sleeps.
#[derive(Default)]
pub struct WhenAsleep<'a>(pub Option<Box<dyn FnMut() + 'a>>);

/// Where a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub instruction: u64,
    /// Bytes of stack in use since the begin marker.
    pub depth: i64,
}

/// The operation has ended before the place was reached.
#[derive(Debug)]
pub struct Ended;

pub struct Tracee {
    child: Child,
    start_stack: u64,
}

impl Tracee {
    /// Waits until the child stands at the begin marker.
    pub fn new(child: Child) -> Tracee {
        let mut tracee = Tracee {
            child,
            start_stack: 0,
        };
        tracee.await_trap(&mut WhenAsleep::default());
        let registers = tracee.registers();
        assert_eq!(
            registers.rip,
            penstock_proof_begin as *const () as u64 + 1,
            "it stopped elsewhere"
        );
        tracee.start_stack = registers.rsp;
        tracee
    }

    fn request(&self, request: libc::c_uint, address: u64, data: u64) -> i64 {
        // SAFETY: the child is traced by this process and stopped; `data` is a number, or a pointer to a
        // local.
        let answer = unsafe { libc::ptrace(request, self.child.pid, address, data) };
        assert!(
            answer != -1 || request == libc::PTRACE_PEEKTEXT,
            "ptrace({request}): {}",
            io::Error::last_os_error()
        );
        answer
    }

    fn await_trap(&mut self, when_asleep: &mut WhenAsleep<'_>) {
        let pid = self.child.pid;
        while when_asleep.0.is_some() {
            if let Some(status) = process::wait_for(pid, libc::WNOHANG) {
                return self.expect_trap(status);
            }
            if process::state_of(pid) == Some(b'S') {
                if let Some(mut call) = when_asleep.0.take() {
                    call();
                }
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        let status = process::wait_for(pid, 0).unwrap_or(0);
        self.expect_trap(status);
    }

    fn expect_trap(&mut self, status: i32) {
        if process::is_end(status) {
            self.child.was_reaped();
        }
        assert!(
            libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGTRAP,
            "the traced process did not stop but has status {status:#x}"
        );
    }

    fn registers(&self) -> libc::user_regs_struct {
        // SAFETY: a plain C struct, for which zeros are valid.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        self.request(libc::PTRACE_GETREGS, 0, &raw mut registers as u64);
        registers
    }

    pub fn place(&self) -> Place {
        let registers = self.registers();
        Place {
            instruction: registers.rip,
            depth: self.start_stack as i64 - registers.rsp as i64,
        }
    }

    /// Whether the next instruction is a system call that may sleep.
    pub fn is_before_sleep(&self) -> bool {
        let registers = self.registers();
        let wait = |operation: u64| operation & 0x7f == libc::FUTEX_WAIT as u64;
        // A poll that does not wait has a time-out of zero seconds and nanoseconds.
        let may_wait = |timeout: u64| timeout == 0 || self.peek(timeout) | self.peek(timeout + 8) != 0;
        self.peek(registers.rip) & 0xffff == 0x050f
            && (registers.rax == libc::SYS_futex as u64 && wait(registers.rsi)
                || registers.rax == libc::SYS_ppoll as u64 && may_wait(registers.rdx))
    }

    fn peek(&self, address: u64) -> u64 {
        self.request(libc::PTRACE_PEEKTEXT, address, 0) as u64
    }

    /// Sets the debug register with that number.
    fn set_debug_register(&self, number: usize, value: u64) {
        let offset = std::mem::offset_of!(libc::user, u_debugreg) + number * size_of::<u64>();
        self.request(libc::PTRACE_POKEUSER, offset as u64, value);
    }

    /// Length of a `rep` string instruction; 0 if it is another one.
    pub fn rep_length(&self, address: u64) -> u64 {
        let bytes = self.peek(address).to_le_bytes();
        if !matches!(bytes[0], 0xf2 | 0xf3) {
            return 0;
        }
        let prefixes = 1 + u64::from(bytes[1] & 0xf0 == 0x40);
        if matches!(bytes[prefixes as usize], 0xa4..=0xa7 | 0xaa..=0xaf) {
            prefixes + 1
        } else {
            0
        }
    }

    /// One instruction.
    pub fn step(&mut self) {
        self.step_asleep(&mut WhenAsleep::default());
    }

    /// One instruction, which may be a system call that sleeps.
    pub fn step_asleep(&mut self, when_asleep: &mut WhenAsleep<'_>) {
        self.request(libc::PTRACE_SINGLESTEP, 0, 0);
        self.await_trap(when_asleep);
    }

    /// Lets it run until it is about to execute `instruction` for the `times`-th time from here on.
    pub fn run_to(
        &mut self,
        instruction: u64,
        times: u32,
        when_asleep: &mut WhenAsleep<'_>,
    ) -> Result<(), Ended> {
        for _ in 0..times {
            if self.place().instruction == instruction {
                self.step();
            }
            self.set_debug_register(0, instruction);
            self.set_debug_register(7, 1);
            self.request(libc::PTRACE_CONT, 0, 0);
            self.await_trap(when_asleep);
            self.set_debug_register(7, 0);
            if self.place().instruction != instruction {
                assert_eq!(self.place().instruction, end() + 1, "it stopped elsewhere");
                return Err(Ended);
            }
        }
        Ok(())
    }

    /// Kills it where it stands.
    pub fn kill(mut self) {
        process::kill(self.child.pid);
        let status = process::wait_for(self.child.pid, 0).unwrap_or(0);
        self.child.was_reaped();
        assert!(
            process::was_killed(status),
            "it was to die but has status {status:#x}"
        );
    }

    /// Lets it start the system call that it stands before, and kills it when it sleeps there. False if it
    /// did not sleep.
    pub fn kill_asleep(mut self) -> bool {
        self.request(libc::PTRACE_SINGLESTEP, 0, 0);
        loop {
            if let Some(status) = process::wait_for(self.child.pid, libc::WNOHANG) {
                self.expect_trap(status);
                self.kill();
                return false;
            }
            if process::state_of(self.child.pid) == Some(b'S') {
                self.kill();
                return true;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Whether this system allows what the proof needs; if not, why, in a sentence.
pub fn try_out() -> Result<(), &'static str> {
    const FORBIDDEN: i32 = 77;
    let mut child = Child::run(|| {
        if !trace_me() {
            process::exit(FORBIDDEN);
        }
        between_markers(|| {});
        process::exit(0);
    });
    let status = process::wait_for(child.pid, 0).unwrap_or(0);
    if process::is_end(status) {
        child.was_reaped();
        return Err(
            "this system forbids ptrace (seccomp, or yama's ptrace_scope), by which the proof kills.",
        );
    }
    let mut tracee = Tracee {
        child,
        start_stack: 0,
    };
    let offset = std::mem::offset_of!(libc::user, u_debugreg);
    // SAFETY: the child is traced by this process and stopped; the arguments are numbers.
    let answer = unsafe { libc::ptrace(libc::PTRACE_POKEUSER, tracee.child.pid, offset, end()) };
    if answer == -1 || tracee.run_to(end(), 1, &mut WhenAsleep::default()).is_err() {
        return Err("this system gives ptrace no hardware breakpoints, by which the proof finds its places.");
    }
    Ok(())
}
