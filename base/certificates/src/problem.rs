//! What is wrong with a file.

use std::fmt;

/// Which of the files is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The certificate with its chain.
    Certificate,
    Key,
    /// The OCSP response.
    Staple,
    /// Certificates of authorities.
    Authorities,
}

/// A reason for the operator: it goes on after the file's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub part: Part,
    /// Such as "holds no certificate".
    pub message: String,
    /// What would be right.
    pub help: String,
}

impl Problem {
    pub(crate) fn new(part: Part, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { part, message: message.into(), help: help.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.message, self.help)
    }
}

impl std::error::Error for Problem {}
