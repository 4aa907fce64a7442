//! The replies of the session, word for word those of `actors/smtp/replies.py`. Those about recipients and storing are the
//! store's own.
//!
//! A reply never repeats what the client sent, so nothing of it can come back in another role.

// 2xx, 3xx
pub const HELP: &[u8] = b"214 2.0.0 Commands: EHLO HELO STARTTLS MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT (RFC 5321)\r\n";
pub const GO_AHEAD_WITH_TLS: &[u8] = b"220 2.0.0 Go ahead with TLS\r\n";
pub const GOODBYE: &[u8] = b"221 2.0.0 Goodbye\r\n";
pub const OK: &[u8] = b"250 2.0.0 Ok\r\n";
pub const SENDER_OK: &[u8] = b"250 2.1.0 Sender ok\r\n";
pub const CANNOT_VERIFY: &[u8] = b"252 2.5.0 Can't say who is here; send the message, and it will be tried\r\n";
pub const GO_AHEAD: &[u8] = b"354 Go ahead; end with a dot on a line of its own\r\n";

// 4xx: the client may try again later
pub const IDLE_TOO_LONG: &[u8] = b"421 4.4.2 Nothing heard for too long; closing\r\n";
pub const GOING_DOWN: &[u8] = b"421 4.3.2 Going down; try again later\r\n";
pub const TOO_MANY_ERRORS: &[u8] = b"421 4.7.0 Too many errors; closing\r\n";
pub const TOO_MANY_ASIDES: &[u8] = b"421 4.7.0 Too many commands without a message; closing\r\n";
pub const NOT_SMTP: &[u8] = b"421 4.7.0 This is SMTP; closing\r\n";
pub const LOCAL_ERROR: &[u8] = b"451 4.3.0 Can't store the message now; try again later\r\n";
pub const TOO_MANY_RECIPIENTS: &[u8] = b"452 4.5.3 Too many recipients; send the message to the others separately\r\n";
pub const NO_TLS: &[u8] = b"454 4.7.0 TLS is not available\r\n";

// 50x: the command itself is wrong
pub const UNKNOWN_COMMAND: &[u8] = b"500 5.5.2 Unknown command\r\n";
pub const BARE_NEWLINE_IN_COMMAND: &[u8] = b"500 5.5.2 A line ends with CR LF, and neither of them stands alone\r\n";
pub const CONTROL_IN_COMMAND: &[u8] = b"500 5.5.2 A command has no control characters\r\n";
pub const NOT_UTF8: &[u8] = b"500 5.5.2 A command is ASCII, or UTF-8 where SMTPUTF8 allows it\r\n";
pub const COMMAND_TOO_LONG: &[u8] = b"500 5.5.2 Command line too long\r\n";
pub const NO_ARGUMENT_WANTED: &[u8] = b"501 5.5.4 This command takes no argument\r\n";
pub const HELO_SYNTAX: &[u8] = b"501 5.5.4 Say who you are: a domain name or an address literal\r\n";
pub const MAIL_SYNTAX: &[u8] = b"501 5.5.4 Syntax: MAIL FROM:<address> [parameters]\r\n";
pub const RCPT_SYNTAX: &[u8] = b"501 5.5.4 Syntax: RCPT TO:<address>\r\n";
pub const BAD_SENDER: &[u8] = b"501 5.1.7 The sender's address is malformed\r\n";
pub const BAD_RECIPIENT: &[u8] = b"501 5.1.3 The recipient's address is malformed\r\n";
pub const BAD_PARAMETER: &[u8] = b"501 5.5.4 A parameter is malformed or there twice\r\n";
pub const VRFY_SYNTAX: &[u8] = b"501 5.5.4 Syntax: VRFY name\r\n";
pub const BDAT_SYNTAX: &[u8] = b"501 5.5.4 Syntax: BDAT size [LAST]; without a size, data can't be told from commands: closing\r\n";
pub const NOT_IMPLEMENTED: &[u8] = b"502 5.5.1 Command not implemented\r\n";
pub const NOT_GREETED: &[u8] = b"503 5.5.1 Say EHLO or HELO first\r\n";
pub const TLS_ALREADY: &[u8] = b"503 5.5.1 TLS is active already\r\n";
pub const NESTED_MAIL: &[u8] = b"503 5.5.1 A message is under way already\r\n";
pub const MAIL_FIRST: &[u8] = b"503 5.5.1 Say MAIL first\r\n";
pub const CHUNKS_BEGUN: &[u8] = b"503 5.5.1 The message has begun with BDAT; end it with BDAT LAST, or say RSET\r\n";
pub const TLS_FIRST: &[u8] = b"530 5.7.0 Must issue a STARTTLS command first\r\n";
pub const UNKNOWN_PARAMETER: &[u8] = b"555 5.5.4 A parameter is not known here\r\n";

// 55x: the command is right, the answer is no
pub const BARE_NEWLINE_IN_TEXT: &[u8] = b"550 5.6.0 The message has a CR or LF that stands alone; a line ends with both\r\n";
pub const TEXT_LINE_TOO_LONG: &[u8] = b"550 5.6.0 The message has a line that is too long\r\n";
pub const TOO_LARGE: &[u8] = b"552 5.3.4 Message too large\r\n";
pub const UTF8_NOT_ASKED_FOR: &[u8] = b"553 5.6.7 An address beyond ASCII needs SMTPUTF8\r\n";
pub const NO_RECIPIENTS: &[u8] = b"554 5.5.1 No valid recipients\r\n";
pub const OUT_OF_STEP: &[u8] = b"554 5.5.0 Nothing may follow STARTTLS before its reply; closing\r\n";

// What only a server says that stores elsewhere
pub const PARTLY_STORED_RETRY: &[u8] = b"451 4.3.0 Stored for some of the recipients only; try again later\r\n";
pub const PARTLY_STORED: &[u8] = b"554 5.3.0 Stored for some of the recipients only; the others can't have it\r\n";
pub const STORE_LACKS_EXTENSION: &[u8] = b"554 5.3.3 The store does not take such a message\r\n";
