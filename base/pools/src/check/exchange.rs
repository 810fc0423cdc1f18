//! A health check that says something and looks for something in what comes.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{Finding, words};
use crate::limits::CHECK_ANSWER_BYTES;

/// Empty `send`: nothing is said. Empty `expect`: nothing is waited for.
pub(super) async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, send: &[u8], expect: &[u8]) -> Finding {
    if !send.is_empty() {
        stream.write_all(send).await.map_err(|error| format!("what is to be sent could not be: {error}"))?;
    }
    if expect.is_empty() {
        return Ok("connected".to_owned());
    }
    let mut bytes = Vec::with_capacity(CHECK_ANSWER_BYTES);
    // Where in them it may begin still.
    let mut from = 0;
    loop {
        let left = CHECK_ANSWER_BYTES - bytes.len();
        let count = (&mut stream).take(left as u64).read_buf(&mut bytes).await;
        let count = count.map_err(|error| missing(&bytes, expect, &format!("and then {error}")))?;
        if bytes.get(from..).unwrap_or_default().windows(expect.len()).any(|window| window == expect) {
            return Ok("the expected answer".to_owned());
        }
        if bytes.len() >= CHECK_ANSWER_BYTES {
            return Err(missing(&bytes, expect, "and more"));
        }
        if count == 0 {
            return Err(missing(&bytes, expect, "and no more"));
        }
        from = (bytes.len() + 1).saturating_sub(expect.len());
    }
}

fn missing(bytes: &[u8], expect: &[u8], end: &str) -> String {
    let expect = words::of(expect);
    if bytes.is_empty() {
        return format!("wanted `{expect}`, it said nothing, {end}");
    }
    format!("wanted `{expect}`, it said `{}`, {end}", words::of(bytes))
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    /// What is found at a server that says this in pieces of so many bytes, and then leaves.
    async fn found(expect: &[u8], says: &[u8], piece: usize) -> (Finding, Vec<u8>) {
        let (ours, mut theirs) = duplex(64 * 1024);
        let says = says.to_vec();
        let server = tokio::spawn(async move {
            let mut heard = vec![0; 5];
            theirs.read_exact(&mut heard).await.unwrap();
            for piece in says.chunks(piece) {
                // Whoever has heard enough leaves.
                if theirs.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            heard
        });
        let finding = ask(ours, b"HELLO", expect).await;
        (finding, server.await.unwrap())
    }

    #[tokio::test]
    async fn it_is_found_wherever_it_begins() {
        for piece in [1, 2, 3, 1000] {
            for says in ["220 mail", "aa220", "22222 220", "220"] {
                let (finding, heard) = found(b"220", says.as_bytes(), piece).await;
                assert_eq!(finding.unwrap(), "the expected answer", "{says} by {piece}");
                assert_eq!(heard, b"HELLO");
            }
        }
        let mut late = vec![b'x'; CHECK_ANSWER_BYTES - 2];
        late.extend(b"\0\xff");
        assert!(found(b"\0\xff", &late, 1000).await.0.is_ok());
    }

    #[tokio::test]
    async fn what_it_said_instead_is_told() {
        let problem = |text: &str| text.to_owned();
        let (finding, _) = found(b"220", b"22\r\n\x1b20", 1).await;
        assert_eq!(finding.unwrap_err(), problem("wanted `220`, it said `22   20`, and no more"));
        assert_eq!(found(b"220", b"", 1).await.0.unwrap_err(), "wanted `220`, it said nothing, and no more");
        let mut late = vec![b'x'; CHECK_ANSWER_BYTES - 1];
        late.extend(b"ab");
        let problem = found(b"ab", &late, 1000).await.0.unwrap_err();
        assert!(problem.ends_with("…`, and more") && problem.len() < 300, "{problem}");
    }
}
