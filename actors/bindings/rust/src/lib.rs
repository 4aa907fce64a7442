//! Actors of a Theater in Rust: the package `theater:simple` by hand, with nothing but the standard library.
//!
//! ```ignore
//! use theater::{Actor, Connection, Mode, Result};
//!
//! struct Echo;
//!
//! impl Actor for Echo {
//!     fn init(_config: &[u8]) -> Result<Self> {
//!         Ok(Echo)
//!     }
//!
//!     fn handle_connection(&mut self, connection: Connection) -> Result<()> {
//!         connection.activate()?;
//!         connection.set_active(Mode::Active)
//!     }
//!
//!     fn on_data(&mut self, connection: &Connection, data: &[u8]) -> Result<()> {
//!         connection.send(data).map(drop)
//!     }
//! }
//!
//! theater::export!(Echo);
//! ```
//!
//! [`Actor`] is what the runtime calls, [`connect`], [`listen`], [`Connection`] and [`Listener`] are what an actor calls;
//! [`runtime`] is the log and the actor's own id, [`clock`] the time of day. A panic ends the actor, and its message is
//! in the runtime's log.

#![warn(missing_docs)]

#[doc(hidden)]
pub mod abi;
mod actor;
pub mod clock;
mod connection;
mod error;
mod listener;
pub mod runtime;
mod tls;

#[doc(hidden)]
pub use actor::Slot;
pub use actor::Actor;
pub use connection::{connect, Connection, Framing, Mode};
pub use error::{Error, Result};
pub use listener::{listen, Listener};
pub use tls::{PeerCertificate, TlsSession};
