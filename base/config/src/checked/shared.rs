//! What several gateways share.

use std::fmt;

use super::{Name, RedisLogin};

/// A Redis or Valkey through which gateways share limits and waiting rooms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedThrough {
    /// Of its servers.
    pub pool: Name,
    /// `None`: without AUTH.
    pub login: Option<RedisLogin>,
    pub secret: SharedSecret,
    /// What all keys begin with.
    pub prefix: String,
}

/// The same in all gateways, and never told to the server; at least 16 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedSecret(pub Vec<u8>);

/// Keeps it out of logs.
impl fmt::Debug for SharedSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SharedSecret(…)")
    }
}
