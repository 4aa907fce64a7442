/* A room of the chat: what one member says, the others hear. */
#include "theater.h"

enum { MOST_MEMBERS = 256, LONGEST_NICK = 16, LONGEST_NAME = 64, LONGEST_LINE = 512 };

typedef struct {
    theater_bytes connection;
    uint8_t nick[LONGEST_NICK];
    size_t nick_size;
} member;

static uint8_t name[LONGEST_NAME];
static size_t name_size;
static member members[MOST_MEMBERS]; /* in the order in which they came */
static size_t count;
static uint32_t guests; /* how many have been named guest<n> */

/* ---- What is going to be said. The longest is the answer to /who. */

static uint8_t message[8 + MOST_MEMBERS * (LONGEST_NICK + 2) + LONGEST_LINE];
static size_t message_size;

static void put(theater_bytes part) {
    __builtin_memcpy(message + message_size, part.data, part.size);
    message_size += part.size;
}

static theater_bytes nick_of(const member *who) {
    return (theater_bytes){(uint8_t *)who->nick, who->nick_size};
}

#define SAY(...)                                                                           \
    do {                                                                                   \
        const theater_bytes parts[] = {__VA_ARGS__};                                       \
        message_size = 0;                                                                  \
        for (size_t part = 0; part < sizeof parts / sizeof *parts; part++) put(parts[part]); \
    } while (0)
#define TEXT THEATER_TEXT

/* A member who is just leaving is no reason to end the one who speaks; actor_on_close follows. */
static void tell(const member *who) {
    theater_drop(theater_send(who->connection, (theater_bytes){message, message_size}));
}

static void tell_others(const member *who) {
    for (member *other = members; other < members + count; other++)
        if (other != who) tell(other);
}

/* ---- Who is there */

static member *find(theater_bytes connection) {
    for (member *who = members; who < members + count; who++)
        if (theater_equal(who->connection, connection)) return who;
    return NULL;
}

static bool is_taken(theater_bytes nick) {
    for (member *who = members; who < members + count; who++)
        if (theater_equal(nick_of(who), nick)) return true;
    return false;
}

static void set_nick(member *who, theater_bytes nick) {
    __builtin_memcpy(who->nick, nick.data, nick.size);
    who->nick_size = nick.size;
}

static void name_guest(member *who) {
    uint8_t nick[LONGEST_NICK] = "guest", digits[10];
    theater_bytes candidate;
    do {
        size_t size = 5, left = 0;
        for (uint32_t number = ++guests; number; number /= 10) digits[left++] = (uint8_t)('0' + number % 10);
        while (left) nick[size++] = digits[--left];
        candidate = (theater_bytes){nick, size};
    } while (is_taken(candidate));
    set_nick(who, candidate);
}

static void leave(member *who) {
    SAY(TEXT("* "), nick_of(who), TEXT(" left\n"));
    theater_free(who->connection.data);
    __builtin_memmove(who, who + 1, (size_t)(members + --count - who) * sizeof *who);
    tell_others(NULL);
}

/* ---- What they do */

static void change_nick(member *who, theater_bytes nick) {
    bool allowed = nick.size >= 1 && nick.size <= LONGEST_NICK;
    for (size_t at = 0; allowed && at < nick.size; at++) {
        uint8_t byte = nick.data[at], lower = byte | 0x20;
        allowed = (lower >= 'a' && lower <= 'z') || (byte >= '0' && byte <= '9') || byte == '-' || byte == '_';
    }
    if (!allowed) {
        SAY(TEXT("! a name is 1 to 16 letters, digits, - or _\n"));
    } else if (is_taken(nick)) {
        SAY(TEXT("! that name is taken\n"));
    } else {
        SAY(TEXT("* "), nick_of(who), TEXT(" is now "), nick, TEXT("\n"));
        set_nick(who, nick);
        tell_others(who);
    }
    tell(who);
}

static void list(const member *asking) {
    SAY(TEXT("* "));
    for (member *who = members; who < members + count; who++) {
        if (who != members) put(TEXT(", "));
        put(nick_of(who));
    }
    put(TEXT("\n"));
    tell(asking);
}

/* A line without its end, and with spaces for control characters, which could do something to a terminal. */
static theater_bytes text_of(theater_bytes line) {
    if (line.size && line.data[line.size - 1] == '\n') line.size--;
    if (line.size && line.data[line.size - 1] == '\r') line.size--;
    for (size_t at = 0; at < line.size; at++)
        if (line.data[at] < ' ' || line.data[at] == 0x7f) line.data[at] = ' ';
    return line;
}

theater_result actor_init(theater_bytes config) {
    if (config.size < 1 || config.size > LONGEST_NAME)
        return theater_fail(TEXT("invalid: init is to be the name of the room, of 1 to 64 bytes"));
    __builtin_memcpy(name, config.data, config.size);
    name_size = config.size;
    return theater_ok();
}

theater_result actor_handle_connection_transfer(theater_bytes connection) {
    theater_result result;
    if (count == MOST_MEMBERS) {
        result = theater_send(connection, TEXT("! the room is full\n"));
        return result.failed ? result : theater_close(connection);
    }
    result = theater_set_framing(connection, TEXT("line"), LONGEST_LINE);
    if (!result.failed) result = theater_set_option(connection, TEXT("idle_timeout"), TEXT("1 h"));
    if (!result.failed) result = theater_set_active(connection, TEXT("active"));
    if (result.failed) return result;

    member *newest = members + count;
    name_guest(newest);
    newest->connection = theater_copy(connection);
    count++;
    SAY(TEXT("* you are "), nick_of(newest), TEXT(" in "), ((theater_bytes){name, name_size}), TEXT("\n"));
    tell(newest);
    SAY(TEXT("* "), nick_of(newest), TEXT(" joined\n"));
    tell_others(newest);
    return theater_ok();
}

theater_result actor_on_data(theater_bytes connection, theater_bytes line) {
    member *who = find(connection);
    theater_bytes text = text_of(line);
    if (!who || text.size == 0) return theater_ok();
    if (text.data[0] != '/') {
        SAY(TEXT("<"), nick_of(who), TEXT("> "), text, TEXT("\n"));
        tell_others(who);
        return theater_ok();
    }
    size_t space = 0;
    while (space < text.size && text.data[space] != ' ') space++;
    theater_bytes command = {text.data, space}, argument = {text.data + space, text.size - space};
    if (argument.size) argument.data++, argument.size--;
    if (theater_equal(command, TEXT("/nick"))) {
        change_nick(who, argument);
    } else if (theater_equal(command, TEXT("/who"))) {
        list(who);
    } else if (theater_equal(command, TEXT("/quit"))) {
        SAY(TEXT("* bye\n"));
        tell(who);
        theater_drop(theater_close(connection));
        leave(who);
    } else {
        SAY(TEXT("! unknown command; there are /nick, /who and /quit\n"));
        tell(who);
    }
    return theater_ok();
}

theater_result actor_on_close(theater_bytes connection, theater_bytes reason) {
    (void)reason;
    member *who = find(connection);
    if (who) leave(who);
    return theater_ok();
}
