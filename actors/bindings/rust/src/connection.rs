//! Connections: `theater:simple/tcp`, and what `tcp-ext` has about them.

use crate::abi::{self, Outcome, OutcomeBool, OutcomeU64};
use crate::tls::{self, TlsSession};
use crate::Result;

#[link(wasm_import_module = "theater:simple/tcp")]
extern "C" {
    #[link_name = "connect"]
    fn tcp_connect(address: *const u8, address_len: usize, outcome: *mut Outcome);
    #[link_name = "activate"]
    fn tcp_activate(id: *const u8, id_len: usize, outcome: *mut Outcome);
    #[link_name = "set-active"]
    fn tcp_set_active(id: *const u8, id_len: usize, mode: *const u8, mode_len: usize, outcome: *mut Outcome);
    #[link_name = "transfer"]
    fn tcp_transfer(id: *const u8, id_len: usize, target: *const u8, target_len: usize, outcome: *mut Outcome);
    #[link_name = "peer-address"]
    fn tcp_peer_address(id: *const u8, id_len: usize, outcome: *mut Outcome);
    #[link_name = "send"]
    fn tcp_send(id: *const u8, id_len: usize, data: *const u8, data_len: usize, outcome: *mut OutcomeU64);
    #[link_name = "receive"]
    fn tcp_receive(id: *const u8, id_len: usize, max_bytes: u32, outcome: *mut Outcome);
    #[link_name = "close"]
    fn tcp_close(id: *const u8, id_len: usize, outcome: *mut Outcome);
    #[link_name = "upgrade-to-tls-server"]
    fn tcp_upgrade_server(id: *const u8, id_len: usize, outcome: *mut Outcome);
    #[link_name = "upgrade-to-tls-client"]
    fn tcp_upgrade_client(id: *const u8, id_len: usize, name: *const u8, name_len: usize, outcome: *mut Outcome);
}

#[link(wasm_import_module = "theater:simple/tcp-ext")]
extern "C" {
    #[link_name = "local-address"]
    fn ext_local_address(id: *const u8, id_len: usize, outcome: *mut Outcome);
    #[link_name = "shutdown-write"]
    fn ext_shutdown_write(id: *const u8, id_len: usize, outcome: *mut Outcome);
    #[link_name = "abort"]
    fn ext_abort(id: *const u8, id_len: usize, outcome: *mut Outcome);
    #[link_name = "set-framing"]
    fn ext_set_framing(
        id: *const u8,
        id_len: usize,
        framing: *const u8,
        framing_len: usize,
        max_frame: u32,
        outcome: *mut Outcome,
    );
    #[link_name = "set-option"]
    fn ext_set_option(
        id: *const u8,
        id_len: usize,
        name: *const u8,
        name_len: usize,
        value: *const u8,
        value_len: usize,
        outcome: *mut Outcome,
    );
    #[link_name = "tls-info"]
    fn ext_tls_info(id: *const u8, id_len: usize, outcome: *mut tls::Outcome);
    #[link_name = "tls-available"]
    fn ext_tls_available(id: *const u8, id_len: usize, outcome: *mut OutcomeBool);
}

/// How the data of a connection reaches its actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The actor asks for it by `receive`.
    Passive,
    /// By `on_data`, as it comes.
    Active,
    /// By one `on_data`; the connection is passive when that begins.
    Once,
    /// By so many `on_data` (1 to 32767), then `on_passive`.
    Count(u16),
}

/// How the stream is cut into the chunks that `receive` and `on_data` give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// As it comes.
    Raw,
    /// A line with its line feed.
    Line,
    /// What follows a big-endian length of one byte; `send` puts the length before it.
    Length1,
    /// The same with two bytes.
    Length2,
    /// The same with four bytes.
    Length4,
}

/// A connection, by its id. It is a name and nothing more: a clone means the same connection, and to drop it closes
/// nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Connection {
    id: String,
}

/// Connects to `host:port`, `[v6]:port` or `unix:/path`. The connection is open and passive.
///
/// # Errors
/// `denied` where the manifest does not permit it, `refused`, `unreachable`, `timeout`, `invalid`.
pub fn connect(address: &str) -> Result<Connection> {
    // SAFETY (here and below): what is passed lives for as long as the call, and the area is of the import's type.
    abi::text_or_error(|area| unsafe { tcp_connect(address.as_ptr(), address.len(), area) }).map(Connection::from_id)
}

impl Connection {
    /// The connection that has this id.
    pub fn from_id(id: String) -> Self {
        Connection { id }
    }

    /// Its id, the same for as long as it lives.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Makes a pending connection open, in passive mode.
    ///
    /// # Errors
    /// `already-active` if it is open, which is harmless.
    pub fn activate(&self) -> Result<()> {
        abi::nothing(|area| unsafe { tcp_activate(self.id.as_ptr(), self.id.len(), area) })
    }

    /// Changes how data arrives.
    pub fn set_active(&self, mode: Mode) -> Result<()> {
        match mode {
            Mode::Passive => self.set_mode("passive"),
            Mode::Active => self.set_mode("active"),
            Mode::Once => self.set_mode("once"),
            Mode::Count(times) => self.set_mode(&times.to_string()),
        }
    }

