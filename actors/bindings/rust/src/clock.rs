//! The time of day: `theater:simple/clock`, in the world `server-with-clock`. A guest imports it only if it calls `now`.

use std::time::Duration;

#[link(wasm_import_module = "theater:simple/clock")]
extern "C" {
    #[link_name = "now"]
    fn clock_now() -> u64;
}

/// The time since 1970-01-01 00:00 UTC, to the millisecond.
pub fn now() -> Duration {
    // SAFETY: nothing is passed.
    Duration::from_millis(unsafe { clock_now() })
}
