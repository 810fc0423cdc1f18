//! A health check that asks a DNS server (RFC 1035 section 4).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use sumun_config::checked::RecordType;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UdpSocket;

use super::Finding;
use crate::limits::{CHECK_ANSWER_BYTES, CHECK_STRANGE_ANSWERS};

const HEADER_BYTES: usize = 12;
/// The root: a name without labels.
const ROOT: &[u8] = &[0];
/// This is an answer.
const QR: u8 = 0x80;
/// Recursion is wanted: without it a resolver may refuse to say what it has not looked up.
const RD: u8 = 0x01;
const CLASS_IN: u16 = 1;

const NO_ERROR: u8 = 0;
const SERVFAIL: u8 = 2;

/// A question, and what is taken for a good answer.
struct Query {
    /// The whole message.
    bytes: Vec<u8>,
    /// It is for a name of the operator's choice, which has to be there.
    is_for_name: bool,
}

impl Query {
    fn new(name: Option<&[u8]>, kind: RecordType) -> Result<Self, String> {
        let id = sumun_host::random::random_bytes::<2>().map_err(|error| format!("no random number: {error}"))?;
        let mut bytes = id.to_vec();
        // One question, and nothing else.
        bytes.extend([RD, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        bytes.extend(name.unwrap_or(ROOT));
        bytes.extend(code(kind).to_be_bytes());
        bytes.extend(CLASS_IN.to_be_bytes());
        Ok(Self { bytes, is_for_name: name.is_some() })
    }

    /// `None`: this is no answer to it, and whoever sent it may be somebody else.
    fn judge(&self, answer: &[u8]) -> Option<Finding> {
        let head = answer.get(..HEADER_BYTES)?;
        let [first, second, flags, codes, _, questions, count_high, count_low, ..] = *head else {
            return None;
        };
        if self.bytes.get(..2) != Some(&[first, second]) || flags & QR == 0 {
            return None;
        }
        let code = codes & 0x0f;
        let asked = self.bytes.get(HEADER_BYTES..).unwrap_or_default();
        let echoed = answer.get(HEADER_BYTES..).unwrap_or_default();
        // A server may write names in its own case.
        if questions != 1 || !echoed.get(..asked.len()).is_some_and(|echoed| echoed.eq_ignore_ascii_case(asked)) {
            return Some(Err(format!("{} to another question", word(code))));
        }
        let records = u16::from_be_bytes([count_high, count_low]);
        Some(match code {
            NO_ERROR => Ok(format!("NOERROR, {records} {}", if records == 1 { "record" } else { "records" })),
            SERVFAIL => Err(word(code)),
            _ if self.is_for_name => Err(format!("{}, wanted NOERROR", word(code))),
            _ => Ok(word(code)),
        })
    }
}

/// Asks once more after `pause`; waits for as long as it is polled.
pub(super) async fn ask_udp(
    address: SocketAddr,
    source: Option<IpAddr>,
    name: Option<&[u8]>,
    kind: RecordType,
    pause: Duration,
) -> Finding {
    let query = Query::new(name, kind)?;
    let no_answer = |error: io::Error| format!("no answer: {error}");
    // Connected, so that the kernel takes datagrams from this address alone, and tells that nobody is there.
    let socket = connected(address, source).await.map_err(|error| format!("no UDP socket: {error}"))?;
    socket.send(&query.bytes).await.map_err(no_answer)?;
    let again = tokio::time::sleep(pause);
    tokio::pin!(again);
    let mut is_sent_again = false;
    let mut bytes = vec![0; CHECK_ANSWER_BYTES];
    for _ in 0..CHECK_STRANGE_ANSWERS {
        let count = loop {
            tokio::select! {
                received = socket.recv(&mut bytes) => break received.map_err(no_answer)?,
                () = &mut again, if !is_sent_again => {
                    is_sent_again = true;
                    socket.send(&query.bytes).await.map_err(no_answer)?;
                }
            }
        };
        if let Some(finding) = query.judge(bytes.get(..count).unwrap_or_default()) {
            return finding;
        }
    }
    Err("its answers are to no question of ours".to_owned())
}

async fn connected(address: SocketAddr, source: Option<IpAddr>) -> io::Result<UdpSocket> {
    let any = if address.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((source.unwrap_or(any), 0)).await?;
    socket.connect(address).await?;
    Ok(socket)
}

/// A message behind its length (RFC 1035 section 4.2.2). No more of the answer is read than is looked at.
pub(super) async fn ask_tcp(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    name: Option<&[u8]>,
    kind: RecordType,
) -> Finding {
    let query = Query::new(name, kind)?;
    // A question has less than 300 bytes: a name has 255 at most.
    let mut message = (query.bytes.len() as u16).to_be_bytes().to_vec();
    message.extend(&query.bytes);
    stream.write_all(&message).await.map_err(|error| format!("the question could not be sent: {error}"))?;
    let no_answer = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => "closed before the answer was complete".to_owned(),
        _ => format!("no answer: {error}"),
    };
    let length = stream.read_u16().await.map_err(no_answer)?;
    let mut answer = vec![0; query.bytes.len().min(usize::from(length))];
    stream.read_exact(&mut answer).await.map_err(no_answer)?;
    query.judge(&answer).unwrap_or_else(|| Err("its answer is to no question of ours".to_owned()))
}

/// Of a type (RFC 1035 section 3.2.2, RFC 3596 section 2.1).
fn code(kind: RecordType) -> u16 {
    match kind {
        RecordType::A => 1,
        RecordType::Ns => 2,
        RecordType::Soa => 6,
        RecordType::Txt => 16,
        RecordType::Aaaa => 28,
    }
}

/// A response code as tools show it.
fn word(code: u8) -> String {
    let known = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];
    known.get(usize::from(code)).map_or_else(|| format!("RCODE {code}"), |word| (*word).to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    const NAME: &[u8] = b"\x01a\x07example\0";

    /// The question as an answer with this code.
    fn answered(question: &[u8], code: u8) -> Vec<u8> {
        let mut answer = question.to_vec();
        answer[2] |= QR;
        answer[3] = 0x80 | code;
        answer[7] = 1;
        answer.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x04\x7f\0\0\x01");
        answer
    }

    /// What is found at a server that answers each datagram with those that `answers` makes of it.
    async fn found_udp(
        name: Option<&'static [u8]>,
        answers: impl Fn(usize, &[u8]) -> Vec<Vec<u8>> + Send + 'static,
    ) -> Finding {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut bytes = [0; 1500];
            for number in 0.. {
                let (count, client) = server.recv_from(&mut bytes).await.unwrap();
                for answer in answers(number, &bytes[..count]) {
                    server.send_to(&answer, client).await.unwrap();
                }
            }
        });
        let finding = ask_udp(address, None, name, RecordType::Ns, Duration::from_millis(20)).await;
        task.abort();
        finding
    }

    #[tokio::test]
    async fn answers_are_judged_by_their_code() {
        let with = |name, code| found_udp(name, move |_, question| vec![answered(question, code)]);
        assert_eq!(with(None, 0).await.unwrap(), "NOERROR, 1 record");
        assert_eq!(with(None, 5).await.unwrap(), "REFUSED");
        assert_eq!(with(None, 2).await.unwrap_err(), "SERVFAIL");
        assert_eq!(with(Some(NAME), 0).await.unwrap(), "NOERROR, 1 record");
        assert_eq!(with(Some(NAME), 3).await.unwrap_err(), "NXDOMAIN, wanted NOERROR");
        assert_eq!(with(Some(NAME), 11).await.unwrap_err(), "RCODE 11, wanted NOERROR");
        // In capitals.
        let loud = found_udp(Some(NAME), |_, question| {
            let mut answer = answered(question, 0);
            answer[HEADER_BYTES..].make_ascii_uppercase();
            vec![answer]
        });
        assert_eq!(loud.await.unwrap(), "NOERROR, 1 record");
    }

    #[tokio::test]
    async fn the_question_is_a_message() {
        let asked = found_udp(Some(NAME), |_, question| {
            assert_eq!(&question[2..], b"\x01\0\0\x01\0\0\0\0\0\0\x01a\x07example\0\0\x02\0\x01");
            vec![answered(question, 0)]
        });
        asked.await.unwrap();
    }

    #[tokio::test]
    async fn a_lost_question_is_asked_again() {
        let late = found_udp(None, |number, question| if number == 0 { vec![] } else { vec![answered(question, 0)] });
        assert_eq!(late.await.unwrap(), "NOERROR, 1 record");
    }

    #[tokio::test]
    async fn what_is_no_answer_is_passed_over_within_bounds() {
        fn strange(question: &[u8]) -> Vec<Vec<u8>> {
            let mut other_id = answered(question, 0);
            other_id[0] ^= 1;
            vec![vec![], vec![0], question.to_vec(), other_id, answered(question, 0)[..11].to_vec()]
        }
        let then_good = found_udp(None, |_, question| [strange(question), vec![answered(question, 0)]].concat());
        assert_eq!(then_good.await.unwrap(), "NOERROR, 1 record");
        let flood = found_udp(None, |_, question| std::iter::repeat_n(strange(question), 10).flatten().collect());
        assert_eq!(flood.await.unwrap_err(), "its answers are to no question of ours");
        let other_question = found_udp(None, |_, question| {
            let mut answer = answered(question, 1);
            answer[5] = 0;
            vec![answer]
        });
        assert_eq!(other_question.await.unwrap_err(), "FORMERR to another question");
        let other_name = found_udp(Some(NAME), |_, question| {
            let mut answer = answered(question, 0);
            answer[HEADER_BYTES + 1] = b'b';
            vec![answer]
        });
        assert_eq!(other_name.await.unwrap_err(), "NOERROR to another question");
        // Longer than what is read, and cut anywhere.
        let long = found_udp(None, |_, question| vec![[answered(question, 0), vec![0; 20_000]].concat()]);
        assert_eq!(long.await.unwrap(), "NOERROR, 1 record");
        for length in 12..=17 {
            let cut = found_udp(None, move |_, question| vec![answered(question, 0)[..length].to_vec()]);
            assert_eq!(cut.await.is_ok(), length == 17, "{length}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_told() {
        let address = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let source = "127.0.0.9".parse().ok();
        let problem = ask_udp(address, source, None, RecordType::A, Duration::from_secs(60)).await.unwrap_err();
        assert!(problem.starts_with("no answer: Connection refused"), "{problem}");
    }

    /// Over TCP, an answer in pieces of so many bytes, cut off behind so many.
    async fn found_tcp(code: u8, piece: usize, most: usize) -> Finding {
        let (ours, mut theirs) = duplex(64 * 1024);
        let server = tokio::spawn(async move {
            let mut question = vec![0; usize::from(theirs.read_u16().await.unwrap())];
            theirs.read_exact(&mut question).await.unwrap();
            let answer = answered(&question, code);
            let message = [&(answer.len() as u16).to_be_bytes(), &*answer].concat();
            for piece in message[..most.min(message.len())].chunks(piece) {
                if theirs.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        });
        let finding = ask_tcp(ours, Some(NAME), RecordType::Txt).await;
        server.await.unwrap();
        finding
    }

    #[tokio::test]
    async fn over_tcp() {
        for piece in [1, 7, 1000] {
            assert_eq!(found_tcp(0, piece, usize::MAX).await.unwrap(), "NOERROR, 1 record");
            assert_eq!(found_tcp(2, piece, usize::MAX).await.unwrap_err(), "SERVFAIL");
        }
        for most in [0, 1, 2, 14, 20] {
            assert_eq!(found_tcp(0, 5, most).await.unwrap_err(), "closed before the answer was complete");
        }
        let (ours, mut theirs) = duplex(1024);
        theirs.write_all(b"\0\x03abc").await.unwrap();
        let problem = ask_tcp(ours, None, RecordType::A).await.unwrap_err();
        assert_eq!(problem, "its answer is to no question of ours");
    }
}
