//! Pools and servers: read, add, change, remove.

use serde_json::{Map, Value, json};
use sumun_config::checked::Balance;
use sumun_http::Known;
use sumun_pools::{AdminState, Health, OperationError, PoolStatus, Pools, ServerStatus};

use crate::respond::Response;
use crate::serve::Request;

pub(crate) fn list(pools: &Pools) -> Response {
    Response::json(&pools.status().iter().map(pool_json).collect())
}

pub(crate) fn one(pools: &Pools, pool: &str) -> Response {
    match pools.pool(pool) {
        Some(pool) => Response::json(&pool_json(&pool.status())),
        None => failed(&OperationError::NoPool(pool.to_owned())),
    }
}

/// `{"address": "10.0.0.1:80", "weight": 1, "quic_id": "0a01"}`; the latter two may be missing. Answers with the pool.
pub(crate) fn add(pools: &Pools, pool: &str, request: &Request<'_>) -> Response {
    let added = object(request).and_then(|body| {
        let address =
            body.get("address").and_then(Value::as_str).ok_or_else(|| bad("`address` is missing or no text"))?;
        let weight = match body.get("weight") {
            None => None,
            Some(weight) => Some(read_weight(weight)?),
        };
        let quic_id = match body.get("quic_id") {
            None => None,
            Some(id) => Some(id.as_str().ok_or_else(|| bad("`quic_id` is no text"))?),
        };
        only(&body, &["address", "weight", "quic_id"])?;
        let server = pools.add_server(pool, address, quic_id).map_err(|error| failed(&error))?;
        if let Some(weight) = weight.filter(|weight| *weight != 1)
            && let Err(error) = pools.set_weight(pool, &server, weight)
        {
            // Half of what was asked for is worse than nothing of it.
            pools.remove_server(pool, &server).map_err(|error| failed(&error))?;
            return Err(match error {
                OperationError::NoServer(_) => {
                    Response::error(409, "a name has no weight before it is resolved: add it without one")
                }
                error => failed(&error),
            });
        }
        Ok(())
    });
    match added {
        Ok(()) => one(pools, pool).with_status(201),
        Err(response) => response,
    }
}

/// `{"state": "enabled" | "draining" | "disabled"}` or `{"weight": 1..=1000}`. Answers with the pool.
pub(crate) fn change(pools: &Pools, pool: &str, server: &str, request: &Request<'_>) -> Response {
    let changed = object(request).and_then(|body| {
        only(&body, &["state", "weight"])?;
        match (body.get("state"), body.get("weight")) {
            (Some(state), None) => pools.set_state(pool, server, read_state(state)?),
            (None, Some(weight)) => pools.set_weight(pool, server, read_weight(weight)?),
            _ => return Err(bad("either `state` or `weight` is needed")),
        }
        .map_err(|error| failed(&error))
    });
    match changed {
        Ok(()) => one(pools, pool),
        Err(response) => response,
    }
}

/// Answers with the pool as it is then.
pub(crate) fn remove(pools: &Pools, pool: &str, server: &str) -> Response {
    match pools.remove_server(pool, server) {
        Ok(()) => one(pools, pool),
        Err(error) => failed(&error),
    }
}

/// Failures of live requests, whatever they were.
pub(crate) fn failures(server: &ServerStatus) -> u64 {
    let counts = &server.counts;
    counts.connect_failed + counts.timeouts + counts.cut_off + counts.bad_status
}

/// What becomes of new requests, in one word: what the operator asked for comes first.
pub(crate) fn state(server: &ServerStatus) -> &'static str {
    match (server.state, server.health) {
        (AdminState::Disabled, _) => "disabled",
        (AdminState::Draining, _) => "draining",
        (AdminState::Enabled, Health::Down) => "down",
        (AdminState::Enabled, _) if server.ejected_ms > 0 => "ejected",
        (AdminState::Enabled, _) => "up",
    }
}

/// Requests that wait for the pool or for one of its servers.
pub(crate) fn queued(pool: &PoolStatus) -> u32 {
    pool.waiting + pool.waiting_for_place
}

/// Requests that servers of the pool have now.
pub(crate) fn in_flight(pool: &PoolStatus) -> u64 {
    pool.servers.iter().map(|server| u64::from(server.in_flight)).sum()
}

fn pool_json(pool: &PoolStatus) -> Value {
    let servers: Vec<Value> = pool.servers.iter().map(server_json).collect();
    json!({
        "name": &*pool.name,
        "balance": balance(pool.balance),
        "in_flight": in_flight(pool),
        "queued": queued(pool),
        "concurrency": pool.concurrency,
        "answer_us": pool.base_us,
        "shed": pool.shed,
        "throttled": pool.throttled,
        "let_in_permille": pool.level_permille,
        "servers": servers,
    })
}

fn server_json(server: &ServerStatus) -> Value {
    json!({
        "name": &*server.name,
        "address": server.address,
        "state": state(server),
        "reason": server.reason,
        "last_check": server.last_check,
        "weight": server.weight,
        "in_flight": server.in_flight,
        "concurrency": server.adaptive.map(|(places, _)| places),
        "answer_us": server.adaptive.map(|(_, base_us)| base_us),
        "requests": server.counts.requests,
        "failures": failures(server),
    })
}

/// As it is written in the config file.
fn balance(balance: Balance) -> &'static str {
    match balance {
        Balance::P2c => "p2c",
        Balance::RoundRobin => "round-robin",
        Balance::LeastRequest => "least-request",
        Balance::Random => "random",
        Balance::Hash => "hash",
        Balance::Maglev => "maglev",
        Balance::First => "first",
    }
}

fn read_state(value: &Value) -> Result<AdminState, Response> {
    match value.as_str() {
        Some("enabled") => Ok(AdminState::Enabled),
        Some("draining") => Ok(AdminState::Draining),
        Some("disabled") => Ok(AdminState::Disabled),
        _ => Err(bad("`state` is enabled, draining or disabled")),
    }
}

/// Its range is the pools' business.
fn read_weight(value: &Value) -> Result<u32, Response> {
    let weight = value.as_u64().ok_or_else(|| bad("`weight` is not a whole number"))?;
    u32::try_from(weight).map_err(|_| bad("`weight` is too large"))
}

/// The body as an object. The media type is asked for, since a page of another site can send any
/// body without asking first, but not this type.
pub(super) fn object(request: &Request<'_>) -> Result<Map<String, Value>, Response> {
    let media_type = request.head.known(request.bytes, Known::ContentType).unwrap_or_default();
    let media_type = media_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if !media_type.eq_ignore_ascii_case(b"application/json") {
        return Err(Response::error(415, "the body has to be application/json"));
    }
    match serde_json::from_slice(request.body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(bad("the body is not an object")),
        Err(error) => Err(bad(&format!("the body is not JSON: {error}"))),
    }
}

pub(super) fn only(body: &Map<String, Value>, known: &[&str]) -> Result<(), Response> {
    match body.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(bad(&format!("`{key}` is not known here"))),
        None => Ok(()),
    }
}

pub(super) fn bad(why: &str) -> Response {
    Response::error(400, why)
}

fn failed(error: &OperationError) -> Response {
    let status = match error {
        OperationError::NoPool(_) | OperationError::NoServer(_) => 404,
        OperationError::BadAddress(_) | OperationError::BadWeight(_) | OperationError::BadQuicId(_) => 400,
        OperationError::AlreadyThere(_)
        | OperationError::TooManyServers
        | OperationError::QuicIdTaken(_)
        | OperationError::PartOfName(_)
        | OperationError::OutOfReach(_) => 409,
    };
    Response::error(status, &error.to_string())
}
