//! A health check that speaks RESP, the protocol of Redis and its kin.

use sumun_config::checked::RedisLogin;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{Finding, words};
use crate::limits::CHECK_ANSWER_BYTES;

/// AUTH where there is a login, then PING.
pub(super) async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, login: Option<&RedisLogin>) -> Finding {
    let mut unread = Vec::new();
    if let Some(login) = login {
        let mut words = vec!["AUTH"];
        words.extend(login.user.as_deref());
        words.push(&login.password);
        let line = command(&mut stream, &words, &mut unread).await?;
        if line != b"+OK" {
            return Err(refusal("AUTH", &line));
        }
    }
    let line = command(&mut stream, &["PING"], &mut unread).await?;
    if line == b"+PONG" { Ok("PONG".to_owned()) } else { Err(refusal("PING", &line)) }
}

/// The line that answers a command, without its end.
async fn command(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    words: &[&str],
    unread: &mut Vec<u8>,
) -> Result<Vec<u8>, String> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n{word}\r\n", word.len()).bytes());
    }
    stream.write_all(&bytes).await.map_err(|error| format!("the command could not be sent: {error}"))?;
    loop {
        if let Some(end) = unread.windows(2).position(|pair| pair == b"\r\n") {
            let mut line: Vec<u8> = unread.drain(..end + 2).collect();
            line.truncate(end);
            return Ok(line);
        }
        let left = CHECK_ANSWER_BYTES.saturating_sub(unread.len());
        if left == 0 {
            return Err("not an answer of Redis: its first line does not end".to_owned());
        }
        match (&mut *stream).take(left as u64).read_buf(unread).await {
            Ok(0) if unread.is_empty() => return Err("closed before it answered".to_owned()),
            Ok(0) => return Err(format!("closed in the middle of its answer `{}`", words::of(unread))),
            Ok(_) => {}
            Err(error) => return Err(format!("no answer: {error}")),
        }
    }
}

/// Why that is not the right answer, in the server's own words where it has some.
fn refusal(command: &str, line: &[u8]) -> String {
    match line.split_first() {
        Some((b'-', said)) => {
            let said = words::of(said);
            match said.split(' ').next() {
                Some("NOAUTH") => format!("the server wants a password: {said}"),
                Some("WRONGPASS") => format!("the server does not take the password: {said}"),
                _ => format!("the server says {said}"),
            }
        }
        Some((b'+' | b'$' | b':' | b'*', _)) => format!("{command} is answered by `{}`", words::of(line)),
        _ => format!("not an answer of Redis: `{}`", words::of(line)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    /// What is found at a server that gives these answers, one for each command, in pieces of so many
    /// bytes; and what it was asked.
    async fn found(login: Option<&RedisLogin>, answers: &[&[u8]], piece: usize) -> (Finding, String) {
        let (ours, mut theirs) = duplex(64 * 1024);
        let answers: Vec<Vec<u8>> = answers.iter().map(|answer| answer.to_vec()).collect();
        let server = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let mut bytes = [0; 1024];
                let count = theirs.read(&mut bytes).await.unwrap();
                asked.extend(&bytes[..count]);
                for piece in answer.chunks(piece) {
                    // Whoever has heard enough leaves.
                    if theirs.write_all(piece).await.is_err() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
            String::from_utf8(asked).unwrap()
        });
        (ask(ours, login).await, server.await.unwrap())
    }

    #[tokio::test]
    async fn pong_in_whatever_pieces() {
        for piece in [1, 3, 100] {
            let (finding, asked) = found(None, &[b"+PONG\r\n"], piece).await;
            assert_eq!((finding.as_deref(), asked.as_str()), (Ok("PONG"), "*1\r\n$4\r\nPING\r\n"));
        }
    }

    #[tokio::test]
    async fn a_password_comes_first() {
        let password = RedisLogin { user: None, password: "수문 1\r\n".to_owned() };
        let (finding, asked) = found(Some(&password), &[b"+OK\r\n", b"+PONG\r\n"], 1).await;
        assert_eq!(finding.unwrap(), "PONG");
        assert_eq!(asked, "*2\r\n$4\r\nAUTH\r\n$10\r\n수문 1\r\n\r\n*1\r\n$4\r\nPING\r\n");
        let both = RedisLogin { user: Some("health".to_owned()), password: "secret".to_owned() };
        let wrong = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n";
        let (finding, asked) = found(Some(&both), &[wrong], 7).await;
        let problem = finding.unwrap_err();
        assert!(problem.starts_with("the server does not take the password: WRONGPASS invalid"), "{problem}");
        assert_eq!(asked, "*3\r\n$4\r\nAUTH\r\n$6\r\nhealth\r\n$6\r\nsecret\r\n");
    }

    #[tokio::test]
    async fn other_answers_are_told() {
        let long = [b"-ERR ".as_slice(), &[b'x'; CHECK_ANSWER_BYTES]].concat();
        for (answer, problem) in [
            (
                &b"-NOAUTH Authentication required.\r\n"[..],
                "the server wants a password: NOAUTH Authentication required.",
            ),
            (
                b"-LOADING Redis is loading the dataset in memory\r\n",
                "the server says LOADING Redis is loading the dataset in memory",
            ),
            (b"-MASTERDOWN \x1b[2JLink\r\n", "the server says MASTERDOWN  [2JLink"),
            (b"$4\r\nPONG\r\n", "PING is answered by `$4`"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not an answer of Redis: `HTTP/1.1 400 Bad Request`"),
            (b"\r\n", "not an answer of Redis: ``"),
            (b"+PON", "closed in the middle of its answer `+PON`"),
            (b"", "closed before it answered"),
            (&long, "not an answer of Redis: its first line does not end"),
        ] {
            for piece in [1, 5000] {
                assert_eq!(found(None, &[answer], piece).await.0.unwrap_err(), problem);
            }
        }
    }
}
