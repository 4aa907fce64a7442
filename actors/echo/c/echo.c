/* Echo (RFC 862): what a peer sends comes back, until it has sent its last byte. */
#include "theater.h"

/* A connection of this actor's own listener: its data is to come by actor_on_data. */
theater_result actor_handle_connection(theater_bytes connection) {
    theater_result activated = theater_activate(connection);
    if (activated.failed) return activated;
    return theater_set_active(connection, THEATER_TEXT("active"));
}

theater_result actor_on_data(theater_bytes connection, theater_bytes data) {
    return theater_send(connection, data);
}

/* A connection that somebody else accepted: this instance is there for it alone, and may wait. */
theater_result actor_handle_connection_transfer(theater_bytes connection) {
    for (;;) {
        theater_result received = theater_receive(connection, 262144);
        if (received.failed) return received;
        if (received.value.size == 0) return theater_close(connection);
        theater_result sent = theater_send(connection, received.value);
        theater_drop(received);
        if (sent.failed) return sent;
    }
}
