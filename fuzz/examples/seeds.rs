//! Writes what is known already as the first inputs of the fuzz targets:
//! `cargo run --example seeds -- FOLDER` makes FOLDER/TARGET/… from the corpus of hostile requests,
//! captured ClientHellos, the examples and the test data of the config.

#[path = "../../core/http/tests/corpus/parser.rs"]
// The end-to-end runner needs more of it.
#[allow(dead_code)]
mod parser;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use parser::Step;

const RESPONSES: [&str; 8] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nDate: x\r\n\r\nabcHTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 304 \r\nETag: \"a\"\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3;a=b\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nxHTTP/1.0 404 Not Found\r\n\r\nuntil the end",
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x01\x02",
    "HTTP/1.1 200\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    "HTTP/1.1 200 OK\nContent-Length: 3\n\nabc",
];

const TARGETS: [&str; 8] = [
    "/a/../b/./c//d/%2e%2E/%7euser/%2F%5c?x=/../%2e",
    "http://example.com:8080/a?b",
    "https://[::1]:443",
    "*",
    "/..;/a/%00",
    "[::1]:80",
    "example.com:65535",
    "/%c3%a9/%zz",
];

const VALUES: [&str; 12] = [
    "bytes=0-0,-1, 5-, 100-200",
    "bytes=9-1,18446744073709551615-99999999999999999999",
    "gzip;q=0.5, br;q=1.0, *;q=0, zstd;q=0.001, identity",
    "text/html, application/json;q=0.9, */*;q=0.1",
    "Sun, 06 Nov 1994 08:49:37 GMT",
    "Sunday, 06-Nov-94 08:49:37 GMT",
    "Sun Nov  6 08:49:37 1994",
    "W/\"a b\"",
    "\"\"",
    "photo.tar.GZ",
    " a, \"b,\\\"c\" ,, d",
    "X-Forwarded-For",
];

/// Headers of QUIC packets: versions 1, 2, none and another, each kind, and routable connection ids.
const DATAGRAMS: [&[u8]; 8] = [
    b"\xc0\0\0\0\x01\x08\x83\x94\xc8\xf0\x3e\x51\x57\x08\0\0\x44\x9e",
    b"\xd7\x6b\x33\x43\xcf\x08\x83\x94\xc8\xf0\x3e\x51\x57\x08\0\0",
    b"\xe0\0\0\0\x01\x08\x07\x20\xb1\xd0\x7b\x35\x9d\x3c\x04from",
    b"\xf0\0\0\0\x01\0\x04from0123456789abcdef",
    b"\x80\0\0\0\0\x02ab\x02cd\0\0\0\x01",
    b"\xc0\xff\0\0\x1d\x1eabcdefghijklmnopqrstuvwxyzabcd\0",
    b"\x40\x50\x4d\xd2\xd0\x5a\x7b\x0d\xe9\xb2\xb9\x90\x7a\xfb\x5e\xcf\x8c\xc3",
    b"\x40\x12\x57\x79\xc9\xcc\x86\xbe\xb3\xa3\xa4\xa3\xca\x96\xfc\xe4\xbf\xe0\xcd\xbc",
];

/// PROXY protocol, both versions.
const PREFACES: [&[u8]; 5] = [
    b"PROXY TCP4 192.0.2.1 198.51.100.2 4660 80\r\nGET",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x13\xc0\0\x02\x01\xc6\x33\x64\x02\x12\x34\0\x50\x01\0\x02h2\x04\0\0",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x26\xc0\0\x02\x01\xc6\x33\x64\x02\x12\x34\0\x50\x20\0\x0f\x01\0\0\0\0\x21\0\x07TLSv1.3\x05\0\x02id",
];

