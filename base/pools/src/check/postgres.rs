//! A health check that begins a session of PostgreSQL (its documentation's chapter "Frontend/Backend
//! Protocol"), and judges the answer as pg_isready does.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{Finding, words};
use crate::limits::CHECK_ANSWER_BYTES;

/// 3.0: its major number in the upper half.
const PROTOCOL: u32 = 3 << 16;

/// Answers of a server that lives and can serve nobody now: SQLSTATE cannot_connect_now (it starts,
/// recovers or ends), admin_shutdown, too_many_connections.
const CANNOT_SERVE: [&[u8]; 3] = [b"57P03", b"57P01", b"53300"];

/// The first byte of a message, and its length field, which counts itself.
const HEAD_BYTES: usize = 5;
const LENGTH_BYTES: usize = 4;

const TERMINATE: &[u8] = b"X\0\0\0\x04";

/// Says who we are, and hears whether it asks for a password.
pub(super) async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    user: &str,
    database: Option<&str>,
) -> Finding {
    let startup = startup(user, database.unwrap_or(user));
    stream.write_all(&startup).await.map_err(|error| format!("the session could not be begun: {error}"))?;
    let mut bytes = Vec::with_capacity(512);
    loop {
        if let Some(answer) = answer(&bytes)? {
            let finding = judge(&answer);
            if matches!(answer, Answer::Authentication(0)) {
                // Only behind an accepted login is this a message: before, the end of the connection is
                // what a server takes for a goodbye. Whether it arrives changes nothing.
                stream.write_all(TERMINATE).await.unwrap_or_default();
            }
            return finding;
        }
        let left = CHECK_ANSWER_BYTES.saturating_sub(bytes.len());
        if left == 0 {
            return Err("not an answer of PostgreSQL: its first message does not end".to_owned());
        }
        match (&mut stream).take(left as u64).read_buf(&mut bytes).await {
            Ok(0) if bytes.is_empty() => return Err("closed before it answered".to_owned()),
            Ok(0) => return unfinished(&bytes),
            Ok(_) => {}
            Err(error) => return Err(format!("no answer: {error}")),
        }
    }
}

fn startup(user: &str, database: &str) -> Vec<u8> {
    let mut body = PROTOCOL.to_be_bytes().to_vec();
    for text in ["user", user, "database", database, "application_name", "sumun-health"] {
        body.extend(text.bytes());
        body.push(0);
    }
    body.push(0);
    // Its texts are bounded by the config, far below 2^32.
    let mut bytes = ((body.len() + LENGTH_BYTES) as u32).to_be_bytes().to_vec();
    bytes.extend(body);
    bytes
}

#[derive(Debug, PartialEq, Eq)]
enum Answer<'a> {
    /// What kind of login it asks for; 0 is none.
    Authentication(u32),
    Error {
        state: &'a [u8],
        message: &'a [u8],
    },
}

/// The first message that says something; `None` until it is there.
fn answer(mut bytes: &[u8]) -> Result<Option<Answer<'_>>, String> {
    loop {
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let [kind, length @ ..] = *head;
        let length = u32::from_be_bytes(length) as usize;
        if !matches!(kind, b'R' | b'E' | b'N') {
            return Err(format!("not an answer of PostgreSQL: `{}`", words::of(bytes)));
        }
        let body_bytes = length.checked_sub(LENGTH_BYTES).filter(|length| HEAD_BYTES + length <= CHECK_ANSWER_BYTES);
        let Some(body_bytes) = body_bytes else {
            return match text_of_protocol_2(bytes) {
                Some(text) if text.len() + 1 < bytes.len() => Err(format!("the server says {}", words::of(text))),
                Some(_) => Ok(None),
                None => Err(format!("not an answer of PostgreSQL: a message of {length} bytes")),
            };
        };
        let Some((body, behind)) = rest.split_at_checked(body_bytes) else {
            return Ok(None);
        };
        match kind {
            b'R' => {
                let code =
                    body.first_chunk().ok_or_else(|| "not an answer of PostgreSQL: it is too short".to_owned())?;
                return Ok(Some(Answer::Authentication(u32::from_be_bytes(*code))));
            }
            b'E' => return Ok(Some(Answer::Error { state: field(body, b'C'), message: field(body, b'M') })),
            // A notice, which may come before anything else.
            _ => bytes = behind,
        }
    }
}

