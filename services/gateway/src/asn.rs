//! The table of autonomous systems, read beside everything else: `traffic: { asn_table: FILE }`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use arc_swap::ArcSwapOption;
use sumun_traffic::asn::{AsnBuilder, AsnTable};
use sumun_traffic::limits::ASN_LINE_BYTES;

use crate::events::Event;

/// The table in force; `None`: there is none, or it is not read yet.
#[derive(Debug, Default)]
pub(crate) struct AsnTables {
    now: ArcSwapOption<AsnTable>,
    /// Of the config that came last: what was begun for another one is thrown away.
    config: AtomicU64,
    /// One at a time: a table that is being read takes twice its memory.
    reading: Mutex<()>,
}

impl AsnTables {
    pub(crate) fn now(&self) -> arc_swap::Guard<Option<Arc<AsnTable>>> {
        self.now.load()
    }

    /// Reads the files of a config on a thread of its own: it takes a second or so. Until then, and where
    /// they cannot be read, the table before stays in force.
    pub(crate) fn follow(self: &Arc<Self>, files: &[PathBuf]) {
        let config = self.config.fetch_add(1, Ordering::SeqCst) + 1;
        if files.is_empty() {
            self.now.store(None);
            return;
        }
        let (tables, files) = (Arc::clone(self), files.to_vec());
        let read = move || {
            let one_at_a_time = tables.reading.lock().unwrap_or_else(PoisonError::into_inner);
            let is_wanted = || tables.config.load(Ordering::SeqCst) == config;
            if !is_wanted() {
                return;
            }
            match read(&files) {
                Ok(table) if is_wanted() => {
                    Event::AsnTableRead { ranges: table.len(), bytes: table.bytes() }.write();
                    tables.now.store(Some(Arc::new(table)));
                }
                Ok(_) => {}
                Err((path, why)) => Event::AsnTableUnusable { path, why: &why }.write(),
            }
            drop(one_at_a_time);
        };
        if let Err(error) = thread::Builder::new().name("asn table".to_owned()).spawn(read) {
            Event::AsnTableUnusable { path: Path::new(""), why: &error.to_string() }.write();
        }
    }
}

fn read(files: &[PathBuf]) -> Result<AsnTable, (&Path, String)> {
    let mut builder = AsnBuilder::default();
    for path in files {
        let file = sumun_host::files::open_regular(path).map_err(|error| (path.as_path(), error.to_string()))?;
        add(&mut builder, &mut BufReader::new(file)).map_err(|why| (path.as_path(), why))?;
    }
    Ok(builder.build())
}

fn add(builder: &mut AsnBuilder, reader: &mut BufReader<File>) -> Result<(), String> {
    let mut line = Vec::new();
    // What is longer is refused with its first part.
    let bound = ASN_LINE_BYTES as u64 + 2;
    for number in 1_u64.. {
        line.clear();
        let length = reader.take(bound).read_until(b'\n', &mut line).map_err(|error| error.to_string())?;
        if length == 0 {
            break;
        }
        let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line));
        builder.add_line(&text, number == 1).map_err(|why| format!("line {number}: {why}"))?;
    }
    Ok(())
}
