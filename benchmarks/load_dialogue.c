/* load_dialogue.c - dialogues of lines, as SMTP has them: a reply is awaited, then something is sent.
 *
 * A reply's last line begins with three digits and something else than "-" (RFC 5321, 4.2.1). Nothing may follow it
 * before we have sent something: a server that says more than it was asked for fails.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "load.h"

const struct exchange upgrade_of_line[] = {{NULL, "STARTTLS\r\n"}, {"220", NULL}, {0}};

const struct exchange upgrade_of_smtp[] = {
    {"220", "EHLO load.example.org\r\n"}, {"250", "STARTTLS\r\n"}, {"220", NULL}, {0},
};

enum { CONTENT = 5 };

struct exchange mail[] = {
    {"220", NULL},
    {NULL, "EHLO load.example.org\r\n"},
    {"250", "MAIL FROM:<from@example.org>\r\n"},
    {"250", "RCPT TO:<to@example.org>\r\n"},
    {"250", "DATA\r\n"},
    [CONTENT] = {"354", NULL},
    {"250", "QUIT\r\n"},
    {"221", NULL},
    {0},
};

struct exchange *const mail_after_greeting = mail + 1;

void write_mail(size_t size) {
    static const char fields[] = "From: <from@example.org>\r\nTo: <to@example.org>\r\nSubject: a load\r\n\r\n";
    static const char end[] = "\r\n.\r\n";
    size_t head = sizeof fields - 1, body = size > head + 2 ? size - head - 2 : 0;
    char *text = malloc(head + body + sizeof end);
    memcpy(text, fields, head);
    for (size_t i = 0; i < body; i++)                   /* the last line has no end of its own: `end` begins with it */
        text[head + i] = i % 72 < 70 || i / 72 == body / 72 ? 'X' : "\r\n"[i % 72 - 70];
    memcpy(text + head + body, end, sizeof end);
    mail[CONTENT].send = text;
}

/* Takes what came of a reply: 1 all of it, AGAIN, FAILED. */
static int take(struct talk *talk, const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (text[i] != '\n') {
            if (talk->column < sizeof talk->code) talk->code[talk->column] = text[i];
            talk->column++;
            continue;
        }
        bool last = talk->column <= 3 || talk->code[3] != '-';
        talk->column = 0;
        if (!last) continue;
        if (memcmp(talk->code, talk->at->expect, 3) || i + 1 < n) {
            char why[80];
            snprintf(why, sizeof why, "%.3s, not %s; %zu bytes after it", talk->code, talk->at->expect, n - i - 1);
            because(why);
            return FAILED;
        }
        return 1;
    }
    return AGAIN;
}

int carry_on(struct stream *s, const struct exchange *dialogue, const struct transport *over) {
    struct talk *talk = &s->talk;
    if (!talk->at) *talk = (struct talk){.at = dialogue};
    while (talk->at->expect || talk->at->send) {
        while (talk->at->expect && !talk->answered) {
            char text[4096];
            ssize_t n = over->read(s, text, sizeof text);
            if (n == AGAIN) { watch(s, EPOLLIN); return AGAIN; }
            if (n == 0) because("early end of stream");
            if (n <= 0) return FAILED;
            int taken = take(talk, text, (size_t)n);
            if (taken == FAILED) return FAILED;
            talk->answered = taken == 1;
        }
        const char *text = talk->at->send ? talk->at->send : "";
        while (talk->sent < strlen(text)) {
            ssize_t n = over->write(s, text + talk->sent, strlen(text + talk->sent));
            if (n == AGAIN) { watch(s, EPOLLIN | EPOLLOUT); return AGAIN; }
            if (n < 0) return FAILED;
            talk->sent += (size_t)n;
        }
        *talk = (struct talk){.at = talk->at + 1};
    }
    *talk = (struct talk){0};
    return 1;
}
