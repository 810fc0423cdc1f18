//! A health check that wants a handshake of TLS and nothing behind it.

use std::future::poll_fn;

use sumun_engine::tls::{self, ServerName, Transport};

use super::{Finding, no_tls};

/// `asked_for` comes before the name that the server has by its address.
pub(super) async fn knock(transport: Transport, asked_for: Option<&str>, name: &ServerName<'static>) -> Finding {
    let asked_for = asked_for.map(|name| ServerName::try_from(name.to_owned()));
    let name = asked_for.unwrap_or_else(|| Ok(name.clone())).map_err(|error| format!("no TLS: {error}"))?;
    let mut stream = tls::knock(transport, name).map_err(|error| format!("no TLS: {error}"))?;
    let session = poll_fn(|context| stream.poll_handshake(context)).await.map_err(no_tls)?;
    stream.say_goodbye();
    Ok(format!("a handshake of {}", session.version))
}
