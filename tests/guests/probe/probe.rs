//! Makes every call of the interface that it is told to, by lines: `send hello` is answered by `ok 5`, or by `error`
//! and the error's text. For the tests of the bindings; `probe.c` is the same in C.

use std::fmt::Display;
use theater::runtime::Level;
use theater::{Actor, Connection, Error, Framing, Mode, PeerCertificate, Result, TlsSession};

struct Probe {
    heard: Vec<String>,
}

impl Actor for Probe {
    fn init(config: &[u8]) -> Result<Self> {
        match std::str::from_utf8(config) {
            Ok("refuse") => Err("invalid: as it was told".into()),
            Ok("panic") => panic!("as it was told"),
            _ => Ok(Probe { heard: vec![format!("init {}", config.len())] }),
        }
    }

    fn handle_connection(&mut self, connection: Connection) -> Result<()> {
        connection.activate()?;
        connection.set_framing(Framing::Line, 0)?;
        connection.set_active(Mode::Once)
    }

    fn handle_connection_transfer(&mut self, connection: Connection) -> Result<()> {
        self.heard.push("transfer".into());
        connection.set_active(Mode::Once)
    }

    fn on_data(&mut self, connection: &Connection, line: &[u8]) -> Result<()> {
        let line = String::from_utf8_lossy(line);
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["fail", text] => return Err(text.into()),
            ["panic"] => panic!("as it was told"),
            ["close"] => return connection.close(),
            ["abort"] => return connection.abort(),
            ["shutdown"] => theater::runtime::shutdown(),
            ["transfer", target] => {
                if let Err(error) = connection.transfer(target) {
                    answer(connection, Err(error))?;
                    return connection.set_active(Mode::Once);
                }
                return Ok(());
            }
            ["count", number] => {
                return connection.set_active(Mode::Count(number.parse().unwrap_or(0)));
            }
            ["counted"] => return Ok(()),
            _ => answer(connection, self.obey(connection, &words))?,
        }
        connection.set_active(Mode::Once)
    }

    fn on_passive(&mut self, connection: &Connection) -> Result<()> {
        self.heard.push("passive".into());
        connection.set_active(Mode::Once)
    }

    fn on_close(&mut self, _connection: &Connection, reason: &str) -> Result<()> {
        self.heard.push(format!("close {reason}"));
        Ok(())
    }
}

impl Probe {
    fn obey(&mut self, connection: &Connection, words: &[&str]) -> Result<String> {
        match *words {
            ["heard"] => Ok(self.heard.drain(..).collect::<Vec<_>>().join(", ")),
            ["activate"] => connection.activate().map(nothing),
            ["mode", "passive"] => connection.set_active(Mode::Passive).map(nothing),
            ["mode", "active"] => connection.set_active(Mode::Active).map(nothing),
            ["peer"] => connection.peer_address(),
            ["local"] => connection.local_address(),
            ["send", text] => connection.send(text.as_bytes()).map(shown),
            ["receive", most] => {
                let data = connection.receive(most.parse().unwrap_or(0))?;
                Ok(String::from_utf8_lossy(&data).trim_end().to_owned())
            }
            ["shutdown-write"] => connection.shutdown_write().map(nothing),
            ["framing", name, most] => {
                let framing = match name {
                    "raw" => Framing::Raw,
                    "length-1" => Framing::Length1,
                    "length-2" => Framing::Length2,
                    "length-4" => Framing::Length4,
                    _ => Framing::Line,
                };
                connection.set_framing(framing, most.parse().unwrap_or(0)).map(nothing)
            }
            ["option", name, value] => connection.set_option(name, value).map(nothing),
            ["connect", address] => {
                let other = theater::connect(address)?;
                other.send(b"ping\n")?;
                let data = other.receive(100)?;
                other.close()?;
                Ok(String::from_utf8_lossy(&data).trim_end().to_owned())
            }
            ["connect-tls", address, name] => {
                let other = theater::connect(address)?;
                other.upgrade_to_tls_client(name)?;
                let session = other.tls_info()?;
                other.close()?;
                Ok(session.map_or("plaintext".to_owned(), told))
            }
            ["accept", address] => {
                let listener = theater::listen(address)?;
                answer(connection, listener.address())?;
                let other = listener.accept()?;
                listener.close()?;
                other.activate()?;
                let data = other.receive(100)?;
                other.close()?;
                Ok(String::from_utf8_lossy(&data).trim_end().to_owned())
            }
            ["tls-available"] => connection.tls_available().map(shown),
            ["upgrade"] => {
                connection.set_framing(Framing::Raw, 0)?;
                answer(connection, Ok("go on".to_owned()))?;
                connection.upgrade_to_tls_server()?;
                connection.set_framing(Framing::Line, 0).map(nothing)
            }
            ["tls-info"] => Ok(connection.tls_info()?.map_or("plaintext".to_owned(), told)),
            ["log", level, text] => {
                let level = match level {
                    "debug" => Level::Debug,
                    "info" => Level::Info,
                    "warning" => Level::Warning,
                    _ => Level::Error,
                };
                theater::runtime::log(level, text);
                Ok(String::new())
            }
            ["self"] => Ok(theater::runtime::id()),
            ["now"] => Ok(theater::clock::now().as_millis().to_string()),
            _ => Err(Error::from("invalid: no such command")),
        }
    }
}

fn answer(connection: &Connection, outcome: Result<String>) -> Result<()> {
    let line = match outcome {
        Ok(text) => format!("ok {text}\n"),
        Err(error) => format!("error {error}\n"),
    };
    connection.send(line.as_bytes()).map(drop)
}

fn nothing(_: ()) -> String {
    String::new()
}

fn shown(value: impl Display) -> String {
    value.to_string()
}

fn told(session: TlsSession) -> String {
    let text = |option: Option<String>| option.unwrap_or("-".to_owned());
    let certificate = session.peer_certificate.map_or("-".to_owned(), |certificate: PeerCertificate| {
        format!(
            "{}|{}|{}|{}",
            certificate.subject,
            certificate.issuer,
            certificate.names.join(","),
            certificate.fingerprint
        )
    });
    let (alpn, name) = (text(session.alpn), text(session.server_name));
    format!("{}|{}|{alpn}|{name}|{}|{certificate}", session.version, session.cipher, session.resumed)
}

theater::export!(Probe);
