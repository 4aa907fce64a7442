//! What an actor has from the runtime itself: `theater:simple/runtime`.

use crate::abi::{self, Slice};

#[link(wasm_import_module = "theater:simple/runtime")]
extern "C" {
    #[link_name = "log"]
    fn runtime_log(level: u32, message: *const u8, message_len: usize);
    #[link_name = "self"]
    fn runtime_self(area: *mut Slice);
    #[link_name = "shutdown"]
    fn runtime_shutdown();
}

/// How much a line of the log matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For whoever looks for a fault.
    Debug,
    /// What happens in the normal course.
    Info,
    /// Something that should be looked at.
    Warning,
    /// Something failed.
    Error,
}

/// Writes a line into the runtime's log, under the actor's name.
pub fn log(level: Level, message: &str) {
    // SAFETY: the message lives for as long as the call; the levels have the interface's order.
    unsafe { runtime_log(level as u32, message.as_ptr(), message.len()) }
}

/// The id of this actor: where others `transfer` connections to.
pub fn id() -> String {
    // SAFETY: the area is of the import's type.
    abi::text(|area| unsafe { runtime_self(area) })
}

/// Ends this actor when the call that it is in returns; its connections and listeners are closed.
pub fn shutdown() {
    // SAFETY: nothing is passed.
    unsafe { runtime_shutdown() }
}
