//! The listening sockets and logs that the supervisor holds open for its worker processes.
//!
//! They outlive every worker process: while a dead one is started again, connections wait in the
//! queues of the sockets. A socket is closed only when the config names its address no more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sumun_config::checked::{BindAddress, Config, LogTarget};
use sumun_engine::lifecycle::{Label, Passed};
use sumun_host::files;
use sumun_host::sockets::{self, Claim, reuseport_sockets, reuseport_udp_sockets, unix_listener};

/// Unix sockets of listeners: for the owner and its group, such as a web server in front.
const LISTENER_MODE: u32 = 0o660;
/// The control socket: whoever reaches it may change the running config.
const CONTROL_MODE: u32 = 0o600;

/// What can be opened, whatever the config calls it: a listener that is renamed keeps its socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Key {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Unix { path: PathBuf, mode: u32 },
    LogFile(PathBuf),
    Stdout,
    Stderr,
}

#[derive(Debug)]
struct Opened {
    /// Several for a TCP or UDP address, among which the kernel spreads connections and flows.
    descriptors: Vec<OwnedFd>,
    /// A Unix socket's file: what we remove must be what we made.
    file: Option<FileIdentity>,
    /// The service manager has opened it. It goes on listening there, so that we could not open one
    /// of our own beside it or after it: it is shared by all workers, and kept.
    given: bool,
}

/// What is open, as it is handed to the next program in this process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct WrittenDescriptors {
    key: Key,
    /// Places among the descriptors that go along.
    places: Vec<usize>,
    file: Option<FileIdentity>,
    given: bool,
}

/// Device, inode and time of birth (as a socket is never written to, its modification time in
/// seconds and nanoseconds): an inode alone may be that of a later file.
type FileIdentity = (u64, u64, i64, i64);

#[derive(Debug, Default)]
pub(super) struct Descriptors {
    open: BTreeMap<Key, Opened>,
}

/// What one config needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
    key: Key,
    name: Name,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Listener { listener: String, bind: BindAddress },
    Admin,
    Control,
    AccessLog,
}

impl Descriptors {
    /// Opens what `config` needs and is not open yet. Nothing is kept unless all could be opened;
    /// the error has a line for each that could not.
    ///
    /// TCP sockets do not listen before [`Self::listen`]: beside those that are served already, a
    /// share of the connections would come to them and wait, and be reset where nothing comes of it.
    /// Unix sockets, of which nobody shares the address, listen at once: without that, another
    /// instance would take their file for one that a dead process left.
    pub(super) fn open_missing(&self, config: &Config) -> Result<Self, String> {
        let mut added = Self::default();
        let mut problems = BTreeSet::new();
        for wanted in wanted(config) {
            let there = self.count(&wanted.key) + added.count(&wanted.key);
            if self.open.get(&wanted.key).is_some_and(|opened| opened.given) {
                continue;
            }
            let needed = match (&wanted.key, &wanted.name) {
                (Key::Tcp(_) | Key::Udp(_), Name::Listener { .. }) => config.workers,
                _ => 1,
            };
            if there >= needed {
                continue;
            }
            let claim = if self.holds_port_of(&wanted.key) || added.holds_port_of(&wanted.key) {
                Claim::Shared
            } else {
                Claim::Exclusive
            };
            match open(&wanted.key, needed - there, claim) {
                Ok(opened) => added.insert(wanted.key, opened),
                Err(problem) => {
                    problems.insert(problem);
                }
            }
        }
        if problems.is_empty() {
            return Ok(added);
        }
        added.remove_files();
        Err(problems.into_iter().collect::<Vec<String>>().join("\n"))
    }

    /// The same, and all of them listen.
    pub(super) fn open_listening(&self, config: &Config) -> Result<Self, String> {
        let opened = self.open_missing(config)?;
        match opened.listen() {
            Ok(()) => Ok(opened),
            Err(problems) => {
                opened.remove_files();
                Err(problems)
            }
        }
    }

    /// Lets the TCP sockets listen that do not yet; the error has a line for each that cannot.
    pub(super) fn listen(&self) -> Result<(), String> {
        listen(self.tcp_sockets())
    }

    /// The same for addresses that `served` has not: there is nobody whose connections they would take,
    /// and an address is ours only from when we listen there.
    pub(super) fn listen_beside(&self, served: &Self) -> Result<(), String> {
        let new = self
            .open
            .iter()
            .filter(|(key, opened)| matches!(key, Key::Tcp(_)) && !opened.given && !served.open.contains_key(key));
        listen(new.flat_map(|(_, opened)| &opened.descriptors))
    }

