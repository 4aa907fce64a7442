//! What a call that failed says.

use std::fmt;

/// What every call of this crate gives.
pub type Result<T> = std::result::Result<T, Error>;

/// An error as the runtime words it: a kind that never changes (`not-owner`, `timeout`, …), or the kind, a colon, a
/// space and a detail.
///
/// An actor's own errors are made from text: `Err("invalid: no greeting".into())`.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(String);

impl Error {
    /// The kind, which a program may look at.
    pub fn kind(&self) -> &str {
        self.0.split_once(": ").map_or(&self.0, |(kind, _)| kind)
    }

    /// What is said beyond the kind, for people.
    pub fn detail(&self) -> Option<&str> {
        self.0.split_once(": ").map(|(_, detail)| detail)
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Error {
    fn from(text: String) -> Self {
        Error(text)
    }
}

impl From<&str> for Error {
    fn from(text: &str) -> Self {
        Error(text.to_owned())
    }
}

impl From<Error> for String {
    fn from(error: Error) -> Self {
        error.0
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

impl std::error::Error for Error {}
