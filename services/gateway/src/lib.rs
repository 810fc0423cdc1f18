//! The L7 gateway: routes, files, proxy.