    /// Whether all TCP sockets listen.
    pub(super) fn is_listening(&self) -> bool {
        self.tcp_sockets().all(sockets::is_listening)
    }

    fn tcp_sockets(&self) -> impl Iterator<Item = &OwnedFd> {
        let tcp = self.open.iter().filter(|(key, opened)| matches!(key, Key::Tcp(_)) && !opened.given);
        tcp.flat_map(|(_, opened)| &opened.descriptors)
    }

    /// Whether some of these belong to what `config` names: a process with that config lacks them.
    pub(super) fn are_needed_by(&self, config: &Config) -> bool {
        wanted(config).iter().any(|wanted| self.open.contains_key(&wanted.key))
    }

    /// Takes over what [`Self::open_missing`] opened.
    pub(super) fn adopt(&mut self, added: Self) {
        for (key, opened) in added.open {
            self.insert(key, opened);
        }
    }

    /// Closes what `config` does not need, but nothing that was given.
    pub(super) fn keep_only(&mut self, config: &Config) {
        let needed: BTreeSet<Key> = wanted(config).into_iter().map(|wanted| wanted.key).collect();
        let is_gone = |key: &Key, opened: &mut Opened| !needed.contains(key) && !opened.given;
        let gone = Self { open: self.open.extract_if(.., is_gone).collect() };
        gone.remove_files();
    }

    /// Takes a listening TCP socket of the service manager.
    pub(super) fn give_tcp(&mut self, address: SocketAddr, socket: OwnedFd) {
        self.insert(Key::Tcp(address), Opened { descriptors: vec![socket], file: None, given: true });
    }

    /// Takes a listening Unix socket of the service manager, whose file it made and removes. It may
    /// be for a listener or for the command line.
    pub(super) fn give_unix(&mut self, path: &Path, config: &Config, socket: OwnedFd) {
        let mode = if config.control == path { CONTROL_MODE } else { LISTENER_MODE };
        let key = Key::Unix { path: path.to_owned(), mode };
        self.insert(key, Opened { descriptors: vec![socket], file: None, given: true });
    }

    /// For the next program. `place` gives a descriptor its place among those that go along.
    pub(super) fn to_written<'a>(&'a self, mut place: impl FnMut(BorrowedFd<'a>) -> usize) -> Vec<WrittenDescriptors> {
        let written = self.open.iter().map(|(key, opened)| WrittenDescriptors {
            key: key.clone(),
            places: opened.descriptors.iter().map(|descriptor| place(descriptor.as_fd())).collect(),
            file: opened.file,
            given: opened.given,
        });
        written.collect()
    }

    /// Takes over what the program before this one wrote.
    pub(super) fn from_written(
        written: Vec<WrittenDescriptors>,
        take: &mut impl FnMut(usize) -> io::Result<OwnedFd>,
    ) -> io::Result<Self> {
        let mut taken = Self::default();
        for WrittenDescriptors { key, places, file, given } in written {
            let descriptors = places.into_iter().map(&mut *take).collect::<io::Result<Vec<OwnedFd>>>()?;
            taken.insert(key, Opened { descriptors, file, given });
        }
        Ok(taken)
    }

    /// Whether `config` listens at this address; `0.0.0.0` of a TCP port is another one than `[::]`.
    pub(super) fn is_wanted_tcp(config: &Config, address: SocketAddr) -> bool {
        wanted(config).iter().any(|wanted| wanted.key == Key::Tcp(address))
    }

    /// Whether `config` listens at this path.
    pub(super) fn is_wanted_unix(config: &Config, path: &Path) -> bool {
        wanted(config).iter().any(|wanted| matches!(&wanted.key, Key::Unix { path: there, .. } if there == path))
    }

    /// Closes everything but leaves the files of Unix sockets for [`Self::remove_files`]: a new
    /// connection is refused from here on, once the worker process has closed its copies as well.
    pub(super) fn close(&mut self) {
        for opened in self.open.values_mut() {
            opened.descriptors.clear();
        }
    }

    /// Removes the files of our Unix sockets, unless somebody else has put theirs there.
    pub(super) fn remove_files(&self) {
        for (key, opened) in &self.open {
            if let (Key::Unix { path, .. }, Some(file)) = (key, opened.file) {
                remove_file(path, file);
            }
        }
    }

