//! Both sides of [`super::TlsStream`] against rustls' own buffered connections, over loopback.

pub(super) mod certificates;
mod listener;
mod openssl;
mod pool;
mod registry;
mod support;
