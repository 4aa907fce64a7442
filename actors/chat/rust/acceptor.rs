//! The door of the chat: reads `JOIN <room>` from each client, and hands the connection to the actor of that room.

use std::str;
use theater::{Actor, Connection, Framing, Mode, Result};

struct Acceptor {
    /// The names of the rooms, which are the names of their actors too.
    rooms: Vec<String>,
}

impl Actor for Acceptor {
    fn init(config: &[u8]) -> Result<Self> {
        let config = str::from_utf8(config).unwrap_or_default();
        let rooms: Vec<String> = config.split_ascii_whitespace().map(String::from).collect();
        if rooms.is_empty() {
            return Err("invalid: init is to name the rooms, with spaces between them".into());
        }
        Ok(Acceptor { rooms })
    }

    /// Nobody waits for the line: what has come of it is kept by the runtime, and the next client has its turn.
    fn handle_connection(&mut self, connection: Connection) -> Result<()> {
        connection.activate()?;
        connection.set_framing(Framing::Line, 512)?;
        connection.set_option("idle_timeout", "30 s")?;
        connection.set_active(Mode::Once)
    }

    fn on_data(&mut self, connection: &Connection, line: &[u8]) -> Result<()> {
        let refusal: &[u8] = match room_in(line) {
            None => b"! the first line is JOIN and a room\n",
            // Only rooms: a client can't be handed to any other actor.
            Some(wanted) => match self.rooms.iter().find(|room| room.as_bytes() == wanted) {
                None => b"! no such room\n",
                Some(room) => match connection.transfer(room) {
                    Err(error) if error.kind() == "no-such-actor" => b"! no such room\n",
                    outcome => return outcome,
                },
            },
        };
        connection.send(refusal)?;
        connection.close()
    }
}

/// The room that a line asks for.
fn room_in(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line).strip_prefix(b"JOIN ")
}

theater::export!(Acceptor);
