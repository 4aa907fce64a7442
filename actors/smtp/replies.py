"""The replies of the session: code, enhanced status code (RFC 2034, RFC 3463) and a text for people.

A reply never repeats what the client sent, so nothing of it can come back in another role.
"""

from __future__ import annotations

__all__ = ["Refused"]

# 2xx, 3xx
HELP = b"214 2.0.0 Commands: EHLO HELO STARTTLS MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT (RFC 5321)\r\n"
GO_AHEAD_WITH_TLS = b"220 2.0.0 Go ahead with TLS\r\n"
GOODBYE = b"221 2.0.0 Goodbye\r\n"
OK = b"250 2.0.0 Ok\r\n"
SENDER_OK = b"250 2.1.0 Sender ok\r\n"
RECIPIENT_OK = b"250 2.1.5 Recipient ok\r\n"
CANNOT_VERIFY = b"252 2.5.0 Can't say who is here; send the message, and it will be tried\r\n"
GO_AHEAD = b"354 Go ahead; end with a dot on a line of its own\r\n"

# 4xx: the client may try again later
IDLE_TOO_LONG = b"421 4.4.2 Nothing heard for too long; closing\r\n"
GOING_DOWN = b"421 4.3.2 Going down; try again later\r\n"
TOO_MANY_ERRORS = b"421 4.7.0 Too many errors; closing\r\n"
TOO_MANY_ASIDES = b"421 4.7.0 Too many commands without a message; closing\r\n"
NOT_SMTP = b"421 4.7.0 This is SMTP; closing\r\n"
LOCAL_ERROR = b"451 4.3.0 Can't store the message now; try again later\r\n"
TOO_MANY_RECIPIENTS = b"452 4.5.3 Too many recipients; send the message to the others separately\r\n"
NO_TLS = b"454 4.7.0 TLS is not available\r\n"
STORAGE_FULL = b"452 4.3.1 No room to store the message; try again later\r\n"

# 50x: the command itself is wrong
UNKNOWN_COMMAND = b"500 5.5.2 Unknown command\r\n"
BARE_NEWLINE_IN_COMMAND = b"500 5.5.2 A line ends with CR LF, and neither of them stands alone\r\n"
CONTROL_IN_COMMAND = b"500 5.5.2 A command has no control characters\r\n"
NOT_UTF8 = b"500 5.5.2 A command is ASCII, or UTF-8 where SMTPUTF8 allows it\r\n"
COMMAND_TOO_LONG = b"500 5.5.2 Command line too long\r\n"
NO_ARGUMENT_WANTED = b"501 5.5.4 This command takes no argument\r\n"
HELO_SYNTAX = b"501 5.5.4 Say who you are: a domain name or an address literal\r\n"
MAIL_SYNTAX = b"501 5.5.4 Syntax: MAIL FROM:<address> [parameters]\r\n"
RCPT_SYNTAX = b"501 5.5.4 Syntax: RCPT TO:<address>\r\n"
BAD_SENDER = b"501 5.1.7 The sender's address is malformed\r\n"
BAD_RECIPIENT = b"501 5.1.3 The recipient's address is malformed\r\n"
BAD_PARAMETER = b"501 5.5.4 A parameter is malformed or there twice\r\n"
VRFY_SYNTAX = b"501 5.5.4 Syntax: VRFY name\r\n"
BDAT_SYNTAX = b"501 5.5.4 Syntax: BDAT size [LAST]; without a size, data can't be told from commands: closing\r\n"
NOT_IMPLEMENTED = b"502 5.5.1 Command not implemented\r\n"
NOT_GREETED = b"503 5.5.1 Say EHLO or HELO first\r\n"
TLS_ALREADY = b"503 5.5.1 TLS is active already\r\n"
NESTED_MAIL = b"503 5.5.1 A message is under way already\r\n"
MAIL_FIRST = b"503 5.5.1 Say MAIL first\r\n"
CHUNKS_BEGUN = b"503 5.5.1 The message has begun with BDAT; end it with BDAT LAST, or say RSET\r\n"
TLS_FIRST = b"530 5.7.0 Must issue a STARTTLS command first\r\n"
UNKNOWN_PARAMETER = b"555 5.5.4 A parameter is not known here\r\n"

# 55x: the command is right, the answer is no
BARE_NEWLINE_IN_TEXT = b"550 5.6.0 The message has a CR or LF that stands alone; a line ends with both\r\n"
TEXT_LINE_TOO_LONG = b"550 5.6.0 The message has a line that is too long\r\n"
NOT_LOCAL = b"550 5.7.1 Relaying denied: that domain is not handled here\r\n"
TOO_LARGE = b"552 5.3.4 Message too large\r\n"
UTF8_NOT_ASKED_FOR = b"553 5.6.7 An address beyond ASCII needs SMTPUTF8\r\n"
NO_RECIPIENTS = b"554 5.5.1 No valid recipients\r\n"
OUT_OF_STEP = b"554 5.5.0 Nothing may follow STARTTLS before its reply; closing\r\n"


class Refused(Exception):
    """A command is refused.

    Args:
        reply: the whole reply, CR LF included.
    """

    def __init__(self, reply: bytes) -> None:
        super().__init__(reply)
        self.reply = reply
