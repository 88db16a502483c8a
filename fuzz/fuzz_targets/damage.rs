//! The fuzzer's entry. What lies between the regions of a queue's memory is poisoned for AddressSanitizer.
#![no_main]
#![allow(unsafe_code)]

use std::ffi::c_void;

use libfuzzer_sys::fuzz_target;
use penstock_fuzz::Access;

unsafe extern "C" {
    fn __asan_poison_memory_region(start: *const c_void, size: usize);
    fn __asan_unpoison_memory_region(start: *const c_void, size: usize);
}

fn mapped(base: *const u8, access: Access<'_>) {
    let (ranges, mark): (_, unsafe extern "C" fn(*const c_void, usize)) = match access {
        Access::Forbidden(ranges) => (ranges, __asan_poison_memory_region),
        Access::Allowed(ranges) => (ranges, __asan_unpoison_memory_region),
    };
    for range in ranges {
        // SAFETY: marks addresses of a mapping for the sanitizer and touches nothing.
        unsafe {
            mark(
                base.wrapping_add(range.start as usize).cast(),
                (range.end - range.start) as usize,
            )
        };
    }
}

fuzz_target!(|input: &[u8]| {
    penstock_fuzz::run_with(input, mapped);
});