    /// Copies for a worker process, of these and of what was `added` to them: all that `config`
    /// names, less what it got with the config `before`.
    ///
    /// A worker may get several sockets of one address: there can be more than workers, since
    /// closing one would reset the connections in its queue.
    pub(super) fn copies(&self, added: &Self, config: &Config, before: Option<&Config>) -> io::Result<Vec<Passed>> {
        let known: BTreeSet<Wanted> = before.map(wanted).unwrap_or_default();
        let mut copies = Vec::new();
        for wanted in wanted(config).difference(&known) {
            let held = [self, added].into_iter().filter_map(|table| table.open.get(&wanted.key));
            let held: Vec<&OwnedFd> = held.flat_map(|opened| &opened.descriptors).collect();
            // Each worker has a socket of its own, or its share of them; one socket goes to all.
            let labels = match &wanted.name {
                Name::Listener { listener, bind } => (0..held.len().max(config.workers))
                    .map(|share| Label::Listener {
                        listener: listener.clone(),
                        bind: bind.clone(),
                        worker: share % config.workers,
                    })
                    .collect(),
                Name::Admin => vec![Label::Admin],
                Name::Control => vec![Label::Control],
                Name::AccessLog => vec![Label::AccessLog],
            };
            for (label, descriptor) in labels.into_iter().zip(held.into_iter().cycle()) {
                copies.push(Passed { label, descriptor: descriptor.try_clone()? });
            }
        }
        Ok(copies)
    }

    /// Opens the access log file again, for after it was moved away, and gives `copies` of it;
    /// none where no file is written.
    pub(super) fn reopen_log(&mut self, config: &Config, copies: usize) -> io::Result<Vec<Passed>> {
        let Some(LogTarget::File(path)) = config.access_log.as_ref().map(|log| &log.to) else {
            return Ok(Vec::new());
        };
        let opened = files::open_log(path)?;
        let copy = || Ok(Passed { label: Label::AccessLog, descriptor: opened.try_clone()? });
        let copies = (0..copies).map(|_| copy()).collect();
        let opened = Opened { descriptors: vec![opened], file: None, given: false };
        self.open.insert(Key::LogFile(path.clone()), opened);
        copies
    }

    fn count(&self, key: &Key) -> usize {
        self.open.get(key).map_or(0, |opened| opened.descriptors.len())
    }

    fn insert(&mut self, key: Key, opened: Opened) {
        match self.open.get_mut(&key) {
            Some(there) => {
                there.descriptors.extend(opened.descriptors);
                there.given |= opened.given;
            }
            None => {
                self.open.insert(key, opened);
            }
        }
    }

    fn holds_port_of(&self, key: &Key) -> bool {
        self.open.keys().any(|held| match (key, held) {
            (Key::Tcp(address), Key::Tcp(held)) | (Key::Udp(address), Key::Udp(held)) => held.port() == address.port(),
            _ => false,
        })
    }
}

fn listen<'a>(sockets: impl Iterator<Item = &'a OwnedFd>) -> Result<(), String> {
    let problems: BTreeSet<String> =
        sockets.filter_map(|socket| sockets::listen(socket).err()).map(|error| error.to_string()).collect();
    if problems.is_empty() { Ok(()) } else { Err(problems.into_iter().collect::<Vec<String>>().join("\n")) }
}

fn open(key: &Key, count: usize, claim: Claim) -> Result<Opened, String> {
    let failed = |what: &str, error: io::Error| format!("cannot open {what}: {error}");
    let one = |descriptor| Opened { descriptors: vec![descriptor], file: None, given: false };
    match key {
        Key::Tcp(address) => {
            let descriptors = reuseport_sockets(*address, count, claim).map_err(|error| error.to_string())?;
            Ok(Opened { descriptors, file: None, given: false })
        }
        Key::Udp(address) => {
            let descriptors = reuseport_udp_sockets(*address, count, claim).map_err(|error| error.to_string())?;
            Ok(Opened { descriptors, file: None, given: false })
        }
        Key::Unix { path, mode } => {
            if let Some(directory) = path.parent() {
                let place = directory.display();
                if *mode == CONTROL_MODE {
                    files::private_directory(directory)
                        .and_then(|()| files::require_trusted_directory(directory))
                        .map_err(|error| failed(&format!("the control socket in {place}"), error))?;
                } else if let Err(error) = files::require_trusted_directory(directory) {
                    // It may be meant: the folder of an application that comes by it.
                    tracing::warn!("the socket of a listener in {place} can be replaced: {error}");
                }
            }
            let socket = unix_listener(path, *mode).map_err(|error| error.to_string())?;
            Ok(Opened { descriptors: vec![socket], file: identity(path), given: false })
        }
        Key::LogFile(path) => {
            files::open_log(path).map(one).map_err(|error| failed(&format!("the access log {}", path.display()), error))
        }
        Key::Stdout => {
            io::stdout().as_fd().try_clone_to_owned().map(one).map_err(|error| failed("standard output", error))
        }
        Key::Stderr => {
            io::stderr().as_fd().try_clone_to_owned().map(one).map_err(|error| failed("standard error", error))
        }
    }
}

