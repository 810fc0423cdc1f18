//! The URLs that `sumun cache warm` asks for: from a list, a sitemap, or an index of sitemaps.

use std::fs::File;
use std::io::{self, Read};

use flate2::read::MultiGzDecoder;
use ureq::http::Uri;

use super::sitemap::{self, Kind};
use crate::limits::{WARM_BYTES, WARM_DOCUMENT_BYTES, WARM_URL_BYTES, WARM_URLS, WARM_WRONG};

/// Gets what lies behind a URL, or says why not.
pub(super) type Fetch<'a> = &'a dyn Fn(&str) -> Result<Vec<u8>, String>;

/// How much is taken.
struct Bounds {
    urls: usize,
    /// Bytes of one document, unpacked.
    document: u64,
    /// Bytes of all that is still to be read, unpacked.
    left: u64,
}

/// All URLs, in their order; or what is wrong with them.
pub(super) fn read(from: &str, fetch: Fetch<'_>) -> Result<Vec<String>, String> {
    let bounds = Bounds { urls: WARM_URLS, document: WARM_DOCUMENT_BYTES, left: WARM_BYTES };
    read_within(bounds, from, fetch)
}

fn read_within(bounds: Bounds, from: &str, fetch: Fetch<'_>) -> Result<Vec<String>, String> {
    let mut all = Collected { bounds, urls: Vec::new(), wrong: Vec::new(), wrong_count: 0 };
    let text = all.document(from, fetch)?;
    if !text.trim_start_matches('\u{feff}').trim_start().starts_with('<') {
        all.list(&text)?;
        return all.finish(from);
    }
    let (kind, places) = sitemap::read(&text).map_err(|why| format!("{from}: {why}"))?;
    drop(text);
    match kind {
        Kind::Urls => all.places(from, &places)?,
        Kind::Sitemaps => {
            for place in places {
                let place = url(&place).map_err(|why| format!("{from}: {why}"))?;
                let text = all.document(&place, fetch)?;
                match sitemap::read(&text).map_err(|why| format!("{place}: {why}"))? {
                    (Kind::Urls, places) => all.places(&place, &places)?,
                    (Kind::Sitemaps, _) => {
                        return Err(format!("{place}: an index within an index of sitemaps is not followed"));
                    }
                }
            }
        }
    }
    all.finish(from)
}

struct Collected {
    bounds: Bounds,
    urls: Vec<String>,
    /// What is no URL, with its place; the first of them.
    wrong: Vec<String>,
    wrong_count: usize,
}

impl Collected {
    /// The text of a file, of what lies behind a URL, or of standard input, unpacked.
    fn document(&mut self, from: &str, fetch: Fetch<'_>) -> Result<String, String> {
        let named = |why: String| format!("{from}: {why}");
        let most = self.bounds.document;
        let bytes = match from {
            "-" => bounded(io::stdin().lock(), most).map_err(|error| named(error.to_string()))?,
            _ if from.starts_with("http://") || from.starts_with("https://") => fetch(from).map_err(named)?,
            _ => File::open(from).and_then(|file| bounded(file, most)).map_err(|error| named(error.to_string()))?,
        };
        let bytes = match bytes.starts_with(&[0x1f, 0x8b]) {
            true => bounded(MultiGzDecoder::new(&*bytes), most).map_err(|error| named(format!("gzip: {error}")))?,
            false => bytes,
        };
        let length = bytes.len() as u64;
        if length > most {
            return Err(named(format!("it has more than {most} bytes")));
        }
        let left = self.bounds.left.checked_sub(length);
        self.bounds.left = left.ok_or_else(|| named("all sitemaps together have too many bytes".to_owned()))?;
        String::from_utf8(bytes).map_err(|_| named("it is not UTF-8".to_owned()))
    }

    fn list(&mut self, text: &str) -> Result<(), String> {
        for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                self.add(line, || format!("line {}", number + 1))?;
            }
        }
        Ok(())
    }

    fn places(&mut self, from: &str, places: &[String]) -> Result<(), String> {
        places.iter().try_for_each(|place| self.add(place, || from.to_owned()))
    }

    fn add(&mut self, text: &str, place: impl Fn() -> String) -> Result<(), String> {
        if self.urls.len() == self.bounds.urls {
            return Err(format!("there are more than {} URLs", self.bounds.urls));
        }
        match url(text) {
            Ok(url) => self.urls.push(url),
            Err(why) => {
                self.wrong_count += 1;
                if self.wrong.len() < WARM_WRONG {
                    self.wrong.push(format!("{}: {why}", place()));
                }
            }
        }
        Ok(())
    }

    fn finish(mut self, from: &str) -> Result<Vec<String>, String> {
        if let Some(more) = self.wrong_count.checked_sub(self.wrong.len()).filter(|more| *more > 0) {
            self.wrong.push(format!("and {more} more"));
        }
        match (self.wrong.is_empty(), self.urls.is_empty()) {
            (false, _) => Err(format!("{from}: {}", self.wrong.join("\nsumun: "))),
            (_, true) => Err(format!("{from}: there is no URL in it")),
            _ => Ok(self.urls),
        }
    }
}

/// One byte more than may be tells "too long" from "just fits".
fn bounded(reader: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(most + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// As it is asked for: what is not ASCII behind the host is percent-encoded, as browsers do, and a
/// fragment is left out.
fn url(text: &str) -> Result<String, String> {
    let shown = || {
        let cut: String = text.chars().filter(|char| !char.is_control()).take(200).collect();
        format!("`{cut}`")
    };
    if text.len() > WARM_URL_BYTES {
        return Err(format!("{} has more than {} KiB", shown(), WARM_URL_BYTES >> 10));
    }
    let text = text.split_once('#').map_or(text, |(text, _)| text);
    let mut url = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_ascii() {
            url.push(char);
        } else {
            char.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| url.push_str(&format!("%{byte:02X}")));
        }
    }
    let parsed: Uri = url.parse().map_err(|error| format!("{} is no URL: {error}", shown()))?;
    let authority = parsed.authority().map(|authority| authority.as_str()).unwrap_or_default();
    match parsed.scheme_str() {
        Some("http" | "https") if authority.contains(['@', '%']) => Err(format!("{} has no plain host", shown())),
        Some("http" | "https") if parsed.host().is_some_and(|host| !host.is_empty()) => Ok(url),
        _ => Err(format!("{} is no http or https URL", shown())),
    }
}

#[cfg(test)]
mod tests;
