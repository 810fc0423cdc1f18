//! Where a connection of QUIC belongs whose client comes from elsewhere: another address or UDP port,
//! by a NAT that forgot it or by its own will (RFC 9000 section 9).
//!
//! ```text
//!   answer of a server, long header ── its source id ──► learnt: connection id -> server
//!                                                           ▲
//!   first datagram of a flow ── its destination id ─────────┘ ── not there ──► the server's name in the
//!                                                                              id itself, if it has one
//! ```
//!
//! Flows stay those of a client's address and UDP port, with a socket each, so that a server sees the
//! change itself and asks the client whether it is there (RFC 9000 section 8.2). Ids that a server gives
//! out later are encrypted: a client that uses one of those is found by what the id itself says, or not.

mod learnt;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use aws_lc_rs::cipher::{
    AES_128, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use sumun_config::checked::{BlockKey, QuicServerId};
use sumun_hello::limits::CONNECTION_ID_BYTES_MAX;
use sumun_hello::quic::{self, Header, Kind};
use sumun_hello::quic_lb;
use sumun_pools::Named;

use self::learnt::Key;
pub(crate) use self::learnt::Learnt;
use crate::limits::ID_KEEPS;

/// How a listener finds servers by connection ids, on one worker.
#[derive(Debug)]
pub(crate) struct Router {
    learnt: Arc<Learnt>,
    server_ids: Option<quic_lb::Config<Cipher>>,
    /// An id that was in no use for so long is forgotten.
    lifetime_ms: u64,
}

impl Router {
    pub(crate) fn new(learnt: Arc<Learnt>, server_id: Option<&QuicServerId>, lifetime_ms: u64) -> Self {
        Self { learnt, server_ids: server_id.and_then(server_ids), lifetime_ms }
    }

    /// The server that the first datagram of a flow belongs to, and the learnt id that says so.
    fn find(&self, datagram: &[u8], now_ms: u64) -> Option<(Named, Option<Key>)> {
        let since_ms = now_ms.saturating_sub(self.lifetime_ms);
        let (id, learnt) = match quic::parse(datagram) {
            Header::Long(long) => (long.destination, self.learnt.find(long.destination, since_ms)),
            Header::Short(behind) => (behind, self.learnt.find_at_start(behind, since_ms)),
            Header::NotQuic => return None,
        };
        let by_itself = || Some((Named::QuicId(quic_lb::decode(id, self.server_ids.as_ref()?)?), None));
        learnt.map(|(key, server)| (Named::Id(server), Some(key))).or_else(by_itself)
    }
}

fn server_ids(config: &QuicServerId) -> Option<quic_lb::Config<Cipher>> {
    let cipher = match &config.key {
        None => None,
        Some(key) => Some(Cipher::new(key)?),
    };
    quic_lb::Config::new(config.config_id, config.bytes, config.nonce_bytes, cipher)
}

/// The connection that a flow carries, as far as it shows where it belongs.
#[derive(Debug)]
pub(crate) struct Connection {
    router: Rc<Router>,
    /// Where its first datagram is to go; taken by who sends it.
    home: Cell<Option<Named>>,
    /// The id that it was last seen with, and whose it is.
    known: Cell<Option<(Key, u64)>>,
    kept_ms: Cell<u64>,
}

impl Connection {
    /// With the first datagram of a flow.
    pub(crate) fn new(router: &Rc<Router>, datagram: &[u8], now_ms: u64) -> Self {
        let found = router.find(datagram, now_ms);
        let known = match found {
            Some((Named::Id(server), Some(key))) => Some((key, server)),
            _ => None,
        };
        let home = Cell::new(found.map(|(server, _)| server));
        Self { router: Rc::clone(router), home, known: Cell::new(known), kept_ms: Cell::new(0) }
    }

    /// The server that it was at before this flow; told once.
    pub(crate) fn take_home(&self) -> Option<Named> {
        self.home.take()
    }

