//! Pools of servers: state, picks, health checks, name resolution.
