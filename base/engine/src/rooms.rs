//! What is kept of waiting rooms between two starts, and under which names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};
use sumun_config::checked::{Config, Listener, Route};
use sumun_traffic::waiting_room::Snapshot;

/// One room, bytes: the claim bits of those who were called, in base64, and some numbers.
pub const ROOM_BYTES: usize = 40 * 1024;

const _: () = assert!(sumun_traffic::limits::ROOM_SNAPSHOT_WORDS * 8 * 4 / 3 + 6 * 1024 < ROOM_BYTES);

/// Characters of a route's name at the beginning of a file's name; the hash tells them apart.
const TITLE_CHARACTERS: usize = 48;

/// Octets of that hash.
const HASH_BYTES: usize = 8;

/// A room, by the listener and the route that it belongs to. It is the name of a file as well.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RoomName(String);

impl RoomName {
    #[must_use]
    pub fn of(listener: &str, route: &str) -> Self {
        let plain = |character: char| if character.is_ascii_alphanumeric() { character } else { '-' };
        let title: String = route.trim_matches('/').chars().take(TITLE_CHARACTERS).map(plain).collect();
        let mut bytes = (listener.len() as u64).to_be_bytes().to_vec();
        bytes.extend_from_slice(listener.as_bytes());
        bytes.extend_from_slice(route.as_bytes());
        let mut text = format!("{title}-");
        for byte in digest(&SHA256, &bytes).as_ref().iter().take(HASH_BYTES) {
            // Writing into a String cannot fail.
            write!(text, "{byte:02x}").unwrap_or_default();
        }
        Self(text)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{}.json", self.0)
    }

    /// 16 hexadecimal digits.
    #[must_use]
    pub fn hash(&self) -> &str {
        self.0.rsplit('-').next().unwrap_or_default()
    }
}

/// Contents by name. Whoever keeps them understands none of them.
pub type KeptRooms = BTreeMap<RoomName, String>;

/// The rooms of a config.
#[must_use]
pub fn names(config: &Config) -> BTreeSet<RoomName> {
    with_rooms(config).map(|(listener, route)| RoomName::of(&listener.name, &route.name)).collect()
}

/// Routes that have a waiting room, with their listeners.
pub fn with_rooms(config: &Config) -> impl Iterator<Item = (&Listener, &Route)> {
    let routes =
        config.listeners.values().flat_map(|listener| listener.routes.iter().map(move |route| (listener, route)));
    routes.filter(|(_, route)| route.waiting_room.is_some()).map(|(listener, route)| (&**listener, &**route))
}

#[derive(Serialize, Deserialize)]
struct Written {
    epochs: Vec<(u32, u64)>,
    issued: u64,
    called: u64,
    passed: u64,
    first_word: u64,
    /// Little endian, base64.
    words: String,
    sessions: Vec<(u64, u32)>,
}

/// As it is kept.
#[must_use]
pub fn to_text(snapshot: &Snapshot) -> String {
    let bytes: Vec<u8> = snapshot.words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let written = Written {
        epochs: snapshot.epochs.clone(),
        issued: snapshot.issued,
        called: snapshot.called,
        passed: snapshot.passed,
        first_word: snapshot.first_word,
        words: STANDARD_NO_PAD.encode(bytes),
        sessions: snapshot.sessions.clone(),
    };
    // Numbers and texts only: there is nothing that could not be written.
    serde_json::to_string(&written).unwrap_or_default()
}

/// The reverse; what it says is judged by the room that is restored from it.
///
/// # Errors
/// The text is of another form.
pub fn from_text(text: &str) -> Result<Snapshot, String> {
    let written: Written = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let bytes = STANDARD_NO_PAD.decode(written.words).map_err(|error| error.to_string())?;
    let (words, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        return Err("the claim bits are no whole words".to_owned());
    }
    Ok(Snapshot {
        epochs: written.epochs,
        issued: written.issued,
        called: written.called,
        passed: written.passed,
        first_word: written.first_word,
        words: words.iter().map(|word| u64::from_le_bytes(*word)).collect(),
        sessions: written.sessions,
    })
}

#[cfg(test)]
mod tests {
    use sumun_traffic::limits::{ROOM_EPOCHS, ROOM_SNAPSHOT_GROUPS, ROOM_SNAPSHOT_WORDS};

    use super::*;

    #[test]
    fn the_largest_that_can_be_is_kept() {
        let snapshot = Snapshot {
            epochs: vec![(u32::MAX, u64::MAX / 2); ROOM_EPOCHS],
            issued: u64::MAX / 2,
            called: u64::MAX / 2,
            passed: u64::MAX / 2,
            first_word: u64::MAX / 128,
            words: vec![u64::MAX - 1; ROOM_SNAPSHOT_WORDS],
            sessions: vec![(u64::MAX / 2, u32::MAX); ROOM_SNAPSHOT_GROUPS + 1],
        };
        let text = to_text(&snapshot);
        assert!(text.len() <= ROOM_BYTES, "{} bytes", text.len());
        assert_eq!(from_text(&text), Ok(snapshot));
    }

    #[test]
    fn what_is_no_room_is_told() {
        let good = to_text(&Snapshot::default());
        for broken in ["", "{}", "[]", &good.replace("\"words\":\"\"", "\"words\":\"AAAA\""), &good.replace('0', "-1")]
        {
            assert!(from_text(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn names_of_rooms() {
        let name = RoomName::of("web", "/sale/2026/");
        assert!(name.as_str().starts_with("sale-2026-") && name.hash().len() == 16, "{name:?}");
        assert_ne!(name, RoomName::of("we", "b/sale/2026/"));
        assert!(RoomName::of("web", "/../../etc/passwd").file_name().chars().all(|one| one != '/'));
        let text = "pools: { app: { servers: '127.0.0.1:1' } }\nlisteners: { web: { bind: ':80', routes: [ \
                    { path: /a/, proxy: app, waiting_room: { admit: 1/s, active: 1 } }, proxy: app ] } }";
        let config = sumun_config::check_text("test.yaml", text).unwrap_or_else(|report| panic!("{report}")).config;
        assert_eq!(names(&config), BTreeSet::from([RoomName::of("web", "/a/")]));
    }
}
