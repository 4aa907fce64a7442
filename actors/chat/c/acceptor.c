/* The door of the chat: reads `JOIN <room>` from each client, and hands the connection to the actor of that room. */
#include "theater.h"

/* The names of the rooms, which are the names of their actors too; spaces between them. */
static theater_bytes rooms;

static bool is_space(uint8_t byte) {
    return byte == ' ' || (byte >= '\t' && byte <= '\r');
}

static bool is_room(theater_bytes name) {
    size_t start = 0;
    while (start < rooms.size) {
        size_t end = start;
        while (end < rooms.size && !is_space(rooms.data[end])) end++;
        if (end > start && theater_equal(name, (theater_bytes){rooms.data + start, end - start})) return true;
        start = end + 1;
    }
    return false;
}

/* Says why not, and ends the connection. */
static theater_result refuse(theater_bytes connection, theater_bytes reason) {
    theater_result sent = theater_send(connection, reason);
    if (sent.failed) return sent;
    return theater_close(connection);
}

theater_result actor_init(theater_bytes config) {
    for (size_t at = 0; at < config.size; at++) {
        if (!is_space(config.data[at])) {
            rooms = theater_copy(config);
            return theater_ok();
        }
    }
    return theater_fail(THEATER_TEXT("invalid: init is to name the rooms, with spaces between them"));
}

/* Nobody waits for the line: what has come of it is kept by the runtime, and the next client has its turn. */
theater_result actor_handle_connection(theater_bytes connection) {
    theater_result result = theater_activate(connection);
    if (!result.failed) result = theater_set_framing(connection, THEATER_TEXT("line"), 512);
    if (!result.failed) result = theater_set_option(connection, THEATER_TEXT("idle_timeout"), THEATER_TEXT("30 s"));
    if (!result.failed) result = theater_set_active(connection, THEATER_TEXT("once"));
    return result;
}

theater_result actor_on_data(theater_bytes connection, theater_bytes line) {
    const theater_bytes join = THEATER_TEXT("JOIN ");
    if (line.size && line.data[line.size - 1] == '\n') line.size--;
    if (line.size && line.data[line.size - 1] == '\r') line.size--;
    if (line.size < join.size || !theater_equal(join, (theater_bytes){line.data, join.size}))
        return refuse(connection, THEATER_TEXT("! the first line is JOIN and a room\n"));
    theater_bytes room = {line.data + join.size, line.size - join.size};
    /* Only rooms: a client can't be handed to any other actor. */
    if (!is_room(room)) return refuse(connection, THEATER_TEXT("! no such room\n"));
    theater_result moved = theater_transfer(connection, room);
    if (!moved.failed || !theater_equal(theater_kind(moved), THEATER_TEXT("no-such-actor"))) return moved;
    theater_drop(moved);
    return refuse(connection, THEATER_TEXT("! no such room\n"));
}
