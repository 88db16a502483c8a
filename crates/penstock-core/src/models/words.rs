//! The shared words as the model checker sees them, in the place of the core's atomics.
//!
//! Two kinds, told apart by their types in layout.rs:
//!
//! - `Atomic*`: an atomic of the checker. Every access is a point at which another thread may go on, and a
//!   load may see any value that the memory model allows.
//! - `Locked*`: a plain cell of the checker, which proves that the accesses of different threads are ordered
//!   by happens-before: that is the claim "accessed only under the lock". A stronger check than an atomic
//!   would be, and cheaper, because an access that is ordered anyway offers the scheduler no choice.
//!
//! Every store counts as a step of its process; a process that is to stop does so before a step (world.rs).
//! All bytes zero is a valid word with the value 0 that no thread has accessed, as in fresh memory from the
//! kernel. While a thread unwinds it has stopped: it stores nothing, and reads zeros.

use core::cell::Cell;
use std::thread::panicking;

pub(crate) use ::loom::hint::spin_loop;

use super::world;
use crate::sync::{Ordering, Word};

pub(crate) fn compiler_fence(_: Ordering) {
    // The checker reorders nothing within a thread.
}

pub(crate) fn note_read(bytes: *const u8, len: usize) {
    world::track(bytes as usize, len, |block| block.with(|_| ()));
}

pub(crate) fn note_write(bytes: *mut u8, len: usize) {
    world::step();
    world::track(bytes as usize, len, |block| block.with_mut(|_| ()));
}

macro_rules! atomic {
    ($name:ident, $value:ty) => {
        #[repr(C)]
        pub(crate) struct $name {
            object: Cell<*const ::loom::sync::atomic::$name>,
            /// The value stored last.
            value: Cell<u64>,
        }

        // SAFETY: a model runs all its threads on one thread of the system.
        unsafe impl Send for $name {}
        // SAFETY: as above.
        unsafe impl Sync for $name {}

        impl $name {
            fn object(&self) -> &::loom::sync::atomic::$name {
                if self.object.get().is_null() {
                    let object = ::loom::sync::atomic::$name::new(self.value.get() as $value);
                    self.object
                        .set(world::keep(object, &raw const *self as usize));
                }
                // SAFETY: world::keep keeps the object until the execution ends, and then makes shared words
                // untouched.
                unsafe { &*self.object.get() }
            }

            #[track_caller]
            pub(crate) fn load(&self, order: Ordering) -> $value {
                if panicking() {
                    return 0;
                }
                self.object().load(order)
            }

            #[track_caller]
            pub(crate) fn store(&self, value: $value, order: Ordering) {
                if panicking() {
                    return;
                }
                world::step();
                self.object().store(value, order);
                self.value.set(value as u64);
            }
        }
    };
}
atomic!(AtomicU32, u32);
atomic!(AtomicU64, u64);

macro_rules! exchange {
    ($name:ident, $value:ty) => {
        impl $name {
            #[track_caller]
            pub(crate) fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                if panicking() {
                    return Err(0);
                }
                world::step();
                let exchanged = self.object().compare_exchange(old, new, success, failure);
                if exchanged.is_ok() {
                    self.value.set(new as u64);
                }
                exchanged
            }
        }
    };
}
exchange!(AtomicU32, u32);
exchange!(AtomicU64, u64);

impl AtomicU32 {
    pub(crate) const fn new(value: u32) -> AtomicU32 {
        AtomicU32 {
            object: Cell::new(core::ptr::null()),
            value: Cell::new(value as u64),
        }
    }

    #[track_caller]
    pub(crate) fn swap(&self, value: u32, order: Ordering) -> u32 {
        if panicking() {
            return 0;
        }
        world::step();
        let old = self.object().swap(value, order);
        self.value.set(u64::from(value));
        old
    }

    #[track_caller]
    pub(crate) fn fetch_max(&self, value: u32, order: Ordering) -> u32 {
        if panicking() {
            return 0;
        }
        world::step();
        let old = self.object().fetch_max(value, order);
        self.value.set(u64::from(old.max(value)));
        old
    }

    /// The newest value, as the kernel sees it; the model tries this before and after every store.
    #[track_caller]
    pub(crate) fn read_as_kernel(&self) -> u32 {
        // Always fails, so that it reads the newest value, as every exchange does, and stores nothing.
        let read = self
            .object()
            .compare_exchange(u32::MAX, u32::MAX, Ordering::Relaxed, Ordering::Relaxed);
        read.unwrap_or_else(|newest| newest)
    }
}

macro_rules! locked {
    ($name:ident, $value:ty) => {
        #[repr(C)]
        pub(crate) struct $name {
            object: Cell<*const ::loom::cell::UnsafeCell<()>>,
            value: Cell<u64>,
        }

        // SAFETY: as for the atomics.
        unsafe impl Send for $name {}
        // SAFETY: as above.
        unsafe impl Sync for $name {}

        impl $name {
            fn object(&self) -> &::loom::cell::UnsafeCell<()> {
                if self.object.get().is_null() {
                    let object = ::loom::cell::UnsafeCell::new(());
                    self.object
                        .set(world::keep(object, &raw const *self as usize));
                }
                // SAFETY: as for the atomics.
                unsafe { &*self.object.get() }
            }
        }

        impl Word for $name {
            type Value = $value;
            #[track_caller]
            fn get(&self) -> $value {
                if panicking() {
                    return 0;
                }
                self.object().with(|_| ());
                self.value.get() as $value
            }
            #[track_caller]
            fn set(&self, value: $value) {
                if panicking() {
                    return;
                }
                world::step();
                self.object().with_mut(|_| ());
                self.value.set(value as u64);
            }
        }
    };
}
locked!(LockedU8, u8);
locked!(LockedU32, u32);
locked!(LockedU64, u64);
