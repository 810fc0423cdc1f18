//! Sitemaps (the protocol of sitemaps.org, version 0.9): which URLs they name.

use quick_xml::Reader;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::Event;

use crate::limits::{WARM_DEPTH, WARM_URL_BYTES, WARM_URLS};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A sitemap proper: what it names are pages.
    Urls,
    /// An index: what it names are sitemaps.
    Sitemaps,
}

impl Kind {
    fn of(root: &str) -> Option<Self> {
        match root {
            "urlset" => Some(Self::Urls),
            "sitemapindex" => Some(Self::Sitemaps),
            _ => None,
        }
    }

    /// The elements whose `loc` counts.
    fn entry(self) -> &'static str {
        match self {
            Self::Urls => "url",
            Self::Sitemaps => "sitemap",
        }
    }
}

/// What stands in each `loc`, without white space around it. Those of extensions, such as images, lie
/// deeper and do not count.
///
/// # Errors
///
/// What is no XML, has a document type (whose entities could be anything), or goes beyond a bound.
pub(super) fn read(text: &str) -> Result<(Kind, Vec<String>), String> {
    let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}').trim_start());
    reader.config_mut().expand_empty_elements = true;
    let (mut kind, mut depth, mut is_entry) = (None, 0_usize, false);
    let (mut place, mut places) = (None::<String>, Vec::new());
    loop {
        let event =
            reader.read_event().map_err(|error| format!("no XML at byte {}: {error}", reader.error_position()))?;
        match event {
            Event::Start(tag) => {
                depth += 1;
                let name = tag.local_name();
                match (depth, kind) {
                    (1, None) => {
                        let root = || format!("<{}> is neither <urlset> nor <sitemapindex>", short(name.as_ref()));
                        kind = Some(Kind::of(name.as_ref()).ok_or_else(root)?);
                    }
                    (1, Some(_)) => return Err("there is more than one root".to_owned()),
                    (2, Some(kind)) => is_entry = name.as_ref() == kind.entry(),
                    (3, _) if is_entry && name.as_ref() == "loc" => place = Some(String::new()),
                    (WARM_DEPTH.., _) => return Err(format!("elements lie deeper than {WARM_DEPTH}")),
                    _ => {}
                }
            }
            Event::End(_) => {
                if depth == 3
                    && let Some(text) = place.take()
                {
                    if places.len() == WARM_URLS {
                        return Err(format!("there are more than {WARM_URLS} URLs"));
                    }
                    places.push(text.trim().to_owned());
                }
                depth = depth.saturating_sub(1);
            }
            Event::Text(text) => append(&mut place, &text)?,
            Event::CData(text) => append(&mut place, &text)?,
            Event::GeneralRef(entity) => {
                let unknown = || format!("there is no entity &{};", short(&entity));
                match entity.resolve_char_ref().map_err(|_| unknown())? {
                    Some(char) => append(&mut place, char.encode_utf8(&mut [0; 4]))?,
                    None => append(&mut place, resolve_xml_entity(&entity).ok_or_else(unknown)?)?,
                }
            }
            Event::DocType(_) => return Err("it has a document type, which no sitemap has".to_owned()),
            Event::Eof if depth > 0 => return Err("it is cut short".to_owned()),
            Event::Eof => return Ok((kind.ok_or("there is no element in it")?, places)),
            Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
        }
    }
}

fn append(place: &mut Option<String>, text: &str) -> Result<(), String> {
    let Some(place) = place else { return Ok(()) };
    if place.len() + text.len() > WARM_URL_BYTES {
        return Err(format!("a URL has more than {} KiB", WARM_URL_BYTES >> 10));
    }
    place.push_str(text);
    Ok(())
}

fn short(text: &str) -> &str {
    text.get(..text.floor_char_boundary(40)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn urls(text: &str) -> Vec<String> {
        let (kind, urls) = read(text).unwrap();
        assert_eq!(kind, Kind::Urls);
        urls
    }

    #[test]
    fn a_sitemap_names_pages() {
        let text = "\u{feff}<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!-- a -->\n\
            <urlset xmlns=\"http://www.sitemaps.org/schemas/sitemap/0.9\" xmlns:image=\"i\">\n\
            <url><loc>\n https://a.example/?b=1&amp;c=&#50;&#x33; </loc><lastmod>2026-01-01</lastmod>\n\
            <image:image><image:loc>https://a.example/i.png</image:loc></image:image></url>\n\
            <other><loc>https://a.example/other</loc></other><url/>\n\
            <url><loc><![CDATA[https://a.example/?d&e]]></loc></url></urlset>\n";
        assert_eq!(urls(text), ["https://a.example/?b=1&c=23", "https://a.example/?d&e"]);
        assert_eq!(urls("<s:urlset xmlns:s='x'><s:url><s:loc>a</s:loc></s:url></s:urlset>"), ["a"]);
        assert!(urls("<urlset></urlset>").is_empty());
    }

    #[test]
    fn an_index_names_sitemaps() {
        let text = "<sitemapindex><sitemap><loc>a</loc></sitemap><url><loc>b</loc></url></sitemapindex>";
        assert_eq!(read(text).unwrap(), (Kind::Sitemaps, vec!["a".to_owned()]));
    }

    #[test]
    fn what_is_hostile_is_refused() {
        let deep = format!("<urlset>{}{}</urlset>", "<a>".repeat(WARM_DEPTH), "</a>".repeat(WARM_DEPTH));
        let long = format!("<urlset><url><loc>{}</loc></url></urlset>", "a".repeat(WARM_URL_BYTES + 1));
        for (text, why) in [
            ("<!DOCTYPE urlset [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><urlset/>", "document type"),
            ("<!DOCTYPE urlset SYSTEM \"file:///etc/passwd\"><urlset/>", "document type"),
            ("<urlset><url><loc>&b;</loc></url></urlset>", "there is no entity &b;"),
            ("<urlset><url><loc>&#0;</loc></url></urlset>", "there is no entity"),
            ("<urlset><url><loc>a</loc></url>", "cut short"),
            ("<urlset><url></urlset>", "no XML"),
            ("<html><body></body></html>", "<html> is neither"),
            ("<urlset></urlset><urlset></urlset>", "more than one root"),
            ("<!-- -->", "no element"),
            (&deep, "deeper than"),
            (&long, "more than 8 KiB"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(why), "{text:.80}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_hurts(parts in proptest::collection::vec(
            prop_oneof![
                Just("<urlset>"), Just("</urlset>"), Just("<url>"), Just("</url>"), Just("<loc>"), Just("</loc>"),
                Just("<![CDATA["), Just("]]>"), Just("&amp;"), Just("&#x41;"), Just("<!--"), Just("-->"), Just("<?"),
                Just("<"), Just("&"), Just("a"), Just("<!"), Just("\u{d55c}"),
            ],
            0..40,
        )) {
            if let Ok((_, places)) = read(&parts.concat()) {
                prop_assert!(places.len() <= 20);
            }
        }
    }
}