    fn set_mode(&self, mode: &str) -> Result<()> {
        abi::nothing(|area| unsafe {
            tcp_set_active(self.id.as_ptr(), self.id.len(), mode.as_ptr(), mode.len(), area)
        })
    }

    /// Hands the connection to another actor, named by its id. That one gets it open and passive, with every byte that
    /// was not read.
    ///
    /// # Errors
    /// `no-such-actor` if there is none that takes it; nothing has changed then.
    pub fn transfer(&self, target: &str) -> Result<()> {
        abi::nothing(|area| unsafe {
            tcp_transfer(self.id.as_ptr(), self.id.len(), target.as_ptr(), target.len(), area)
        })
    }

    /// The peer's address, as `connect` takes it.
    pub fn peer_address(&self) -> Result<String> {
        abi::text_or_error(|area| unsafe { tcp_peer_address(self.id.as_ptr(), self.id.len(), area) })
    }

    /// The address of this end.
    pub fn local_address(&self) -> Result<String> {
        abi::text_or_error(|area| unsafe { ext_local_address(self.id.as_ptr(), self.id.len(), area) })
    }

    /// Sends all of the data, waiting while the peer is too slow; gives its length.
    ///
    /// # Errors
    /// `timeout` if the peer took nothing for too long; the connection is closed then.
    pub fn send(&self, data: &[u8]) -> Result<u64> {
        abi::number_or_error(|area| unsafe {
            tcp_send(self.id.as_ptr(), self.id.len(), data.as_ptr(), data.len(), area)
        })
    }

    /// Waits for 1 to `max_bytes` bytes of a passive connection; nothing is the end of the stream.
    pub fn receive(&self, max_bytes: u32) -> Result<Vec<u8>> {
        abi::bytes_or_error(|area| unsafe { tcp_receive(self.id.as_ptr(), self.id.len(), max_bytes, area) })
    }

    /// Sends what is still to be sent, then ends the connection. Returns at once; no callback follows.
    pub fn close(&self) -> Result<()> {
        abi::nothing(|area| unsafe { tcp_close(self.id.as_ptr(), self.id.len(), area) })
    }

    /// Half-close: what was sent goes out, then the end of the stream; receiving goes on.
    pub fn shutdown_write(&self) -> Result<()> {
        abi::nothing(|area| unsafe { ext_shutdown_write(self.id.as_ptr(), self.id.len(), area) })
    }

    /// Resets the connection at once; what was not sent is lost. No callback follows.
    pub fn abort(&self) -> Result<()> {
        abi::nothing(|area| unsafe { ext_abort(self.id.as_ptr(), self.id.len(), area) })
    }

    /// Cuts the stream into chunks. `max_frame` is the longest line (with its line feed) or frame in bytes; 0 is the
    /// connection's `read_buffer_limit`.
    pub fn set_framing(&self, framing: Framing, max_frame: u32) -> Result<()> {
        let name = match framing {
            Framing::Raw => "raw",
            Framing::Line => "line",
            Framing::Length1 => "length-1",
            Framing::Length2 => "length-2",
            Framing::Length4 => "length-4",
        };
        abi::nothing(|area| unsafe {
            ext_set_framing(self.id.as_ptr(), self.id.len(), name.as_ptr(), name.len(), max_frame, area)
        })
    }

    /// Changes an option by the name and the units that it has in a manifest: `idle_timeout`, `5 min`.
    pub fn set_option(&self, name: &str, value: &str) -> Result<()> {
        let (id, id_len) = (self.id.as_ptr(), self.id.len());
        abi::nothing(|area| unsafe {
            ext_set_option(id, id_len, name.as_ptr(), name.len(), value.as_ptr(), value.len(), area)
        })
    }

    /// Goes on in TLS, as the server (STARTTLS); returns when the handshake is done.
    ///
    /// # Errors
    /// `already-tls`, `tls-not-configured`; after `plaintext-before-tls`, `tls` and `timeout` the connection is closed.
    pub fn upgrade_to_tls_server(&self) -> Result<()> {
        abi::nothing(|area| unsafe { tcp_upgrade_server(self.id.as_ptr(), self.id.len(), area) })
    }

    /// Goes on in TLS, as the client; `server_name` is the name that the server's certificate must show.
    ///
    /// # Errors
    /// As for `upgrade_to_tls_server`.
    pub fn upgrade_to_tls_client(&self, server_name: &str) -> Result<()> {
        let (id, id_len) = (self.id.as_ptr(), self.id.len());
        abi::nothing(|area| unsafe {
            tcp_upgrade_client(id, id_len, server_name.as_ptr(), server_name.len(), area)
        })
    }

    /// What was agreed on in TLS; none in plaintext.
    pub fn tls_info(&self) -> Result<Option<TlsSession>> {
        tls::session_or_error(|area| unsafe { ext_tls_info(self.id.as_ptr(), self.id.len(), area) })
    }

    /// Whether `upgrade_to_tls_server` could begin: the connection is plaintext, and a certificate is configured.
    pub fn tls_available(&self) -> Result<bool> {
        abi::flag_or_error(|area| unsafe { ext_tls_available(self.id.as_ptr(), self.id.len(), area) })
    }
}