/// A field of an error; empty where it has none.
fn field(mut body: &[u8], wanted: u8) -> &[u8] {
    while let Some((kind, rest)) = body.split_first().filter(|(kind, _)| **kind != 0) {
        let text = until_nul(rest);
        if *kind == wanted {
            return text;
        }
        body = rest.get(text.len() + 1..).unwrap_or_default();
    }
    &[]
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn judge(answer: &Answer<'_>) -> Finding {
    match answer {
        Answer::Authentication(0) => Ok("accepting connections".to_owned()),
        Answer::Authentication(_) => Ok("accepting connections, by password".to_owned()),
        Answer::Error { state, message } if CANNOT_SERVE.contains(state) => {
            Err(format!("the server says {} ({})", words::of(message), words::of(state)))
        }
        // It refuses us and not everybody.
        Answer::Error { message, .. } => Ok(format!("alive ({})", words::of(message))),
    }
}

/// It closed before its message was whole.
fn unfinished(bytes: &[u8]) -> Finding {
    match text_of_protocol_2(bytes) {
        Some(text) => Err(format!("the server says {}", words::of(text))),
        None => Err("closed in the middle of its answer".to_owned()),
    }
}

/// A server that could not even start a process for us says why as protocol 2 did: without a length,
/// up to a NUL.
fn text_of_protocol_2(bytes: &[u8]) -> Option<&[u8]> {
    let (_, said) = bytes.split_first().filter(|(kind, _)| **kind == b'E')?;
    let text = until_nul(said);
    // A length would begin with a NUL.
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind], ((body.len() + LENGTH_BYTES) as u32).to_be_bytes().as_slice(), body].concat()
    }

    fn error(kind: u8, state: &str, text: &str) -> Vec<u8> {
        message(kind, format!("SFATAL\0VFATAL\0C{state}\0M{text}\0Fpostmaster.c\0\0").as_bytes())
    }

    /// What is found at a server that answers so, in pieces of so many bytes; and all that it was told.
    async fn found(answer: &[u8], piece: usize) -> (Finding, Vec<u8>) {
        let (ours, mut theirs) = duplex(64 * 1024);
        let answer = answer.to_vec();
        let server = tokio::spawn(async move {
            let mut told = vec![0; 4];
            theirs.read_exact(&mut told).await.unwrap();
            let length = u32::from_be_bytes(told[..4].try_into().unwrap()) as usize;
            told.resize(length, 0);
            theirs.read_exact(&mut told[4..]).await.unwrap();
            for piece in answer.chunks(piece) {
                if theirs.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            theirs.shutdown().await.unwrap();
            theirs.read_to_end(&mut told).await.unwrap();
            told
        });
        let finding = ask(ours, "health", Some("shop")).await;
        (finding, server.await.unwrap())
    }

    #[tokio::test]
    async fn a_session_is_begun_and_a_question_for_a_password_is_good() {
        let startup = b"\0\0\0\x41\0\x03\0\0user\0health\0database\0shop\0application_name\0sumun-health\0\0";
        for piece in [1, 4, 1000] {
            let (finding, told) = found(&message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0"), piece).await;
            assert_eq!(finding.unwrap(), "accepting connections, by password");
            assert_eq!(told, startup, "and no message that it would take for one");
            let welcome = [message(b'R', b"\0\0\0\0"), message(b'S', b"TimeZone\0UTC\0")].concat();
            let (finding, told) = found(&welcome, piece).await;
            assert_eq!(finding.unwrap(), "accepting connections");
            assert_eq!(told.strip_prefix(startup), Some(TERMINATE));
        }
        assert_eq!(startup.len(), 0x41);
    }

    #[tokio::test]
    async fn errors_are_told_apart() {
        for piece in [1, 1000] {
            for (state, text) in [
                ("57P03", "the database system is starting up"),
                ("57P01", "terminating connection due to administrator command"),
                ("53300", "sorry, too many clients already"),
            ] {
                let notice = error(b'N', "00000", "hello");
                let (finding, _) = found(&[notice, error(b'E', state, text)].concat(), piece).await;
                assert_eq!(finding.unwrap_err(), format!("the server says {text} ({state})"));
            }
            let (finding, _) = found(&error(b'E', "28000", "role \"health\" does not exist"), piece).await;
            assert_eq!(finding.unwrap(), "alive (role \"health\" does not exist)");
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_is_bad() {
        let long = message(b'E', &[b'x'; CHECK_ANSWER_BYTES]);
        let endless = [&b"R\0\0\x0f\xfb"[..], &[0; CHECK_ANSWER_BYTES]].concat();
        for (answer, problem) in [
            (&b""[..], "closed before it answered"),
            (b"R\0\0", "closed in the middle of its answer"),
            (b"R\0\0\0\x08\0\0", "closed in the middle of its answer"),
            (b"R\0\0\0\x06\0\0", "not an answer of PostgreSQL: it is too short"),
            (b"R\0\0\0\x03", "not an answer of PostgreSQL: a message of 3 bytes"),
            (b"R\xff\xff\xff\xff", "not an answer of PostgreSQL: a message of 4294967295 bytes"),
            (b"Eno\0", "the server says no"),
            (
                b"Ecould not fork new process for connection: Cannot allocate memory\n\0",
                "the server says could not fork new process for connection: Cannot allocate memory",
            ),
            (&long, "not an answer of PostgreSQL: a message of 4100 bytes"),
        ] {
            for piece in [1, 1000] {
                assert_eq!(found(answer, piece).await.0.unwrap_err(), problem, "{answer:?}");
            }
        }
        let problem = found(b"HTTP/1.1 400 Bad Request\r\n", 3).await.0.unwrap_err();
        assert_eq!(problem, "not an answer of PostgreSQL: `HTTP/1`");
        assert_eq!(found(&endless, 1).await.0.unwrap(), "accepting connections");
        // Whatever comes, in whatever pieces, it is an answer or none.
        for seed in 0..64 {
            let mut random = fastrand::Rng::with_seed(seed);
            let kind = *random.choice(b"RENS").unwrap();
            let mut body = vec![0; random.usize(..40)];
            random.fill(&mut body);
            let bytes = if seed % 2 == 0 { message(kind, &body) } else { [&[kind], &*body].concat() };
            drop(found(&bytes, random.usize(1..50)).await);
        }
    }
}
