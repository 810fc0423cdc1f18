//! What a server is told of a client before the client's first byte: the PROXY protocol header, where
//! the pool has one.
//!
//! A version 2 header passes on what a trusted proxy in front said of the client (its TLVs), and adds
//! what is known here: the name that the client's TLS asks for, and that there was TLS where the
//! listener ended it.

use std::net::SocketAddr;

use sumun_config::checked::ProxyProtocol;
use sumun_preface::{Ssl, SslPart, Tlv, Transport};

use super::Client;
use crate::end::End;

/// Empty where the pool wants none.
pub(super) fn header(client: &Client, version: Option<ProxyProtocol>) -> Vec<u8> {
    let mut bytes = Vec::new();
    match version {
        None => {}
        Some(ProxyProtocol::V1) => sumun_preface::write_v1(&mut bytes, ends(client)),
        Some(ProxyProtocol::V2) => write_v2(&mut bytes, client),
    }
    bytes
}

/// The client's address, and the one that it wrote to. `None`: it has none.
fn ends(client: &Client) -> Option<(SocketAddr, SocketAddr)> {
    let source = client.address?;
    let named = client.record.preface.as_ref().and_then(|taken| taken.header.addresses);
    let destination = named.map(|addresses| addresses.destination).or_else(|| client.end.local_address());
    Some((source, destination.unwrap_or(source)))
}

fn write_v2(bytes: &mut Vec<u8>, client: &Client) {
    let taken = client.record.preface.as_ref();
    let mut tlvs: Vec<Tlv<'_>> = taken.map(|taken| taken.header.tlvs(&taken.bytes).collect()).unwrap_or_default();
    if let Some(name) = &client.record.name
        && !tlvs.iter().any(|tlv| matches!(tlv, Tlv::Authority(_)))
    {
        tlvs.push(Tlv::Authority(name.as_bytes()));
    }
    let mut parts = Vec::new();
    if let End::Tls(stream) = &client.end
        && !tlvs.iter().any(|tlv| matches!(tlv, Tlv::Ssl(_)))
    {
        if let Some(version) = stream.version() {
            SslPart::Version(version.as_bytes()).write(&mut parts);
        }
        tlvs.extend(Ssl::new(Ssl::OVER_TLS, 1, &parts).map(Tlv::Ssl));
    }
    let ends = ends(client);
    if sumun_preface::write_v2_with(bytes, Transport::Stream, ends, &tlvs, false).is_err() {
        // More was said of the client than a header holds: who it is, is what matters.
        sumun_preface::write_v2(bytes, Transport::Stream, ends);
    }
}
