//! Media types (RFC 9110 section 8.3.1) by the extension of a file's name.

/// What a file without a known extension is.
pub const UNKNOWN: &str = "application/octet-stream";

/// Bytes of the longest extension in the table.
const LONGEST_EXTENSION: usize = 11;

/// The value of `Content-Type` for a file name, `None` where the table does not know its extension.
/// Text says that it is UTF-8.
#[must_use]
pub fn of_name(name: &[u8]) -> Option<&'static str> {
    let mut buffer = [0; LONGEST_EXTENSION];
    let extension = extension(name)?;
    let lower = buffer.get_mut(..extension.len())?;
    lower.copy_from_slice(extension);
    lower.make_ascii_lowercase();
    let index = TABLE.binary_search_by(|(known, _)| known.as_bytes().cmp(lower)).ok()?;
    Some(TABLE[index].1)
}

/// What follows the last dot of a file's name; `None` for `.name`, `name` and `name.`.
#[must_use]
pub fn extension(name: &[u8]) -> Option<&[u8]> {
    let name = name.rsplit(|&byte| byte == b'/').next()?;
    let dot = name.iter().rposition(|&byte| byte == b'.')?;
    let extension = &name[dot + 1..];
    (dot > 0 && !extension.is_empty()).then_some(extension)
}

/// Whether compression pays: text in the wide sense, and the few binary types that are not
/// compressed in themselves. Parameters and case do not matter.
#[must_use]
pub fn is_compressible(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    let Some((kind, subtype)) = essence.split_once('/') else {
        return false;
    };
    let is = |names: &[&str]| names.iter().any(|name| subtype.eq_ignore_ascii_case(name));
    // A server must not hold back events while a compressor waits for more.
    if kind.eq_ignore_ascii_case("text") {
        return !is(&["event-stream"]);
    }
    let suffix = subtype.rsplit_once('+').map_or("", |(_, suffix)| suffix);
    if suffix.eq_ignore_ascii_case("json") || suffix.eq_ignore_ascii_case("xml") {
        return true;
    }
    if kind.eq_ignore_ascii_case("application") {
        return is(&[
            "json",
            "javascript",
            "ecmascript",
            "xml",
            "xml-dtd",
            "yaml",
            "toml",
            "x-ndjson",
            "x-sh",
            "wasm",
            "rtf",
            "postscript",
            "x-tar",
            "vnd.apple.mpegurl",
            "vnd.ms-fontobject",
            "x-pem-file",
        ]);
    }
    if kind.eq_ignore_ascii_case("font") {
        return is(&["ttf", "otf", "collection"]);
    }
    kind.eq_ignore_ascii_case("image") && is(&["bmp", "vnd.microsoft.icon", "x-icon"])
}

