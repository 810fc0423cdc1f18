//! Answers of RESP, version 2: of no more parts, and no deeper, than scripts of ours give.

use crate::limits::{REDIS_REPLY_BYTES, REDIS_REPLY_PARTS};

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Nothing,
    Number(i64),
    Text(Vec<u8>),
    /// In the server's own words.
    Error(String),
    Numbers(Vec<i64>),
}

/// Longest line that says what comes, without its end.
const LINE_BYTES: usize = 256;

/// The answer at the beginning of `bytes` and its length; `None` while it is not all there.
///
/// # Errors
/// No script of ours gives such an answer.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Reply, usize)>, String> {
    let Some((kind, text, mut length)) = line(bytes)? else { return Ok(None) };
    let reply = match kind {
        b'+' => Reply::Text(text.to_vec()),
        b'-' => Reply::Error(String::from_utf8_lossy(text).chars().filter(|one| !one.is_control()).collect()),
        b':' => Reply::Number(number(text)?),
        b'$' => {
            let count = number(text)?;
            if count < 0 {
                return Ok(Some((Reply::Nothing, length)));
            }
            let count = usize::try_from(count).ok().filter(|count| *count < REDIS_REPLY_BYTES).ok_or_else(strange)?;
            let Some(rest) = bytes.get(length..length + count + 2) else { return Ok(None) };
            length += count + 2;
            Reply::Text(rest.strip_suffix(b"\r\n").ok_or_else(strange)?.to_vec())
        }
        b'*' => {
            let count = usize::try_from(number(text)?).ok().filter(|count| *count <= REDIS_REPLY_PARTS);
            let mut numbers = Vec::new();
            for _ in 0..count.ok_or_else(strange)? {
                let Some((kind, text, more)) = line(bytes.get(length..).unwrap_or_default())? else { return Ok(None) };
                if kind != b':' {
                    return Err(strange());
                }
                numbers.push(number(text)?);
                length += more;
            }
            Reply::Numbers(numbers)
        }
        _ => return Err(strange()),
    };
    Ok(Some((reply, length)))
}

/// What it is, what it says, and its length with its end.
type Line<'a> = (u8, &'a [u8], usize);

fn line(bytes: &[u8]) -> Result<Option<Line<'_>>, String> {
    let looked_at = bytes.get(..LINE_BYTES + 2).unwrap_or(bytes);
    let Some(end) = looked_at.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < LINE_BYTES + 2 { Ok(None) } else { Err(strange()) };
    };
    let (kind, text) = bytes.get(..end).and_then(<[u8]>::split_first).ok_or_else(strange)?;
    Ok(Some((*kind, text, end + 2)))
}

fn number(text: &[u8]) -> Result<i64, String> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(strange)
}

fn strange() -> String {
    "not an answer of Redis".to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn answers() {
        for (bytes, reply) in [
            (&b"+PONG\r\n"[..], Reply::Text(b"PONG".to_vec())),
            (b"-ERR no\x1b[0m\r\n", Reply::Error("ERR no[0m".to_owned())),
            (b":-7\r\n", Reply::Number(-7)),
            (b"$-1\r\n", Reply::Nothing),
            (b"$0\r\n\r\n", Reply::Text(Vec::new())),
            (b"$4\r\na\r\nb\r\n", Reply::Text(b"a\r\nb".to_vec())),
            (b"*2\r\n:1\r\n:22\r\n", Reply::Numbers(vec![1, 22])),
            (b"*0\r\n", Reply::Numbers(Vec::new())),
        ] {
            assert_eq!(parse(bytes), Ok(Some((reply, bytes.len()))));
            for end in 0..bytes.len() {
                assert_eq!(parse(&bytes[..end]), Ok(None), "{end} of {bytes:?}");
            }
        }
        let long = [b"+".as_slice(), &[b'a'; 300], b"\r\n"].concat();
        for bytes in [
            &b"\r\n"[..],
            b"hello\r\n",
            b":\r\n",
            b":1x\r\n",
            b"$99999999999\r\n",
            b"$1\r\nabc",
            b"*-1\r\n",
            b"*2000000000\r\n",
            b"*1\r\n*1\r\n",
            b"*1\r\n$1\r\na\r\n",
            &long,
        ] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(prop::sample::select(&b"+-:$*0123456789\r\na"[..]), 0..40)) {
            if let Ok(Some((_, length))) = parse(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
