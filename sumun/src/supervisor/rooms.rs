//! What is kept of waiting rooms: in memory for the next worker process, and in a file each for the
//! next start. It comes from the worker process that serves, once a second where something changed;
//! here it is bytes under a name that the config allows.
//!
//! A room that the config does not name any more is forgotten: its file is removed. Where the disk takes
//! nothing, rooms live on as long as this instance does.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sumun_config::checked::Config;
use sumun_engine::rooms::{KeptRooms, ROOM_BYTES, RoomName, names};
use sumun_host::files;

use super::Supervisor;

/// Of the state directory.
const FOLDER: &str = "rooms";

/// What is kept of the rooms of this config. What cannot be read begins anew, which is said in the log:
/// a sale that goes on without its queue is better than none.
pub(super) fn read(config: &Config) -> KeptRooms {
    let wanted = names(config);
    if wanted.is_empty() {
        return KeptRooms::new();
    }
    let folder = match folder(config.state.as_deref()) {
        Ok(folder) => folder,
        Err(error) => {
            tracing::warn!("waiting rooms cannot be kept ({error}): who waits loses the place when this instance ends");
            return KeptRooms::new();
        }
    };
    let read = |room: RoomName| {
        let path = folder.join(room.file_name());
        let text = files::read_private(&path, ROOM_BYTES as u64)
            .and_then(|content| content.map(String::from_utf8).transpose().map_err(io::Error::other));
        match text {
            Ok(text) => Some((room, text?)),
            Err(error) => {
                tracing::warn!("{}: {error}: this waiting room begins anew", path.display());
                None
            }
        }
    };
    wanted.into_iter().filter_map(read).collect()
}

/// Makes it, if need be.
fn folder(state: Option<&Path>) -> io::Result<PathBuf> {
    let folder = crate::state::directory(state)?.join(FOLDER);
    files::private_directory(&folder)?;
    files::require_private_directory(&folder)?;
    Ok(folder)
}

impl Supervisor {
    /// A worker process has said how a room stands.
    pub(super) fn keep_room(&mut self, number: u64, room: RoomName, state: String) {
        if self.cares != Some(number) || state.len() > ROOM_BYTES || !names(&self.config).contains(&room) {
            return;
        }
        let written = folder(self.config.state.as_deref())
            .and_then(|folder| files::replace_private(&folder.join(room.file_name()), state.as_bytes()));
        match &written {
            // Once, and not every second.
            Err(error) if !self.rooms_unwritten => {
                tracing::error!("waiting room {}: {error}: its state is lost with this instance", room.as_str());
            }
            Ok(()) if self.rooms_unwritten => tracing::info!("waiting rooms can be kept again"),
            _ => {}
        }
        self.rooms_unwritten = written.is_err();
        self.rooms.insert(room, state);
    }

    /// Another config is in force than `before`.
    pub(super) fn forget_rooms(&mut self, before: &Config) {
        let wanted = names(&self.config);
        self.rooms.retain(|room, _| wanted.contains(room));
        for room in names(before).difference(&wanted) {
            let removed =
                folder(before.state.as_deref()).and_then(|folder| fs::remove_file(folder.join(room.file_name())));
            if let Err(error) = removed
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!("waiting room {}: what was kept of it cannot be removed: {error}", room.as_str());
            }
        }
    }
}
