//! An instance whose listener speaks TLS, and clients that trust it.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;

use super::certificates::{Authority, Pair};
use super::instance::{Instance, Place};
use super::server::Server;
use super::talk::Client;

/// A listener with TLS, whose first certificate is for `site.test`.
pub(crate) struct Site {
    pub(crate) authority: Authority,
    pub(crate) gateway: Instance,
}

/// What stands in its config.
pub(crate) struct Setup<'a> {
    pub(crate) pairs: &'a [(&'a str, &'a Pair)],
    /// An address of the listener without TLS.
    pub(crate) plain: Option<SocketAddr>,
    /// Further keys of `tls`, of the listener, and at the top level.
    pub(crate) tls: &'a str,
    pub(crate) listener: &'a str,
    pub(crate) top: &'a str,
    pub(crate) routes: &'a str,
}

/// Of one certificate, and one answer.
pub(crate) const PLAIN_SETUP: Setup<'_> =
    Setup { pairs: &[], plain: None, tls: "", listener: "", top: "", routes: "{ path: /, respond: { body: hello } }" };

impl Setup<'_> {
    pub(crate) fn config(&self) -> String {
        let pairs: Vec<String> =
            self.pairs.iter().map(|(name, _)| format!("{{ cert: $DIR/{name}.pem, key: $DIR/{name}.key }}")).collect();
        let plain = self.plain.map_or(String::new(), |plain| format!(", {{ address: \"{plain}\", tls: off }}"));
        let Self { tls, listener, top, routes, .. } = self;
        format!(
            "{top}\nlisteners:\n  web:\n    bind: [\"$BIND\"{plain}]\n    {listener}\n    \
             tls: {{ {tls} certs: [{}] }}\n    routes: [{routes}]\n",
            pairs.join(", ")
        )
    }

    pub(crate) fn start(&self, place: Place, authority: Authority) -> Site {
        let gateway = Instance::start_in(place, &self.config(), |directory| {
            for (name, pair) in self.pairs {
                pair.write(directory, name);
            }
            std::fs::write(directory.join("authority.pem"), &authority.pem).expect("the authority's file");
        });
        Site { authority, gateway }
    }
}

impl Site {
    /// In front of these servers.
    pub(crate) fn proxy(place: Place, server: &Server) -> Self {
        let top = format!("pools: {{ app: {{ servers: [\"{}\"] }} }}", server.address());
        Self::with(place, &Setup { top: &top, routes: "{ path: /, proxy: app }", ..PLAIN_SETUP })
    }

    pub(crate) fn with(place: Place, setup: &Setup<'_>) -> Self {
        let authority = Authority::new("authority");
        let pair = authority.pair(&["site.test"]);
        Setup { pairs: &[("site", &pair)], ..*setup }.start(place, authority)
    }

    pub(crate) fn connect(&self, config: &Arc<ClientConfig>) -> Client {
        Client::secure(self.gateway.address, config, "site.test")
    }

    pub(crate) fn connect_plainly(&self) -> Client {
        self.connect(&self.authority.plain_client())
    }
}
