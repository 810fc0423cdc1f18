//! Bounds of what is read from files, each with its unit. Beyond them the file is refused.

/// One file of certificates, keys or an OCSP response, bytes.
pub const FILE_BYTES: usize = 2 * 1024 * 1024;

/// Certificates of one chain: every client is sent all of them.
pub const CHAIN_CERTIFICATES: usize = 16;

/// Certificates of one file of authorities.
pub const AUTHORITIES: usize = 4096;

/// One OCSP response, bytes: every client that asks is sent it.
pub const STAPLE_BYTES: usize = 16 * 1024;

/// Names of one certificate that are indexed.
pub const NAMES: usize = 1024;

/// A subject as text, bytes. Of a longer one the beginning is shown to people; nobody is known by it.
pub const SUBJECT_BYTES: usize = 1024;