fn main() -> Result<(), Box<dyn Error>> {
    let output = PathBuf::from(std::env::args().nth(1).ok_or("usage: seeds FOLDER")?);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cases = parser::read_directory(&root.join("core/http/tests/corpus")).map_err(|errors| errors.join("\n"))?;
    for case in &cases {
        let stream: Vec<u8> = case
            .steps
            .iter()
            .flat_map(|step| match step {
                Step::Send(bytes) => bytes.clone(),
                Step::AwaitInterim(_) => Vec::new(),
            })
            .collect();
        write(&output, "request_split", &case.name, &stream)?;
        write(&output, "forward", &case.name, &stream)?;
        if let Some(at) = stream.windows(4).position(|window| window == b"\r\n\r\n")
            && case.place.starts_with("chunked")
        {
            write(&output, "chunked", &case.name, &stream[at + 4..])?;
        }
    }
    for (index, response) in RESPONSES.iter().enumerate() {
        for target in ["response_split", "response_forward"] {
            write(&output, target, &format!("seed-{index}"), response.as_bytes())?;
        }
    }
    for (index, target) in TARGETS.iter().enumerate() {
        write(&output, "target_normalize", &format!("seed-{index}"), target.as_bytes())?;
    }
    for (index, value) in VALUES.iter().enumerate() {
        write(&output, "field_values", &format!("seed-{index}"), value.as_bytes())?;
    }
    for (index, datagram) in DATAGRAMS.iter().enumerate() {
        write(&output, "quic_header", &format!("seed-{index}"), datagram)?;
    }
    for (index, preface) in PREFACES.iter().enumerate() {
        write(&output, "proxy_header", &format!("seed-{index}"), preface)?;
    }
    for entry in fs::read_dir(root.join("core/hello/tests/captured"))? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        write(&output, "client_hello", &name, &fs::read(&path)?)?;
    }
    http2(&output)?;
    for folder in ["examples", "base/config/tests"] {
        configs(&output, &root.join(folder))?;
    }
    Ok(())
}

/// What a client and a server of HTTP/2 say to each other, and the header blocks of it.
fn http2(output: &Path) -> Result<(), Box<dyn Error>> {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream][..], payload].concat()
    };
    let get = b"\x82\x86\x84\x41\x81\x1f\x58\x86\xa8\xeb\x10\x64\x9c\xbf\x40\x01a\x01b\x10\x06cookie\x01x";
    let post = b"\x83\x87\x84\x01\x01a\x0f\x0d\x013";
    let blocks: [&[u8]; 5] =
        [get, post, b"\x88\xbe\xbf", b"\x20\x3f\xe1\x1f\x40\x01a\x01b\xbe\x7e\x01c", b"\x00\x01A\x01\n"];
    let (first, second) = get.split_at(5);
    let streams = [
        [frame(1, 5, 1, get), frame(1, 5, 3, b"\x82\x86\x84\xbf\xbe"), frame(8, 0, 0, &[0, 0, 9, 0])].concat(),
        [frame(1, 4, 1, post), frame(0, 8, 1, b"\x02ab\0\0"), frame(0, 1, 1, b"c")].concat(),
        [frame(1, 4, 1, post), frame(0, 0, 1, b"abc"), frame(1, 5, 1, b"\0\x01t\x01r")].concat(),
        [frame(1, 1, 1, first), frame(9, 0, 1, b""), frame(9, 4, 1, second), frame(3, 0, 1, &[0, 0, 0, 8])].concat(),
        [frame(1, 4, 1, b"\x88"), frame(0, 0, 1, b"x"), frame(1, 4, 3, b"\x08\x03103"), frame(1, 5, 3, b"\x88")]
            .concat(),
        [frame(4, 0, 0, &[0, 4, 0, 0, 0, 1]), frame(1, 5, 1, get), frame(8, 0, 1, &[0, 0, 0, 9])].concat(),
        [frame(6, 0, 0, b"12345678"), frame(7, 0, 0, &[0; 9]), frame(2, 0, 1, &[0, 0, 0, 3, 9])].concat(),
        [frame(16, 0, 0, b"\0\0\0\x01u=1"), frame(5, 4, 1, &[0, 0, 0, 2]), frame(0xfa, 0, 0, b"?")].concat(),
    ];
    for (index, stream) in streams.iter().enumerate() {
        write(output, "http2_receive", &format!("seed-{index}"), stream)?;
    }
    let in_turn: Vec<u8> = blocks.iter().flat_map(|block| [&[block.len() as u8][..], block].concat()).collect();
    write(output, "hpack_decode", "seed-all", &in_turn)?;
    for (index, block) in blocks.iter().enumerate() {
        write(output, "hpack_decode", &format!("seed-{index}"), &[&[block.len() as u8][..], block].concat())?;
    }
    Ok(())
}

fn configs(output: &Path, folder: &Path) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            configs(output, &path)?;
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            write(output, "config_text", &name, &fs::read(&path)?)?;
        }
    }
    Ok(())
}

fn write(output: &Path, target: &str, name: &str, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
    let folder = output.join(target);
    fs::create_dir_all(&folder)?;
    Ok(fs::write(folder.join(name), bytes)?)
}
