//! The guest: one client's SMTP session, as a plain loop over `receive` and `send`.
//!
//! The protocol is in [`session`] and its neighbours, the way to the store in [`lmtp`]; neither of them calls the host. This
//! is the thin shell around them.

mod commands;
mod content;
mod json;
mod lmtp;
mod replies;
mod session;
mod settings;
mod store;
mod trace;
mod transaction;

use lmtp::{Lmtp, Network};
use session::{Next, Session};
use settings::Settings;
use store::Encryption;
use theater::runtime::{log, Level};
use theater::{clock, Actor, Connection, Error, Result};

/// At most so many octets are taken in one call, which are 2 for each of the store's pieces.
const READ_SIZE: u32 = 65_536;

/// The time of a `receive` that gives what is there: over when the runtime has looked at the socket.
const LOOK: &str = "1 us";

struct Smtp {
    settings: &'static Settings,
    store: Lmtp<'static, StoreConnection>,
}

impl Actor for Smtp {
    fn init(config: &[u8]) -> Result<Smtp> {
        let settings = Settings::parse(config).map_err(|reason| Error::from(format!("invalid: init.{}", reason)))?;
        let settings: &'static Settings = Box::leak(Box::new(settings)); // it lives for as long as the instance
        let connection = StoreConnection { connection: None, timeout: duration(settings.store_timeout) };
        Ok(Smtp { settings, store: Lmtp::new(settings, connection) })
    }

    /// Where this actor has a listener of its own, it is its own client.
    fn handle_connection(&mut self, connection: Connection) -> Result<()> {
        connection.activate()?;
        self.handle_connection_transfer(connection)
    }

    fn handle_connection_transfer(&mut self, connection: Connection) -> Result<()> {
        let id = connection.id();
        let hex = id.bytes().filter(u8::is_ascii_hexdigit).map(char::from).collect::<String>();
        self.store.identifier = hex[hex.len().saturating_sub(16)..].to_owned();
        let outcome = self.serve(&connection);
        self.store.leave();
        if let Err(error) = outcome {
            // The client has gone, or it is slow or no good at TLS: its end, and nobody else's concern.
            log(Level::Debug, &format!("a client has gone: {}", error));
        }
        let _ = connection.close(); // it may have ended already
        Ok(())
    }
}

impl Smtp {
    /// Carry a client's session to its end.
    fn serve(&mut self, connection: &Connection) -> Result<()> {
        if let Some(timeout) = self.settings.timeout {
            connection.set_option("receive_timeout", &duration(timeout))?;
        }
        let peer = connection.peer_address()?;
        let offers_tls = connection.tls_available()?;
        let encryption = if offers_tls { None } else { encryption_of(connection)? };
        if self.settings.require_tls && encryption.is_none() && !offers_tls {
            let address = connection.local_address()?;
            log(Level::Error, &format!("{}: require_tls is set, and there is no TLS to be had", address));
        }
        let mut session = Session::new(self.settings, peer, offers_tls, encryption);
        session.greet();
        connection.send(&session.output)?;
        session.output.clear();
        let mut silent_since = None; // when the first of the bytes came that said nothing yet
        loop {
            let next = match connection.receive(READ_SIZE) {
                Ok(data) if data.is_empty() => return Ok(()),
                Ok(data) => session.receive(&data, &mut self.store),
                Err(error) if error.kind() == "shutdown" => session.shut_down(&mut self.store), // told once
                Err(error) if error.kind() == "timeout" => {
                    session.time_out(&mut self.store);
                    return connection.send(&session.output).map(drop);
                }
                Err(error) => return Err(error),
            };
            if !session.output.is_empty() || session.is_in_content() {
                silent_since = None;
            } else {
                let now = clock::now();
                let since = *silent_since.get_or_insert(now);
                if now.saturating_sub(since).as_millis() > self.settings.command_timeout_ms() {
                    session.time_out(&mut self.store);
                    return connection.send(&session.output).map(drop);
                }
            }
            if !session.output.is_empty() {
                connection.send(&session.output)?;
                session.output.clear();
            }
            match next {
                Next::Listen => {}
                Next::Close => return Ok(()),
                Next::CloseInjected => {
                    tell_injection(connection);
                    return Ok(());
                }
                Next::Upgrade => {
                    session = upgrade(connection, session)?;
                    silent_since = None;
                }
            }
        }
    }
}

/// The connection becomes TLS, and the session as new.
fn upgrade<'a>(connection: &Connection, session: Session<'a>) -> Result<Session<'a>> {
    if let Err(error) = connection.upgrade_to_tls_server() {
        if error.kind() == "plaintext-before-tls" {
            tell_injection(connection);
        }
        return Err(error);
    }
    let encryption = encryption_of(connection)?.ok_or("tls: there is none after the upgrade")?;
    Ok(session.secured(encryption))
}

fn tell_injection(connection: &Connection) {
    let peer = connection.peer_address().unwrap_or_else(|_| "a client".to_owned());
    log(Level::Warning, &format!("{}: closed, for plaintext came behind STARTTLS", peer));
}

fn encryption_of(connection: &Connection) -> Result<Option<Encryption>> {
    Ok(connection.tls_info()?.map(|tls| Encryption { version: tls.version, cipher: tls.cipher }))
}

/// Seconds as a manifest has them.
fn duration(seconds: f64) -> String {
    format!("{:.3} s", seconds)
}

/// What there is to receive, also while the runtime goes down.
fn receive(connection: &Connection) -> Result<Vec<u8>> {
    match connection.receive(READ_SIZE) {
        Err(error) if error.kind() == "shutdown" => connection.receive(READ_SIZE), // it is said once
        data => data,
    }
}

/// The connection to the store.
struct StoreConnection {
    connection: Option<Connection>,
    timeout: String,
}

impl StoreConnection {
    fn open(&self) -> std::result::Result<&Connection, String> {
        self.connection.as_ref().ok_or_else(|| "the connection has ended".to_owned())
    }
}

impl Network for StoreConnection {
    fn connect(&mut self, address: &str) -> std::result::Result<(), String> {
        let connection = theater::connect(address)?;
        connection.set_option("receive_timeout", &self.timeout)?;
        self.connection = Some(connection);
        Ok(())
    }

    fn send(&mut self, data: &[u8]) -> std::result::Result<(), String> {
        Ok(self.open()?.send(data).map(drop)?)
    }

    fn receive(&mut self) -> std::result::Result<Vec<u8>, String> {
        Ok(receive(self.open()?)?)
    }

    fn look(&mut self) -> std::result::Result<Vec<u8>, String> {
        let connection = self.open()?;
        connection.set_option("receive_timeout", LOOK)?;
        let outcome = receive(connection);
        connection.set_option("receive_timeout", &self.timeout)?;
        match outcome {
            Ok(data) if data.is_empty() => Err("it has closed the connection".to_owned()),
            Err(error) if error.kind() == "timeout" => Ok(Vec::new()),
            data => Ok(data?),
        }
    }

    fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            let _ = connection.close(); // it may have ended already
        }
    }

    fn abort(&mut self) {
        if let Some(connection) = self.connection.take() {
            let _ = connection.abort(); // it may have ended already
        }
    }

    fn now_s(&mut self) -> u64 {
        clock::now().as_secs()
    }

    fn warn(&mut self, message: &str) {
        log(Level::Warning, message);
    }
}

theater::export!(Smtp);
