//! Listeners: `theater:simple/tcp`, and what `tcp-ext` has about them.

use crate::abi::{self, Outcome};
use crate::{Connection, Result};

#[link(wasm_import_module = "theater:simple/tcp")]
extern "C" {
    #[link_name = "listen"]
    fn tcp_listen(address: *const u8, address_len: usize, outcome: *mut Outcome);
    #[link_name = "accept"]
    fn tcp_accept(id: *const u8, id_len: usize, outcome: *mut Outcome);
    #[link_name = "close-listener"]
    fn tcp_close_listener(id: *const u8, id_len: usize, outcome: *mut Outcome);
}

#[link(wasm_import_module = "theater:simple/tcp-ext")]
extern "C" {
    #[link_name = "listener-address"]
    fn ext_listener_address(id: *const u8, id_len: usize, outcome: *mut Outcome);
}

/// A listener, by its id. To drop it closes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Listener {
    id: String,
}

/// Listens at `host:port`, `[v6]:port`, `*:port` or `unix:/path`. Port 0 lets the system choose.
///
/// # Errors
/// `denied` where the manifest does not permit it, `address-in-use`, `invalid`.
pub fn listen(address: &str) -> Result<Listener> {
    // SAFETY (here and below): what is passed lives for as long as the call, and the area is of the import's type.
    abi::text_or_error(|area| unsafe { tcp_listen(address.as_ptr(), address.len(), area) }).map(|id| Listener { id })
}

impl Listener {
    /// Its id, the same for as long as it lives.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Waits for the next connection, which is pending.
    pub fn accept(&self) -> Result<Connection> {
        abi::text_or_error(|area| unsafe { tcp_accept(self.id.as_ptr(), self.id.len(), area) }).map(Connection::from_id)
    }

    /// The address that it is bound to, with the real port.
    pub fn address(&self) -> Result<String> {
        abi::text_or_error(|area| unsafe { ext_listener_address(self.id.as_ptr(), self.id.len(), area) })
    }

    /// Stops listening; connections that were accepted go on.
    pub fn close(&self) -> Result<()> {
        abi::nothing(|area| unsafe { tcp_close_listener(self.id.as_ptr(), self.id.len(), area) })
    }
}
