//! A listener as one worker has it, between two reloads.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ipnet::IpNet;
use sumun_config::checked::{Listener, Sni, Udp};
use sumun_engine::accept::Admittance;
use sumun_engine::access_log::LogSender;
use sumun_engine::preface;

use crate::backend::{Backend, Backends};
use crate::metrics::ListenerCell;
use crate::path::newcomers::Newcomers;
use crate::quic::Router;
use sumun_engine::pace::ListenerPace;

pub(crate) struct Front {
    pub(crate) config: Arc<Listener>,
    pub(crate) way: Way,
    pub(crate) trusted_proxies: Rc<[IpNet]>,
    pub(crate) admittance: Arc<Admittance>,
    pub(crate) cell: Arc<ListenerCell>,
    pub(crate) pace: Option<Arc<ListenerPace>>,
    /// Its datagrams are those of QUIC.
    pub(crate) quic: Option<Rc<Router>>,
    pub(crate) newcomers: Rc<Newcomers>,
    pub(crate) log: Rc<LogSender>,
}

/// Where connections go.
pub(crate) enum Way {
    To(Rc<Backend>),
    /// By what the client's TLS asks for.
    ByName(Sni, Backends),
    Datagrams(Rc<Backend>, Udp),
}

impl Front {
    /// The listener lets this address connect at all.
    pub(crate) fn may_connect(&self, client: Option<IpAddr>) -> bool {
        let may = self.config.access.permits(client);
        if !may {
            self.admittance.denied.fetch_add(1, Ordering::Relaxed);
        }
        may
    }

    /// This peer has to say whom it speaks for.
    pub(crate) fn awaits_header(&self, peer: Option<SocketAddr>) -> bool {
        preface::is_awaited(&self.config, &self.trusted_proxies, peer)
    }
}