    /// It goes to a server that knows nothing of it.
    pub(crate) fn begin_anew(&self) {
        self.known.set(None);
    }

    /// Learns from what a server has sent.
    #[inline]
    pub(crate) fn note_answer(&self, datagram: &[u8], server: u64, now_ms: u64) {
        // A connection has a few long headers, at its beginning.
        if let Header::Long(long) = quic::parse(datagram)
            && matches!(long.kind, Kind::Initial | Kind::Handshake | Kind::Unknown)
            && (1..=CONNECTION_ID_BYTES_MAX).contains(&long.source.len())
        {
            let key = self.router.learnt.learn(long.source, server, now_ms);
            self.known.set(Some((key, server)));
            self.kept_ms.set(now_ms);
        }
    }

    /// Datagrams pass: its id is in use.
    #[inline]
    pub(crate) fn keep(&self, now_ms: u64) {
        if now_ms.saturating_sub(self.kept_ms.get()) >= self.router.lifetime_ms / ID_KEEPS
            && let Some((key, server)) = self.known.get()
        {
            self.kept_ms.set(now_ms);
            self.router.learnt.keep(key, server, now_ms);
        }
    }
}

/// AES-128, a block at a time.
#[derive(Debug)]
struct Cipher {
    encrypt: EncryptingKey,
    decrypt: DecryptingKey,
}

impl Cipher {
    /// A key of 16 bytes is always one.
    fn new(key: &BlockKey) -> Option<Self> {
        let key = || UnboundCipherKey::new(&AES_128, &key.0);
        let encrypt = EncryptingKey::ecb(key().ok()?).ok()?;
        Some(Self { encrypt, decrypt: DecryptingKey::ecb(key().ok()?).ok()? })
    }
}

impl quic_lb::BlockCipher for Cipher {
    fn encrypt_block(&self, mut block: [u8; 16]) -> [u8; 16] {
        // A whole block never fails.
        self.encrypt.less_safe_encrypt(&mut block, EncryptionContext::None).ok();
        block
    }

    fn decrypt_block(&self, mut block: [u8; 16]) -> [u8; 16] {
        self.decrypt.decrypt(&mut block, DecryptionContext::None).ok();
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME_MS: u64 = 1000;

    fn hex(text: &str) -> Vec<u8> {
        let digits = text.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).unwrap());
        digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    }

    fn router(server_id: Option<QuicServerId>) -> Rc<Router> {
        Rc::new(Router::new(Arc::new(Learnt::new(64)), server_id.as_ref(), LIFETIME_MS))
    }

