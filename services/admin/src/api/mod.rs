//! `/api/v1`: JSON in, JSON out.

pub(crate) mod cache;
pub(crate) mod pools;
pub(crate) mod reload;
pub(crate) mod status;
pub(crate) mod traffic;
