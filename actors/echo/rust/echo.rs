//! Echo (RFC 862): what a peer sends comes back, until it has sent its last byte.

use theater::{Actor, Connection, Mode, Result};

struct Echo;

impl Actor for Echo {
    fn init(_config: &[u8]) -> Result<Self> {
        Ok(Echo)
    }

    /// A connection of this actor's own listener: its data is to come by `on_data`.
    fn handle_connection(&mut self, connection: Connection) -> Result<()> {
        connection.activate()?;
        connection.set_active(Mode::Active)
    }

    fn on_data(&mut self, connection: &Connection, data: &[u8]) -> Result<()> {
        connection.send(data).map(drop)
    }

    /// A connection that somebody else accepted: this instance is there for it alone, and may wait.
    fn handle_connection_transfer(&mut self, connection: Connection) -> Result<()> {
        loop {
            let data = connection.receive(262_144)?;
            if data.is_empty() {
                return connection.close();
            }
            connection.send(&data)?;
        }
    }
}

theater::export!(Echo);