    fn long(kind: u8, destination: &[u8], source: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xc0 | kind << 4, 0, 0, 0, 1];
        for id in [destination, source] {
            bytes.push(id.len() as u8);
            bytes.extend(id);
        }
        bytes.extend([0; 40]);
        bytes
    }

    fn short(destination: &[u8]) -> Vec<u8> {
        [&[0x40], destination, &[0x99; 30]].concat()
    }

    const INITIAL: u8 = 0;
    const HANDSHAKE: u8 = 2;
    const RETRY: u8 = 3;

    #[test]
    fn ids_are_learnt_from_long_headers_of_servers() {
        let router = router(None);
        let connection = Connection::new(&router, &long(INITIAL, b"chosen by client", b"c"), 0);
        assert_eq!(connection.take_home(), None);
        for (number, kind) in [INITIAL, HANDSHAKE, RETRY].into_iter().enumerate() {
            connection.note_answer(&long(kind, b"c", &[kind; 8]), 7, number as u64);
        }
        connection.note_answer(&short(&[9; 8]), 7, 0);
        connection.note_answer(&[0x80, 0, 0, 0, 0, 0, 3, 1, 2, 3, 4], 7, 0);
        let home = |datagram: &[u8]| Connection::new(&router, datagram, 10).take_home();
        assert_eq!(home(&short(&[INITIAL; 8])), Some(Named::Id(7)));
        assert_eq!(home(&short(&[HANDSHAKE; 8])), Some(Named::Id(7)));
        assert_eq!(home(&long(INITIAL, &[INITIAL; 8], b"c")), Some(Named::Id(7)));
        assert_eq!(home(&long(HANDSHAKE, &[HANDSHAKE; 8], b"c")), Some(Named::Id(7)));
        for unknown in [short(&[RETRY; 8]), short(&[9; 8]), short(&[1, 2, 3]), long(INITIAL, &[HANDSHAKE; 9], b"c")] {
            assert_eq!(home(&unknown), None, "{unknown:?}");
        }
        for odd in [&[][..], &[0x40], &[0xc0, 0, 0], &[0x40, 0, 0]] {
            assert_eq!(home(odd), None);
        }
    }

    #[test]
    fn an_id_lives_as_long_as_its_connection() {
        let router = router(None);
        let connection = Connection::new(&router, &[], 0);
        connection.note_answer(&long(INITIAL, b"", b"of the server"), 7, 0);
        let home = |now_ms| Connection::new(&router, &short(b"of the server"), now_ms).take_home();
        for now_ms in (0..10 * LIFETIME_MS).step_by(20) {
            connection.keep(now_ms);
        }
        let last = 10 * LIFETIME_MS - 20;
        assert_eq!(home(last + LIFETIME_MS * 7 / 8), Some(Named::Id(7)));
        assert_eq!(home(last + LIFETIME_MS + 1), None);
        // The flow that carries it now keeps it, too.
        let carried = Connection::new(&router, &short(b"of the server"), last + 100);
        carried.keep(last + 900);
        assert_eq!(home(last + 1800), Some(Named::Id(7)));
        // One that has gone to another server does not.
        carried.begin_anew();
        carried.keep(last + 1900);
        assert_eq!(home(last + 1901), None);
    }

    /// The vectors of the draft's appendix B.2.
    #[test]
    fn the_draft_s_encrypted_ids() {
        let key = Some(BlockKey(hex("8f95f09245765f80256934e50c66207f").try_into().unwrap()));
        for (config_id, server_id, nonce_bytes, id) in [
            (0, "ed793a", 4, "0720b1d07b359d3c"),
            (1, "ed793a51d49b8f5fab65", 5, "2fcc381bc74cb4fbad2823a3d1f8fed2"),
            (2, "ed793a51d49b8f5f", 8, "504dd2d05a7b0de9b2b9907afb5ecf8cc3"),
            (0, "ed793a51d49b8f5fab", 9, "125779c9cc86beb3a3a4a3ca96fce4bfe0cdbc"),
        ] {
            let (server_id, id) = (hex(server_id), hex(id));
            let config = QuicServerId { bytes: server_id.len(), nonce_bytes, config_id, key: key.clone() };
            let Some(named) = router(Some(config)).find(&short(&id), 0) else { panic!("{id:?}") };
            let expected = sumun_config::checked::ServerId::new(&server_id).unwrap();
            assert_eq!(named, (Named::QuicId(expected), None));
        }
    }

    #[test]
    fn what_was_learnt_comes_before_what_an_id_says() {
        let router = router(Some(QuicServerId { bytes: 1, nonce_bytes: 4, config_id: 2, key: None }));
        let id = [0x45, 0xaa, 1, 2, 3, 4];
        let home = |datagram: &[u8]| Connection::new(&router, datagram, 0).take_home();
        let named = Some(Named::QuicId(sumun_config::checked::ServerId::new(&[0xaa]).unwrap()));
        assert_eq!(home(&short(&id)), named);
        assert_eq!(home(&long(HANDSHAKE, &id, b"")), named);
        assert_eq!(home(&short(&[0x25, 0xaa, 1, 2, 3, 4])), None, "of another configuration");
        Connection::new(&router, &[], 0).note_answer(&long(INITIAL, b"", &id), 7, 0);
        assert_eq!(home(&short(&id)), Some(Named::Id(7)));
    }
}
