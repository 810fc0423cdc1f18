//! Datagrams of QUIC, and how its connection ids name servers.

use sumun_hello::limits::ROUTABLE_BYTES_MAX;

use super::{Lower, Section};
use crate::checked::{BlockKey, Quic, QuicServerId};
use crate::node::Node;
use crate::report::quoted;
use crate::table;
use crate::values::quic;

impl Lower<'_> {
    pub(super) fn quic(&mut self, udp: Section<'_>, pool: &str) -> Option<Quic> {
        let node = udp.given("quic")?;
        if node.scalar().is_some() && !udp.switch("quic") {
            return None;
        }
        if let Some(node) = udp.given("responses") {
            let message = "`responses` counts answers, and a connection of QUIC has as many as it likes";
            self.error(node.place, message, "take it out: flows of QUIC end by `bounds.idle` alone");
        }
        let long = udp.section("quic");
        let server_id = long.given("server_id").map(|_| self.server_id(long.section("server_id"), pool));
        Some(Quic { server_id })
    }

    fn server_id(&mut self, section: Section<'_>, pool: &str) -> QuicServerId {
        let found = QuicServerId {
            bytes: section.number("bytes"),
            nonce_bytes: section.number("nonce"),
            config_id: section.number("config"),
            key: section.value("key", quic::key).map(BlockKey),
        };
        let both = found.bytes + found.nonce_bytes;
        if let Some(node) = section.given("nonce")
            && both > ROUTABLE_BYTES_MAX
        {
            let message = format!("`bytes` and `nonce` are {both} together: at most {ROUTABLE_BYTES_MAX}");
            self.error(node.place, message, "a connection id has 20 bytes, and the first one is taken");
        }
        if found.bytes > 0 {
            self.servers_have_ids(pool, found.bytes);
        }
        found
    }

    /// Every server of the pool can be named.
    fn servers_have_ids(&mut self, pool: &str, bytes: usize) {
        let Some(written) = self.pools.iter().find(|written| written.key == *pool) else { return };
        let servers = Section::of(&written.value, &table::POOL).given("servers");
        for server in servers.map(Node::one_or_list).unwrap_or_default() {
            let long = Section::of(server, &table::SERVER);
            let digits = 2 * bytes;
            match (long.given("quic_id"), long.value("quic_id", quic::server_id)) {
                (None, _) => {
                    let name = server.scalar().map(|scalar| scalar.text.as_str()).or_else(|| long.text("address"));
                    let name = name.unwrap_or_default();
                    let message =
                        format!("the server {} has no `quic_id`, and a `udp` listener goes by them", quoted(name));
                    let help = format!("write `{{ address: \"{name}\", quic_id: {} }}`", "0".repeat(digits));
                    self.error(server.place, message, help);
                }
                (Some(node), Some(id)) if id.as_bytes().len() != bytes => {
                    let message = format!("this `quic_id` has {} digits", 2 * id.as_bytes().len());
                    let help = format!("a `udp` listener goes by ids of {digits} digits: its `bytes` is {bytes}");
                    self.error(node.place, message, help);
                }
                _ => {}
            }
        }
    }
}
