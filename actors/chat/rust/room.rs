//! A room of the chat: what one member says, the others hear.

use theater::{Actor, Connection, Framing, Mode, Result};

const MOST_MEMBERS: usize = 256;

struct Room {
    name: Vec<u8>,
    /// In the order in which they came.
    members: Vec<Member>,
    /// How many have been named `guest<n>`.
    guests: u32,
}

struct Member {
    connection: Connection,
    nick: Vec<u8>,
}

impl Actor for Room {
    fn init(config: &[u8]) -> Result<Self> {
        if config.is_empty() || config.len() > 64 {
            return Err("invalid: init is to be the name of the room, of 1 to 64 bytes".into());
        }
        Ok(Room { name: config.to_vec(), members: Vec::new(), guests: 0 })
    }

    fn handle_connection_transfer(&mut self, connection: Connection) -> Result<()> {
        if self.members.len() == MOST_MEMBERS {
            connection.send(b"! the room is full\n")?;
            return connection.close();
        }
        connection.set_framing(Framing::Line, 512)?;
        connection.set_option("idle_timeout", "1 h")?;
        connection.set_active(Mode::Active)?;

        let nick = self.next_guest();
        self.members.push(Member { connection, nick: nick.clone() });
        let newest = self.members.len() - 1;
        self.tell(newest, &[b"* you are ", &nick, b" in ", &self.name, b"\n"]);
        self.tell_others(newest, &[b"* ", &nick, b" joined\n"]);
        Ok(())
    }

    fn on_data(&mut self, connection: &Connection, line: &[u8]) -> Result<()> {
        let index = match self.index_of(connection) {
            Some(index) => index,
            None => return Ok(()),
        };
        let text = text_of(line);
        if text.is_empty() {
            return Ok(());
        }
        if text[0] != b'/' {
            self.tell_others(index, &[b"<", &self.members[index].nick, b"> ", &text, b"\n"]);
            return Ok(());
        }
        let (command, argument) = match text.iter().position(|&byte| byte == b' ') {
            Some(space) => (&text[..space], &text[space + 1..]),
            None => (&text[..], &b""[..]),
        };
        match command {
            b"/nick" => self.rename(index, argument),
            b"/who" => {
                let nicks: Vec<&[u8]> = self.members.iter().map(|member| &member.nick[..]).collect();
                self.tell(index, &[b"* ", &nicks.join(&b", "[..]), b"\n"]);
            }
            b"/quit" => {
                self.tell(index, &[b"* bye\n"]);
                connection.close()?;
                self.remove(index);
            }
            _ => self.tell(index, &[b"! unknown command; there are /nick, /who and /quit\n"]),
        }
        Ok(())
    }

    fn on_close(&mut self, connection: &Connection, _reason: &str) -> Result<()> {
        if let Some(index) = self.index_of(connection) {
            self.remove(index);
        }
        Ok(())
    }
}

impl Room {
    fn index_of(&self, connection: &Connection) -> Option<usize> {
        self.members.iter().position(|member| member.connection == *connection)
    }

    fn is_taken(&self, nick: &[u8]) -> bool {
        self.members.iter().any(|member| member.nick == nick)
    }

    fn next_guest(&mut self) -> Vec<u8> {
        loop {
            self.guests += 1;
            let nick = format!("guest{}", self.guests).into_bytes();
            if !self.is_taken(&nick) {
                return nick;
            }
        }
    }

    fn rename(&mut self, index: usize, nick: &[u8]) {
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-' || *byte == b'_';
        if nick.is_empty() || nick.len() > 16 || !nick.iter().all(allowed) {
            self.tell(index, &[b"! a name is 1 to 16 letters, digits, - or _\n"]);
        } else if self.is_taken(nick) {
            self.tell(index, &[b"! that name is taken\n"]);
        } else {
            let before = std::mem::replace(&mut self.members[index].nick, nick.to_vec());
            let parts: [&[u8]; 5] = [b"* ", &before, b" is now ", nick, b"\n"];
            self.tell(index, &parts);
            self.tell_others(index, &parts);
        }
    }

    fn remove(&mut self, index: usize) {
        let gone = self.members.remove(index);
        self.tell_others(usize::MAX, &[b"* ", &gone.nick, b" left\n"]);
    }

    fn tell(&self, index: usize, parts: &[&[u8]]) {
        // A member who is just leaving is no reason to end the one who speaks; on_close follows.
        let _ = self.members[index].connection.send(&parts.concat());
    }

    fn tell_others(&self, index: usize, parts: &[&[u8]]) {
        let message = parts.concat();
        for (other, member) in self.members.iter().enumerate() {
            if other != index {
                let _ = member.connection.send(&message);
            }
        }
    }
}

/// A line without its end, and with spaces for control characters, which could do something to a terminal.
fn text_of(line: &[u8]) -> Vec<u8> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    line.iter().map(|&byte| if byte.is_ascii_control() { b' ' } else { byte }).collect()
}

theater::export!(Room);