fn wanted(config: &Config) -> BTreeSet<Wanted> {
    let mut all = BTreeSet::new();
    for listener in config.listeners.values() {
        for bind in &listener.bind {
            let key = match bind {
                BindAddress::Tcp(address) => Key::Tcp(*address),
                BindAddress::Udp(address) => Key::Udp(*address),
                BindAddress::Unix(path) => Key::Unix { path: path.clone(), mode: LISTENER_MODE },
            };
            let name = Name::Listener { listener: listener.name.to_string(), bind: bind.clone() };
            all.insert(Wanted { key, name });
        }
    }
    if let Some(admin) = &config.admin {
        all.insert(Wanted { key: Key::Tcp(admin.address), name: Name::Admin });
    }
    let control = Key::Unix { path: config.control.clone(), mode: CONTROL_MODE };
    all.insert(Wanted { key: control, name: Name::Control });
    if let Some(log) = &config.access_log {
        let key = match &log.to {
            LogTarget::File(path) => Key::LogFile(path.clone()),
            LogTarget::Stdout => Key::Stdout,
            LogTarget::Stderr => Key::Stderr,
        };
        all.insert(Wanted { key, name: Name::AccessLog });
    }
    all
}

fn identity(path: &Path) -> Option<FileIdentity> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
}

fn remove_file(path: &Path, file: FileIdentity) {
    if identity(path) == Some(file)
        && let Err(error) = fs::remove_file(path)
    {
        tracing::warn!("cannot remove {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use super::*;

    /// Two listeners at TCP ports of the kernel's choice would be one key, so each test has one
    /// TCP address and one Unix socket.
    fn config(directory: &Path, workers: usize, address: SocketAddr) -> Config {
        let text = format!(
            "workers: {workers}\nadmin: off\ncontrol: \"unix:{0}/control.sock\"\nlisteners:\n  \
             web:\n    bind: [\"{address}\", \"unix:{0}/web.sock\"]\n    \
             routes: [{{ path: /, respond: {{ status: 204 }} }}]\n",
            directory.display()
        );
        let path = directory.join("sumun.yaml");
        fs::write(&path, text).unwrap();
        crate::checked::load(&path).unwrap_or_else(|report| panic!("{}", report.render(false))).1.config
    }

    fn scratch(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("sumun-{}-{name}", std::process::id()));
        files::private_directory(&directory).unwrap();
        directory
    }

    fn free_address() -> SocketAddr {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    /// Worker to the number of its TCP and Unix sockets.
    fn shares(copies: &[Passed]) -> BTreeMap<usize, (usize, usize)> {
        let mut shares = BTreeMap::new();
        for passed in copies {
            if let Label::Listener { worker, bind, .. } = &passed.label {
                let share: &mut (usize, usize) = shares.entry(*worker).or_default();
                match bind {
                    BindAddress::Tcp(_) => share.0 += 1,
                    BindAddress::Unix(_) => share.1 += 1,
                    BindAddress::Udp(_) => {}
                }
            }
        }
        shares
    }

    #[test]
    fn each_worker_gets_its_socket_and_no_socket_is_lost_when_workers_come_and_go() {
        let directory = scratch("workers");
        let address = free_address();
        let none = Descriptors::default();
        let two = config(&directory, 2, address);
        let mut open = none.open_missing(&two).unwrap();
        let copies = open.copies(&none, &two, None).unwrap();
        assert_eq!(shares(&copies), BTreeMap::from([(0, (1, 1)), (1, (1, 1))]));
        assert!(copies.iter().any(|passed| passed.label == Label::Control));
        assert!(open.copies(&none, &two, Some(&two)).unwrap().is_empty());

        let three = config(&directory, 3, address);
        let added = open.open_missing(&three).unwrap();
        let copies = open.copies(&added, &three, None).unwrap();
        assert_eq!(shares(&copies), BTreeMap::from([(0, (1, 1)), (1, (1, 1)), (2, (1, 1))]));
        open.adopt(added);

        let one = config(&directory, 1, address);
        open.keep_only(&one);
        let copies = open.copies(&none, &one, None).unwrap();
        assert_eq!(shares(&copies)[&0].0, 3);
    }

    #[test]
    fn a_renamed_listener_keeps_its_sockets() {
        let directory = scratch("renamed");
        let before = config(&directory, 2, free_address());
        let mut after = before.clone();
        let web = after.listeners.pop_first().unwrap().1;
        let renamed = sumun_config::checked::Listener { name: "shop".into(), ..(*web).clone() };
        after.listeners.insert("shop".into(), Arc::new(renamed));
        let none = Descriptors::default();
        let mut open = none.open_missing(&before).unwrap();
        let identities = |open: &Descriptors| -> Vec<i32> {
            open.open.values().flat_map(|opened| &opened.descriptors).map(AsRawFd::as_raw_fd).collect()
        };
        let held = identities(&open);
        let added = open.open_missing(&after).unwrap();
        assert!(added.open.is_empty());
        assert_eq!(open.copies(&added, &after, Some(&before)).unwrap().len(), 4);
        open.keep_only(&after);
        assert_eq!(identities(&open), held);
    }

    #[test]
    fn what_is_open_goes_along_into_the_next_program() {
        let directory = scratch("along");
        let config = config(&directory, 2, free_address());
        let mut open = Descriptors::default().open_missing(&config).unwrap();
        let given = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = given.local_addr().unwrap();
        open.give_tcp(address, given.into());
        let mut along: Vec<OwnedFd> = Vec::new();
        let written = open.to_written(|descriptor| {
            along.push(descriptor.try_clone_to_owned().unwrap());
            along.len() - 1
        });
        let text = serde_json::to_string(&written).unwrap();
        drop(open);
        let mut taken: Vec<Option<OwnedFd>> = along.into_iter().map(Some).collect();
        let mut take =
            |place: usize| taken.get_mut(place).and_then(Option::take).ok_or_else(|| io::ErrorKind::NotFound.into());
        let mut next = Descriptors::from_written(serde_json::from_str(&text).unwrap(), &mut take).unwrap();
        assert!(taken.iter().all(Option::is_none), "each is taken once");
        // Nothing is missing, nothing was closed: the addresses are still ours.
        assert!(next.open_missing(&config).unwrap().open.is_empty());
        assert!(std::net::TcpListener::bind(address).is_err());
        next.keep_only(&config);
        assert!(next.open.contains_key(&Key::Tcp(address)), "what was given is kept");
        next.remove_files();
        assert!(!config.control.exists(), "what was made is removed");
    }

    #[test]
    fn a_failure_names_every_address_and_leaves_nothing_open() {
        let directory = scratch("failure");
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        fs::write(directory.join("web.sock"), "no socket").unwrap();
        let config = config(&directory, 1, taken.local_addr().unwrap());
        let problems = Descriptors::default().open_missing(&config).unwrap_err();
        assert_eq!(problems.lines().count(), 2, "{problems}");
        assert!(!directory.join("control.sock").exists());
    }

    /// Others could put a socket of theirs in the place of ours.
    #[test]
    fn a_folder_for_everybody_is_no_place_for_the_control_socket() {
        let directory = scratch("trust");
        let config = config(&directory, 1, free_address());
        let set = |mode| fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
        set(0o777);
        let problems = Descriptors::default().open_missing(&config).unwrap_err();
        let is_it = |line: &str| line.contains("the control socket in") && line.contains("other users may write there");
        assert!(problems.lines().any(is_it), "{problems}");
        // A listener's is warned of: it may be the folder of an application.
        assert_eq!(problems.lines().count(), 1, "{problems}");
        set(0o1777);
        Descriptors::default().open_missing(&config).unwrap().remove_files();
    }

    #[test]
    fn only_our_own_socket_files_are_removed() {
        let directory = scratch("remove");
        let config = config(&directory, 1, free_address());
        let mut open = Descriptors::default().open_missing(&config).unwrap();
        open.close();
        let successor = Descriptors::default().open_missing(&config).unwrap();
        open.remove_files();
        assert!(config.control.exists());
        successor.remove_files();
        assert!(!config.control.exists());
    }
}
