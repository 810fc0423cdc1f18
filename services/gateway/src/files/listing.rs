//! The page of a directory without an index file, in the manner of `ls -l`.

use std::collections::HashMap;
use std::fmt::Write;
use std::io::Read;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustix::fs::{AtFlags, Dir, FileType, Stat};

use super::limits::{LISTING_ENTRIES_MAX, PASSWD_BYTES_MAX};
use super::load::join;
use super::root::{FileRoot, OpenError};

struct Line {
    name: Vec<u8>,
    is_directory: bool,
    /// Of the entry itself, not of what a link leads to.
    stat: Stat,
}

/// Makes the page. Blocks.
///
/// Left out is what could not be asked for anyway: names that begin with a dot, links that leave
/// the root, sockets and the like.
pub(super) fn page(root: &FileRoot, directory: &[u8], url_path: &str) -> Result<Arc<[u8]>, OpenError> {
    let (mut lines, left_out) = read(root, directory)?;
    lines.sort_by(|one, other| other.is_directory.cmp(&one.is_directory).then_with(|| one.name.cmp(&other.name)));
    let html = render(&lines, left_out, url_path, directory.is_empty(), &users(), &TimeZone::system());
    Ok(Arc::from(html.into_bytes()))
}

fn read(root: &FileRoot, directory: &[u8]) -> Result<(Vec<Line>, usize), OpenError> {
    let descriptor = root.open_directory(directory)?;
    let mut lines = Vec::new();
    let mut left_out = 0;
    for entry in Dir::read_from(&descriptor).map_err(OpenError::from_errno)? {
        let entry = entry.map_err(OpenError::from_errno)?;
        let name = entry.file_name().to_bytes();
        if name.starts_with(b".") {
            continue;
        }
        if lines.len() == LISTING_ENTRIES_MAX {
            left_out += 1;
            continue;
        }
        // Removed since: not there.
        let Ok(stat) = rustix::fs::statat(&descriptor, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        let reached = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => match root.stat_beneath(&join(directory, name)) {
                Ok(target) => FileType::from_raw_mode(target.st_mode),
                Err(_) => continue,
            },
            itself => itself,
        };
        let is_directory = match reached {
            FileType::Directory => true,
            FileType::RegularFile => false,
            _ => continue,
        };
        lines.push(Line { name: name.to_vec(), is_directory, stat });
    }
    Ok((lines, left_out))
}

fn render(
    lines: &[Line],
    left_out: usize,
    url_path: &str,
    is_root: bool,
    users: &HashMap<u32, String>,
    zone: &TimeZone,
) -> String {
    let title = escape(&String::from_utf8_lossy(&percent_decode(url_path)));
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\n<style>\
         body{{font:15px/1.5 system-ui,sans-serif;margin:2rem;color-scheme:light dark}}\
         h1{{font-size:1.2rem}}table{{border-collapse:collapse}}\
         td,th{{padding:.1rem 1rem .1rem 0;text-align:left;white-space:nowrap}}\
         td:first-child,td:nth-child(3),td:nth-child(4){{font-family:ui-monospace,monospace}}\
         td:nth-child(3){{text-align:right}}</style></head>\n<body><h1>{title}</h1>\n<table>\n\
         <tr><th>Mode<th>Owner<th>Size<th>Modified<th>Name</tr>\n"
    );
    if !is_root {
        html.push_str("<tr><td><td><td><td><td><a href=\"../\">../</a></tr>\n");
    }
    for line in lines {
        let slash = if line.is_directory { "/" } else { "" };
        let owner = match users.get(&line.stat.st_uid) {
            Some(name) => escape(name),
            None => line.stat.st_uid.to_string(),
        };
        let row = writeln!(
            html,
            "<tr><td>{}<td>{owner}<td>{}<td>{}<td><a href=\"./{}{slash}\">{}{slash}</a></tr>",
            mode_text(line.stat.st_mode),
            line.stat.st_size,
            time_text(line.stat.st_mtime, zone),
            percent_encode(&line.name),
            escape(&String::from_utf8_lossy(&line.name)),
        );
        debug_assert!(row.is_ok(), "a String takes everything");
    }
    html.push_str("</table>\n");
    if left_out > 0 {
        html.push_str(&format!("<p>{left_out} more are not shown.</p>\n"));
    }
    html.push_str("</body></html>\n");
    html
}

/// `drwxr-sr-x`.
fn mode_text(mode: u32) -> String {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        _ => '-',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

fn time_text(unix_seconds: i64, zone: &TimeZone) -> String {
    match Timestamp::from_second(unix_seconds) {
        Ok(time) => time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M").to_string(),
        // A disk can say any number.
        Err(_) => "?".to_owned(),
    }
}

/// Numbers to names, as far as they can be read.
fn users() -> HashMap<u32, String> {
    let mut text = Vec::new();
    let read = std::fs::File::open("/etc/passwd").and_then(|file| file.take(PASSWD_BYTES_MAX).read_to_end(&mut text));
    if read.is_err() {
        return HashMap::new();
    }
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| {
            let mut columns = line.split(':');
            let name = columns.next()?;
            Some((columns.nth(1)?.parse().ok()?, name.to_owned()))
        })
        .collect()
}

/// For text and for attributes in double quotes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Control characters have no place in a page, and could turn the line around.
            character if character.is_control() => escaped.push('\u{fffd}'),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => escaped.push('\u{fffd}'),
            character => escaped.push(character),
        }
    }
    escaped
}

/// All but the unreserved characters of RFC 3986 section 2.3.
fn percent_encode(name: &[u8]) -> String {
    let mut encoded = String::with_capacity(name.len());
    for &byte in name {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            for digit in [byte >> 4, byte & 15] {
                let digit = char::from_digit(u32::from(digit), 16).unwrap_or('0');
                encoded.push(digit.to_ascii_uppercase());
            }
        }
    }
    encoded
}

/// For show only: what is malformed stays as it is.
fn percent_decode(path: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, behind @ ..] = rest {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        if let (b'%', [high, low, after @ ..]) = (*first, behind)
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            decoded.push((high * 16 + low) as u8);
            rest = after;
        } else {
            decoded.push(*first);
            rest = behind;
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn modes() {
        for (mode, text) in [
            (0o100_644, "-rw-r--r--"),
            (0o040_755, "drwxr-xr-x"),
            (0o120_777, "lrwxrwxrwx"),
            (0o104_755, "-rwsr-xr-x"),
            (0o102_644, "-rw-r-Sr--"),
            (0o041_777, "drwxrwxrwt"),
            (0o041_776, "drwxrwxrwT"),
            (0o100_000, "----------"),
        ] {
            assert_eq!(mode_text(mode), text);
        }
    }

    #[test]
    fn times() {
        assert_eq!(time_text(784_111_777, &TimeZone::UTC), "1994-11-06 08:49");
        assert_eq!(time_text(i64::MAX, &TimeZone::UTC), "?");
    }

    #[test]
    fn what_is_malformed_in_a_title_stays() {
        assert_eq!(percent_decode("/a%20b/%zz/%"), b"/a b/%zz/%");
    }

    proptest! {
        #[test]
        fn no_name_breaks_out_of_the_page(name in ".{0,20}") {
            let escaped = escape(&name);
            prop_assert!(!escaped.contains(['<', '>', '"', '\'', '\n', '\r']));
            let encoded = percent_encode(name.as_bytes());
            prop_assert!(encoded.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)));
            prop_assert_eq!(percent_decode(&encoded), name.as_bytes());
        }
    }
}
