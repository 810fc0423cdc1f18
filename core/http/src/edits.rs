//! Edits of header fields that a route asks for.

use crate::field::{Known, is_same_name};

/// The bit of `Edits::replaced` that stands for names that are not known.
const OTHER: u64 = 1 << Known::Other as u8;

/// Changes that a route asks for: first fields are removed, then set, then added. Names are
/// compared as CGI-like servers do, in any case and with any sign for any other: otherwise a client could
/// send `X_User` where the gateway sets `X-User`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits {
    set: Vec<(String, String)>,
    add: Vec<(String, String)>,
    remove: Vec<String>,
    /// Names that are set or removed: bit n stands for the known name n, bit 0 for all others.
    replaced: u64,
}

impl Edits {
    pub const NONE: Self = Self { set: Vec::new(), add: Vec::new(), remove: Vec::new(), replaced: 0 };

    /// `set` replaces every field of its names, `add` adds to them. Names of fields that frame a
    /// message or speak about one connection, `Host` and `CDN-Loop` of requests must not be among
    /// these: a field of the gateway's own would go on beside what is written here.
    #[must_use]
    pub fn new(set: Vec<(String, String)>, add: Vec<(String, String)>, remove: Vec<String>) -> Self {
        let names = set.iter().map(|(name, _)| name).chain(&remove);
        let replaced = names.fold(0, |bits, name| bits | bit_of(name));
        Self { set, add, remove, replaced }
    }

    /// One more name to remove.
    pub fn remove(&mut self, name: String) {
        self.replaced |= bit_of(&name);
        self.remove.push(name);
    }

    /// One more field to add.
    pub fn add(&mut self, name: String, value: String) {
        self.add.push((name, value));
    }

    /// A value of its own is set for this name.
    #[must_use]
    pub fn sets(&self, name: &[u8]) -> bool {
        self.set.iter().any(|(set, _)| is_same_name(name, set.as_bytes()))
    }

    /// Fields of this known name are replaced or removed, those of the gateway's own included.
    #[must_use]
    pub fn replaces(&self, known: Known) -> bool {
        self.known() & 1 << known as u8 != 0
    }

    /// The known names that are set or removed, a bit each.
    pub(crate) fn known(&self) -> u64 {
        self.replaced & !OTHER
    }

    /// Fields of this name are replaced or removed.
    #[inline]
    pub(crate) fn drops(&self, name: &[u8]) -> bool {
        self.replaced != 0
            && match Known::alike(name) {
                Known::Other => self.drops_other(name),
                known => self.replaces(known),
            }
    }

    /// The same for a name that is not known.
    #[inline]
    pub(crate) fn drops_other(&self, name: &[u8]) -> bool {
        self.replaced & OTHER != 0
            && (self.remove.iter().any(|removed| is_same_name(name, removed.as_bytes())) || self.sets(name))
    }

    /// Appends whole field lines, `CRLF` included, as these edits leave them.
    pub fn write_filtered(&self, output: &mut Vec<u8>, lines: &[u8]) {
        let start = output.len();
        output.extend_from_slice(lines);
        self.apply(output, start);
    }

    /// Edits the whole field lines behind `start`.
    pub fn apply(&self, output: &mut Vec<u8>, start: usize) {
        if self.replaced != 0 {
            self.take_out(output, start);
        }
        self.write(output);
    }

    /// Takes lines of dropped names out of the whole field lines behind `start`.
    pub(crate) fn take_out(&self, output: &mut Vec<u8>, start: usize) {
        let (mut kept, mut at) = (start, start);
        while let Some(rest) = output.get(at..).filter(|rest| !rest.is_empty()) {
            let end = memchr::memchr(b'\n', rest).map_or(output.len(), |length| at + length + 1);
            let name = rest.split(|&byte| byte == b':').next().unwrap_or_default();
            if !self.drops(name) {
                output.copy_within(at..end, kept);
                kept += end - at;
            }
            at = end;
        }
        output.truncate(kept);
    }

    /// Appends what is set and added.
    pub(crate) fn write(&self, output: &mut Vec<u8>) {
        for (name, value) in self.set.iter().chain(&self.add) {
            write_line(output, name.as_bytes(), value.as_bytes());
        }
    }
}

fn bit_of(name: &str) -> u64 {
    1 << Known::alike(name.as_bytes()) as u8
}

/// Appends one field line.
pub(crate) fn write_line(output: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    output.extend_from_slice(name);
    output.extend_from_slice(b": ");
    output.extend_from_slice(value);
    output.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(edits: &Edits, lines: &str) -> String {
        let mut output = b"before: 1\r\n".to_vec();
        edits.write_filtered(&mut output, lines.as_bytes());
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn names_are_compared_as_cgi_programs_read_them() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut edits = Edits::new(vec![pair("X-Set", "new")], vec![pair("Age", "2")], vec!["user_agent".into()]);
        assert!(edits.drops(b"x_SET") && edits.drops(b"User-Agent") && edits.replaces(Known::UserAgent));
        assert!(edits.sets(b"X_Set") && !edits.sets(b"User-Agent"));
        assert!(!edits.drops(b"X-Sett") && !edits.drops(b"Age") && !edits.replaces(Known::Age));
        assert!(!edits.replaces(Known::Other), "it is no name");
        assert_eq!(
            edited(&edits, "X-Set: old\r\nAge: 1\r\nUser_Agent: a\r\nuser-agent: b\r\nC: X-Set: d\r\n"),
            "before: 1\r\nAge: 1\r\nC: X-Set: d\r\nX-Set: new\r\nAge: 2\r\n"
        );
        edits.remove("C".into());
        edits.add("D".into(), "3".into());
        assert_eq!(edited(&edits, "c: 1\r\n"), "before: 1\r\nX-Set: new\r\nAge: 2\r\nD: 3\r\n");
        assert_eq!(edited(&Edits::NONE, "A: 1\r\n"), "before: 1\r\nA: 1\r\n");
    }
}
