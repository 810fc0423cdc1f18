//! Where an answer ends, and whether its connection may be used again.

/// What a client has of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Incomplete,
    Complete {
        status: u16,
        keep: bool,
    },
    /// Not what a server may say.
    Broken,
}

/// No head here is longer.
const HEAD_MAX: usize = 16 * 1024;

/// Reads an answer to GET; `at_end` when the server has closed. Whatever follows the answer is wrong, since
/// only one request is under way on a connection.
pub(crate) fn parse(bytes: &[u8], at_end: bool) -> Answer {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if at_end || bytes.len() > HEAD_MAX { Answer::Broken } else { Answer::Incomplete };
    };
    let (head, body) = bytes.split_at(end + 4);
    let Some(Head { status, keep, body: framing }) = head_of(head) else {
        return Answer::Broken;
    };
    let complete = match framing {
        Framing::Length(length) if body.len() > length => return Answer::Broken,
        Framing::Length(length) => body.len() == length,
        // Bodies are of a few bytes and hold no such line.
        Framing::Chunked => body == b"0\r\n\r\n" || body.ends_with(b"\r\n0\r\n\r\n"),
        Framing::ToEnd => at_end,
    };
    match complete {
        true => Answer::Complete { status, keep: keep && !at_end && framing != Framing::ToEnd },
        false if at_end => Answer::Broken,
        false => Answer::Incomplete,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    ToEnd,
}

struct Head {
    status: u16,
    keep: bool,
    body: Framing,
}

fn head_of(head: &[u8]) -> Option<Head> {
    let head = std::str::from_utf8(head).ok()?;
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let version = words.next()?;
    let mut found = Head { status: words.next()?.parse().ok()?, keep: version == "HTTP/1.1", body: Framing::ToEnd };
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            found.body = Framing::Length(value.parse().ok()?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            found.body = Framing::Chunked;
        } else if name.eq_ignore_ascii_case("connection") {
            found.keep &= !value.eq_ignore_ascii_case("close");
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(status: u16, keep: bool) -> Answer {
        Answer::Complete { status, keep }
    }

    #[test]
    fn by_length() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        assert_eq!(parse(text, false), complete(200, true));
        for cut in 0..text.len() {
            assert_eq!(parse(&text[..cut], false), Answer::Incomplete);
            assert_eq!(parse(&text[..cut], true), Answer::Broken);
        }
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokay", false), Answer::Broken);
    }

    #[test]
    fn by_chunks_and_by_the_end() {
        let chunked = b"HTTP/1.1 503 No\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n";
        assert_eq!(parse(chunked, false), complete(503, true));
        assert_eq!(parse(&chunked[..chunked.len() - 3], false), Answer::Incomplete);
        let to_end = b"HTTP/1.0 503 No\r\nServer: x\r\n\r\nno";
        assert_eq!(parse(to_end, false), Answer::Incomplete);
        assert_eq!(parse(to_end, true), complete(503, false));
    }

    #[test]
    fn a_connection_that_will_be_closed() {
        assert_eq!(
            parse(b"HTTP/1.1 429 Too Many\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", false),
            complete(429, false)
        );
        assert_eq!(parse(b"nonsense\r\n\r\n", false), Answer::Broken);
        assert_eq!(parse(&vec![b'x'; HEAD_MAX + 1], false), Answer::Broken);
    }
}
