//! Writes what is known already as the first inputs of the fuzz targets:
//! `cargo run --example seeds -- FOLDER` makes FOLDER/TARGET/… from the corpus of hostile requests,
//! the examples and the test data of the config.

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
    for folder in ["examples", "base/config/tests"] {
        configs(&output, &root.join(folder))?;
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