/// Sorted by extension.
const TABLE: &[(&str, &str)] = &[
    ("7z", "application/x-7z-compressed"),
    ("aac", "audio/aac"),
    ("apk", "application/vnd.android.package-archive"),
    ("apng", "image/apng"),
    ("appcache", "text/cache-manifest; charset=utf-8"),
    ("atom", "application/atom+xml"),
    ("avi", "video/x-msvideo"),
    ("avif", "image/avif"),
    ("bin", "application/octet-stream"),
    ("bmp", "image/bmp"),
    ("bz2", "application/x-bzip2"),
    ("c", "text/plain; charset=utf-8"),
    ("cer", "application/pkix-cert"),
    ("cjs", "text/javascript; charset=utf-8"),
    ("conf", "text/plain; charset=utf-8"),
    ("cpp", "text/plain; charset=utf-8"),
    ("crt", "application/x-x509-ca-cert"),
    ("css", "text/css; charset=utf-8"),
    ("csv", "text/csv; charset=utf-8"),
    ("cur", "image/vnd.microsoft.icon"),
    ("deb", "application/vnd.debian.binary-package"),
    ("dmg", "application/x-apple-diskimage"),
    ("doc", "application/msword"),
    ("docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    ("eot", "application/vnd.ms-fontobject"),
    ("epub", "application/epub+zip"),
    ("flac", "audio/flac"),
    ("geojson", "application/geo+json"),
    ("gif", "image/gif"),
    ("glb", "model/gltf-binary"),
    ("gltf", "model/gltf+json"),
    ("gz", "application/gzip"),
    ("h", "text/plain; charset=utf-8"),
    ("heic", "image/heic"),
    ("heif", "image/heif"),
    ("htm", "text/html; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("hwp", "application/x-hwp"),
    ("hwpx", "application/hwp+zip"),
    ("ico", "image/vnd.microsoft.icon"),
    ("ics", "text/calendar; charset=utf-8"),
    ("ini", "text/plain; charset=utf-8"),
    ("iso", "application/x-iso9660-image"),
    ("jar", "application/java-archive"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("jsonld", "application/ld+json"),
    ("jxl", "image/jxl"),
    ("kml", "application/vnd.google-earth.kml+xml"),
    ("log", "text/plain; charset=utf-8"),
    ("m3u8", "application/vnd.apple.mpegurl"),
    ("m4a", "audio/mp4"),
    ("m4v", "video/x-m4v"),
    ("map", "application/json"),
    ("md", "text/markdown; charset=utf-8"),
    ("mid", "audio/midi"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("mkv", "video/x-matroska"),
    ("mov", "video/quicktime"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("mpd", "application/dash+xml"),
    ("mpeg", "video/mpeg"),
    ("mpg", "video/mpeg"),
    ("msi", "application/x-msi"),
    ("ndjson", "application/x-ndjson"),
    ("odp", "application/vnd.oasis.opendocument.presentation"),
    ("ods", "application/vnd.oasis.opendocument.spreadsheet"),
    ("odt", "application/vnd.oasis.opendocument.text"),
    ("oga", "audio/ogg"),
    ("ogg", "audio/ogg"),
    ("ogv", "video/ogg"),
    ("opus", "audio/ogg"),
    ("otf", "font/otf"),
    ("pdf", "application/pdf"),
    ("pem", "application/x-pem-file"),
    ("png", "image/png"),
    ("ppt", "application/vnd.ms-powerpoint"),
    ("pptx", "application/vnd.openxmlformats-officedocument.presentationml.presentation"),
    ("ps", "application/postscript"),
    ("py", "text/x-python; charset=utf-8"),
    ("rar", "application/vnd.rar"),
    ("rpm", "application/x-rpm"),
    ("rs", "text/plain; charset=utf-8"),
    ("rss", "application/rss+xml"),
    ("rtf", "application/rtf"),
    ("sh", "application/x-sh"),
    ("shtml", "text/html; charset=utf-8"),
    ("srt", "text/plain; charset=utf-8"),
    ("svg", "image/svg+xml"),
    ("swf", "application/x-shockwave-flash"),
    ("tar", "application/x-tar"),
    ("tgz", "application/gzip"),
    ("tif", "image/tiff"),
    ("tiff", "image/tiff"),
    ("toml", "application/toml"),
    ("ts", "video/mp2t"),
    ("tsv", "text/tab-separated-values; charset=utf-8"),
    ("ttc", "font/collection"),
    ("ttf", "font/ttf"),
    ("txt", "text/plain; charset=utf-8"),
    ("vtt", "text/vtt; charset=utf-8"),
    ("wasm", "application/wasm"),
    ("wav", "audio/wav"),
    ("weba", "audio/webm"),
    ("webm", "video/webm"),
    ("webmanifest", "application/manifest+json"),
    ("webp", "image/webp"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
    ("xhtml", "application/xhtml+xml"),
    ("xls", "application/vnd.ms-excel"),
    ("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    ("xml", "text/xml; charset=utf-8"),
    ("xsl", "text/xml; charset=utf-8"),
    ("xz", "application/x-xz"),
    ("yaml", "application/yaml"),
    ("yml", "application/yaml"),
    ("zip", "application/zip"),
    ("zst", "application/zstd"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_table_is_sorted_and_fits_its_bound() {
        for pair in TABLE.windows(2) {
            assert!(pair[0].0 < pair[1].0, "{} {}", pair[0].0, pair[1].0);
        }
        let longest = TABLE.iter().map(|(extension, _)| extension.len()).max();
        assert_eq!(longest, Some(LONGEST_EXTENSION));
        for (extension, media_type) in TABLE {
            assert_eq!(of_name(format!("x.{extension}").as_bytes()), Some(*media_type));
            assert_eq!(*extension, extension.to_ascii_lowercase());
        }
    }

    #[test]
    fn names() {
        for (name, expected) in [
            ("index.html", Some("text/html; charset=utf-8")),
            ("INDEX.HTM", Some("text/html; charset=utf-8")),
            ("a.b/app.min.js", Some("text/javascript; charset=utf-8")),
            ("photo.JPG", Some("image/jpeg")),
            ("font.woff2", Some("font/woff2")),
            ("data.json", Some("application/json")),
            ("site.webmanifest", Some("application/manifest+json")),
            ("README", None),
            ("a.html/README", None),
            ("x.", None),
            (".html", None),
            ("x.nosuchthing", None),
            ("x.extensionlongerthanany", None),
            ("", None),
        ] {
            assert_eq!(of_name(name.as_bytes()), expected, "{name}");
        }
    }

    #[test]
    fn what_pays_to_compress() {
        for yes in [
            "text/html; charset=utf-8",
            "text/css",
            "application/json",
            "application/ld+json",
            "image/svg+xml",
            "application/wasm",
            "TEXT/PLAIN",
            "application/javascript;charset=utf-8",
            "font/ttf",
        ] {
            assert!(is_compressible(yes), "{yes}");
        }
        for no in [
            "image/png",
            "video/mp4",
            "application/zip",
            "application/octet-stream",
            "font/woff2",
            "text/event-stream",
            "application/gzip",
            "",
            "text",
            "audio/mpeg",
        ] {
            assert!(!is_compressible(no), "{no}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(name in proptest::collection::vec(any::<u8>(), 0..40), media_type in ".{0,40}") {
            prop_assert!(of_name(&name).is_none() || name.contains(&b'.'));
            prop_assert!(!is_compressible(&media_type) || media_type.contains('/'));
        }
    }
}
