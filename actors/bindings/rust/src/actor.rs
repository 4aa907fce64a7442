//! What the runtime calls.

use crate::abi::{self, Outcome};
use crate::runtime::{log, Level};
use crate::{Connection, Error, Result};
use std::cell::RefCell;

/// An actor: what `export!` makes callable for the runtime, one call at a time.
///
/// An error that a callback returns ends the connection which the call was about, and nothing else. A panic ends the
/// actor.
pub trait Actor: Sized {
    /// The actor's start. `config` is what its manifest has under `init`: a mapping as JSON, a text as it is. An
    /// error, and the actor does not start.
    fn init(config: &[u8]) -> Result<Self>;

    /// A listener of this actor accepted a connection; it is pending, until `activate` or `transfer`.
    ///
    /// Where this is not written, the actor takes no connections, and what comes is closed.
    fn handle_connection(&mut self, connection: Connection) -> Result<()> {
        connection.close()
    }

    /// Another actor handed a connection over, or the runtime did that accepted it for this actor; it is open and
    /// passive.
    ///
    /// Where this is not written, such a connection is not wanted, and is closed.
    fn handle_connection_transfer(&mut self, connection: Connection) -> Result<()> {
        connection.close()
    }

    /// A chunk of a connection whose data is pushed.
    fn on_data(&mut self, connection: &Connection, data: &[u8]) -> Result<()> {
        let _ = (connection, data);
        Ok(())
    }

    /// The count given to `set_active` ran out; the connection is passive.
    fn on_passive(&mut self, connection: &Connection) -> Result<()> {
        let _ = connection;
        Ok(())
    }

    /// The connection ended, and not by this actor's `close` or `abort`. The reason is `eof` or the kind of an error,
    /// with or without a detail.
    fn on_close(&mut self, connection: &Connection, reason: &str) -> Result<()> {
        let _ = (connection, reason);
        Ok(())
    }
}

/// Where `export!` keeps the actor between two calls.
#[doc(hidden)]
pub struct Slot<A>(RefCell<Option<A>>);

// SAFETY: a guest has one thread.
unsafe impl<A> Sync for Slot<A> {}

impl<A: Actor> Slot<A> {
    pub const fn empty() -> Self {
        Slot(RefCell::new(None))
    }

    pub fn init(&self, config: &[u8]) -> *mut Outcome {
        std::panic::set_hook(Box::new(|panic| log(Level::Error, &panic.to_string())));
        abi::lower(A::init(config).map(|actor| drop(self.0.borrow_mut().replace(actor))))
    }

    pub fn call(&self, callback: impl FnOnce(&mut A) -> Result<()>) -> *mut Outcome {
        abi::lower(match self.0.borrow_mut().as_mut() {
            Some(actor) => callback(actor),
            None => Err(Error::from("closed: the actor has not started")),
        })
    }
}

/// Exports an actor: one line in the crate that is the guest.
///
/// `export!(Echo);` is for the worlds `server` and `server-with-clock`; `export!(Spider, client);` is for an actor of the
/// world `client`, which does all its work in `init`.
#[macro_export]
macro_rules! export {
    ($actor:ty) => {
        $crate::export!(@actor $actor {
            type Area = *mut $crate::abi::Outcome;

            #[export_name = "theater:simple/tcp-client#handle-connection"]
            unsafe extern "C" fn handle_connection(id: *mut u8, id_len: usize) -> Area {
                let connection = $crate::Connection::from_id($crate::abi::string(id, id_len));
                ACTOR.call(|actor| $crate::Actor::handle_connection(actor, connection))
            }

            #[export_name = "theater:simple/tcp-client#handle-connection-transfer"]
            unsafe extern "C" fn handle_connection_transfer(id: *mut u8, id_len: usize) -> Area {
                let connection = $crate::Connection::from_id($crate::abi::string(id, id_len));
                ACTOR.call(|actor| $crate::Actor::handle_connection_transfer(actor, connection))
            }

            #[export_name = "theater:simple/tcp-client#on-data"]
            unsafe extern "C" fn on_data(id: *mut u8, id_len: usize, data: *mut u8, data_len: usize) -> Area {
                let connection = $crate::Connection::from_id($crate::abi::string(id, id_len));
                let data = $crate::abi::bytes(data, data_len);
                ACTOR.call(|actor| $crate::Actor::on_data(actor, &connection, &data))
            }

            #[export_name = "theater:simple/tcp-client#on-passive"]
            unsafe extern "C" fn on_passive(id: *mut u8, id_len: usize) -> Area {
                let connection = $crate::Connection::from_id($crate::abi::string(id, id_len));
                ACTOR.call(|actor| $crate::Actor::on_passive(actor, &connection))
            }

            #[export_name = "theater:simple/tcp-client#on-close"]
            unsafe extern "C" fn on_close(id: *mut u8, id_len: usize, reason: *mut u8, reason_len: usize) -> Area {
                let connection = $crate::Connection::from_id($crate::abi::string(id, id_len));
                let reason = $crate::abi::string(reason, reason_len);
                ACTOR.call(|actor| $crate::Actor::on_close(actor, &connection, &reason))
            }

            #[export_name = "cabi_post_theater:simple/tcp-client#handle-connection"]
            unsafe extern "C" fn post_handle_connection(outcome: Area) {
                $crate::abi::post_return(outcome)
            }

            #[export_name = "cabi_post_theater:simple/tcp-client#handle-connection-transfer"]
            unsafe extern "C" fn post_handle_connection_transfer(outcome: Area) {
                $crate::abi::post_return(outcome)
            }

            #[export_name = "cabi_post_theater:simple/tcp-client#on-data"]
            unsafe extern "C" fn post_on_data(outcome: Area) {
                $crate::abi::post_return(outcome)
            }

            #[export_name = "cabi_post_theater:simple/tcp-client#on-passive"]
            unsafe extern "C" fn post_on_passive(outcome: Area) {
                $crate::abi::post_return(outcome)
            }

            #[export_name = "cabi_post_theater:simple/tcp-client#on-close"]
            unsafe extern "C" fn post_on_close(outcome: Area) {
                $crate::abi::post_return(outcome)
            }
        });
    };
    ($actor:ty, client) => {
        $crate::export!(@actor $actor {});
    };
    (@actor $actor:ty { $($callbacks:item)* }) => {
        const _: () = {
            static ACTOR: $crate::Slot<$actor> = $crate::Slot::empty();

            #[export_name = "cabi_realloc"]
            unsafe extern "C" fn reallocate(old: *mut u8, old_size: usize, alignment: usize, size: usize) -> *mut u8 {
                $crate::abi::reallocate(old, old_size, alignment, size)
            }

            #[export_name = "theater:simple/actor#init"]
            unsafe extern "C" fn init(config: *mut u8, config_len: usize) -> *mut $crate::abi::Outcome {
                ACTOR.init(&$crate::abi::bytes(config, config_len))
            }

            #[export_name = "cabi_post_theater:simple/actor#init"]
            unsafe extern "C" fn post_init(outcome: *mut $crate::abi::Outcome) {
                $crate::abi::post_return(outcome)
            }

            $($callbacks)*
        };
    };
}
