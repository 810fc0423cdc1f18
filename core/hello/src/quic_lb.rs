//! The server in a connection id that it made itself: draft-ietf-quic-load-balancers-21.
//!
//! ```text
//! first octet                 server id, nonce                   more
//! ┌────────────┬────────────┬──────────────────────────────────┬────────────────┐
//! │ config, 3  │ length or  │ as they are, as one AES block, or│ for the server │
//! │ bits       │ noise      │ through four rounds of Feistel   │ itself         │
//! └────────────┴────────────┴──────────────────────────────────┴────────────────┘
//! ```
//!
//! Up to seven configurations can be in use at once; whoever has several asks [`config_id`] for which.
//! An id that is decoded is not proven to be a server's: clients choose the first ones of a connection
//! at random. It may lead to any server, or to none.

#[cfg(test)]
mod tests;

use std::fmt;

use crate::limits::{NONCE_BYTES, ROUTABLE_BYTES_MAX, SERVER_ID_BYTES};

/// The configuration that no connection id can be routed by (section 3.2).
const UNROUTABLE: u8 = 0b111;

const BLOCK_BYTES: usize = 16;
const SERVER_ID_BYTES_MAX: usize = *SERVER_ID_BYTES.end();

/// AES-128 under the key of a configuration. The caller brings it: there is no cryptography here.
pub trait BlockCipher {
    fn encrypt_block(&self, block: [u8; 16]) -> [u8; 16];
    fn decrypt_block(&self, block: [u8; 16]) -> [u8; 16];
}

/// How the servers of a pool make connection ids (section 5.3).
#[derive(Debug, Clone)]
pub struct Config<C> {
    config_id: u8,
    server_id_bytes: usize,
    nonce_bytes: usize,
    cipher: Option<C>,
}

impl<C: BlockCipher> Config<C> {
    /// Without a cipher, server ids are in the clear. `None` where a number is out of its range:
    /// `config_id` is 0 to 6, `server_id_bytes` 1 to 15, `nonce_bytes` 4 to 18, and both together at most 19.
    #[must_use]
    pub fn new(config_id: u8, server_id_bytes: usize, nonce_bytes: usize, cipher: Option<C>) -> Option<Self> {
        let fits = config_id < UNROUTABLE
            && SERVER_ID_BYTES.contains(&server_id_bytes)
            && NONCE_BYTES.contains(&nonce_bytes)
            && server_id_bytes + nonce_bytes <= ROUTABLE_BYTES_MAX;
        fits.then_some(Self { config_id, server_id_bytes, nonce_bytes, cipher })
    }

    #[must_use]
    pub fn config_id(&self) -> u8 {
        self.config_id
    }
}

/// What a server is called in connection ids: bytes, not a number. Never empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId {
    bytes: [u8; SERVER_ID_BYTES_MAX],
    length: u8,
}

impl ServerId {
    /// `None` where there are no bytes, or more than 15.
    #[must_use]
    pub fn new(id: &[u8]) -> Option<Self> {
        let mut bytes = [0; SERVER_ID_BYTES_MAX];
        bytes.get_mut(..id.len()).filter(|place| !place.is_empty())?.copy_from_slice(id);
        Some(Self { bytes, length: u8::try_from(id.len()).ok()? })
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

impl fmt::Debug for ServerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// Which configuration a connection id was made under, 0 to 6; `None` where it cannot be routed.
#[must_use]
pub fn config_id(connection_id: &[u8]) -> Option<u8> {
    connection_id.first().map(|first| first >> 5).filter(|&config_id| config_id != UNROUTABLE)
}

/// The server that made `connection_id`, which may have more bytes behind it: in a short header nobody
/// says where it ends. `None` where it is of another configuration, or too short.
#[must_use]
pub fn decode<C: BlockCipher>(connection_id: &[u8], config: &Config<C>) -> Option<ServerId> {
    let (_, behind) = connection_id.split_first().filter(|_| config_id(connection_id) == Some(config.config_id))?;
    let block = behind.get(..config.server_id_bytes + config.nonce_bytes)?;
    let Some(cipher) = &config.cipher else {
        return ServerId::new(block.get(..config.server_id_bytes)?);
    };
    match <[u8; BLOCK_BYTES]>::try_from(block) {
        // Section 5.5.1: a single pass.
        Ok(block) => ServerId::new(cipher.decrypt_block(block).get(..config.server_id_bytes)?),
        Err(_) => four_passes(block, config.server_id_bytes, cipher),
    }
}

/// Section 5.5.2: the rounds of a Feistel network backwards, with halves of `block` that share its middle
/// byte where its length is odd. Each half stands at the upper end of a number.
fn four_passes(block: &[u8], server_id_bytes: usize, cipher: &impl BlockCipher) -> Option<ServerId> {
    let half_bytes = block.len().div_ceil(2);
    let right_start = block.len() - half_bytes;
    let shared_bits = if block.len().is_multiple_of(2) { 0 } else { 4 };
    let half_bits = u32::try_from(8 * half_bytes).ok()?;
    let left_mask = upper_bits(half_bits - shared_bits);
    let right_mask = upper_bits(half_bits) & !upper_bits(shared_bits);
    let length = (block.len() as u128) << 8;
    let round =
        |half: u128, pass: u128| u128::from_be_bytes(cipher.encrypt_block((half | length | pass).to_be_bytes()));

    let mut left = number(block.get(..half_bytes)?) & left_mask;
    let mut right = number(block.get(right_start..)?) & right_mask;
    left ^= round(right, 4) & left_mask;
    right ^= round(left, 3) & right_mask;
    left ^= round(right, 2) & left_mask;
    // The nonce is of no interest: the last round is only for what of the server id is in its half.
    if server_id_bytes > right_start {
        right ^= round(left, 1) & right_mask;
    }

    let mut plain = [0; ROUTABLE_BYTES_MAX];
    for (to, from) in plain.iter_mut().zip(left.to_be_bytes()) {
        *to |= from;
    }
    for (to, from) in plain.iter_mut().skip(right_start).zip(right.to_be_bytes()) {
        *to |= from;
    }
    ServerId::new(plain.get(..server_id_bytes)?)
}

fn upper_bits(count: u32) -> u128 {
    !u128::MAX.checked_shr(count).unwrap_or_default()
}

/// The bytes as the upper end of a number.
fn number(bytes: &[u8]) -> u128 {
    let mut block = [0; BLOCK_BYTES];
    for (to, from) in block.iter_mut().zip(bytes) {
        *to = *from;
    }
    u128::from_be_bytes(block)
}
