//! The corpus of hostile and odd requests (`core/http/tests/corpus`), played against the real
//! program: each case over IPv4, over IPv6, and once more cut into pieces.
//!
//! `SUMUN_CASE=chunk` plays only cases whose name, or file, contains that text.

#[path = "../../core/http/tests/corpus/parser.rs"]
mod corpus;
mod support;

use std::env;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use corpus::{After, Case, Check, Expect, Field, ServerLine, Split, Step};
use support::client::{End, Reader, Response, connect, fetch};
use support::gateway::Gateway;
use support::origin::{Origin, Seen, State, named};
use support::show;
use support::sockets::wait_until_peer_read;

/// How long one answer, or the end of a connection, may take.
const ANSWER_BOUND: Duration = Duration::from_secs(15);
/// How long a piece waits for the gateway to have read the piece before it; a gateway that is
/// busy with an earlier request, or done with the connection, does not read.
const PIECE_BOUND: Duration = Duration::from_millis(20);
/// Larger cases are not cut into pieces of their own accord: nothing is learnt in their middle.
const PIECES_BYTES_MAX: usize = 4096;
/// Pieces that a case is cut into when it does not say where.
const PIECES: usize = 7;
/// After this many failures in a row without any answer the gateway is taken for dead.
const SILENT_CASES_MAX: usize = 5;
/// Requests of the runner itself, kept out of the record.
const PROBE: &str = "/~probe";

#[test]
fn corpus_over_ipv4() {
    play_all(IpAddr::V4(Ipv4Addr::LOCALHOST), false);
}

#[test]
fn corpus_over_ipv6() {
    play_all(IpAddr::V6(Ipv6Addr::LOCALHOST), false);
}

/// A codec must not care where the kernel cuts its input.
#[test]
fn corpus_in_pieces() {
    play_all(IpAddr::V4(Ipv4Addr::LOCALHOST), true);
}

fn play_all(client: IpAddr, in_pieces: bool) {
    let directory =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../core/http/tests/corpus");
    let mut cases =
        corpus::read_directory(&directory).unwrap_or_else(|errors| panic!("the corpus:\n{}", errors.join("\n")));
    if let Ok(text) = env::var("SUMUN_CASE") {
        cases.retain(|case| case.name.contains(&text) || case.place.contains(&text));
        assert!(!cases.is_empty(), "no case is called like {text:?}");
    }

    let origin = Origin::start();
    let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
        .map(|address| SocketAddr::new(address, support::free_tcp_port(address)));
    let [ipv4, ipv6] = addresses;
    let server = origin.address();
    let mut gateway = Gateway::start(
        |scratch| {
            let control = scratch.path().join("control.sock");
            let control = control.display();
            format!(
                "workers: 1\n\
                 admin: off\n\
                 control: unix:{control}\n\
                 drain: 1s\n\
                 pools: {{ app: {{ servers: [\"{server}\"], retries: off }} }}\n\
                 listeners:\n\
                 \x20 web:\n\
                 \x20   bind: [\"{ipv4}\", \"{ipv6}\"]\n\
                 \x20   bounds: {{ body: 1MiB }}\n\
                 \x20   routes: [ {{ path: /, proxy: app }} ]\n"
            )
        },
        &addresses,
    );
    let address = if client.is_ipv4() { ipv4 } else { ipv6 };
    if let Err(message) = fetch(address, PROBE, 4 * ANSWER_BOUND) {
        panic!("the gateway does not answer at all: {message}\n{}", gateway.log());
    }

    let mut failures = Vec::new();
    let mut silent = 0;
    let mut played = 0;
    for case in &cases {
        if in_pieces && !can_be_cut(case) {
            continue;
        }
        played += 1;
        let run = Run { case, address, client, in_pieces, origin: &origin };
        let outcome = run.play();
        silent = if outcome.received.is_empty() && !outcome.problems.is_empty() { silent + 1 } else { 0 };
        if !outcome.problems.is_empty() {
            failures.push(outcome.report(case));
        }
        let ended = gateway.ended();
        if ended.is_some() || silent >= SILENT_CASES_MAX {
            failures.push(format!("the gateway is gone after {} ({ended:?})", case.name));
            break;
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {played} cases failed (pieces: {in_pieces}, client: {client})\n\n{}\n\nlog of the gateway:\n{}",
        failures.len(),
        failures.join("\n"),
        gateway.log()
    );
}

fn can_be_cut(case: &Case) -> bool {
    let size: usize = case.steps.iter().map(|step| if let Step::Send(bytes) = step { bytes.len() } else { 0 }).sum();
    case.split == Split::Whole && (2..=PIECES_BYTES_MAX).contains(&size)
}

/// What one case led to.
#[derive(Default)]
struct Outcome {
    problems: Vec<String>,
    received: Vec<u8>,
    seen: Vec<Seen>,
}

impl Outcome {
    fn report(&self, case: &Case) -> String {
        let mut text = format!("---- {} ({}, {})\n  {}\n", case.name, case.place, case.reference, case.why);
        let mut line = |label: &str, value: &str| {
            writeln!(text, "  {label}: {value}").expect("a String takes every write");
        };
        for problem in &self.problems {
            line("PROBLEM", problem);
        }
        for step in &case.steps {
            match step {
                Step::Send(bytes) => line("sent", &show(bytes)),
                Step::AwaitInterim(status) => line("waited for", &status.to_string()),
            }
        }
        line("received", &show(&self.received));
        for seen in &self.seen {
            line("server saw", &format!("{:?}", seen.state));
            line("  head", &show(&seen.raw_head));
            line("  body", &show(&seen.body));
        }
        text
    }
}

struct Run<'a> {
    case: &'a Case,
    address: SocketAddr,
    client: IpAddr,
    in_pieces: bool,
    origin: &'a Origin,
}

impl Run<'_> {
    fn play(&self) -> Outcome {
        let mut outcome = Outcome::default();
        let stray = self.take_seen();
        if !stray.is_empty() {
            outcome.problems.push(format!("left over from the case before: {stray:?}"));
        }
        let stream = match connect(self.address, ANSWER_BOUND) {
            Ok(stream) => stream,
            Err(error) => {
                outcome.problems.push(format!("no connection: {error}"));
                return outcome;
            }
        };
        let mut statuses = Vec::new();
        let (heard, hearing) = mpsc::channel();
        let socket = &stream;
        thread::scope(|scope| {
            let writer = scope.spawn(move || self.write(socket, &hearing));
            let mut reader = Reader::new(&stream, Instant::now() + ANSWER_BOUND);
            let verdict = self.read(&mut reader, &heard, &mut statuses, || writer.is_finished());
            outcome.received.append(&mut reader.received);
            if let Err(problem) = verdict {
                outcome.problems.push(problem);
            }
            // Ends the writer if the gateway does not read on.
            stream.shutdown(Shutdown::Both).ok();
            drop(heard);
        });
        drop(stream);

        // Goes through the same worker, behind everything this case made it do.
        if let Err(message) = fetch(self.address, PROBE, ANSWER_BOUND) {
            outcome.problems.push(format!("a fresh connection is not served: {message}"));
        }
        outcome.seen = self.take_seen();
        let first = statuses.first().copied();
        outcome.problems.append(&mut self.judge_server(&outcome.seen, first));
        outcome
    }

    fn take_seen(&self) -> Vec<Seen> {
        let mut seen = self.origin.take();
        seen.retain(|request| !(request.target == PROBE && request.state == State::Whole));
        seen
    }

    /// Sends the case's bytes. Errors are the reader's to judge: a gateway may refuse and
    /// close before everything is written.
    fn write(&self, stream: &TcpStream, hearing: &Receiver<u16>) {
        let mut sink = stream;
        let (Ok(own), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else { return };
        let mut first = true;
        for step in &self.case.steps {
            match step {
                Step::Send(bytes) => {
                    for (index, piece) in self.pieces(bytes, first).into_iter().enumerate() {
                        if index > 0 {
                            wait_until_peer_read(own, peer, PIECE_BOUND);
                        }
                        if sink.write_all(piece).is_err() {
                            return;
                        }
                    }
                    first = false;
                }
                Step::AwaitInterim(status) => {
                    let come = |got: &u16| got == status || *got >= 200;
                    if !hearing.iter().any(|got| come(&got)) {
                        return;
                    }
                }
            }
        }
        if self.case.half_close {
            stream.shutdown(Shutdown::Write).ok();
        }
    }

    /// How long an answer may take while the request is still being written in pieces.
    fn answer_bound(&self) -> Duration {
        let pieces: usize = self
            .case
            .steps
            .iter()
            .map(|step| match step {
                Step::Send(bytes) => self.pieces(bytes, true).len(),
                Step::AwaitInterim(_) => 0,
            })
            .sum();
        // Twice: on a busy machine the bound of a piece is only looked at now and then.
        ANSWER_BOUND + 2 * PIECE_BOUND * u32::try_from(pieces).unwrap_or_default()
    }

    fn pieces<'b>(&self, bytes: &'b [u8], first: bool) -> Vec<&'b [u8]> {
        match &self.case.split {
            Split::EveryByte => bytes.chunks(1).collect(),
            Split::At(offsets) if first => cut(bytes, offsets),
            Split::Whole if self.in_pieces => cut(bytes, &self.random_offsets(bytes.len())),
            Split::Whole | Split::At(_) => vec![bytes],
        }
    }

    /// The same for the same case in every run, so that a failure can be repeated.
    fn random_offsets(&self, size: usize) -> Vec<usize> {
        // FNV-1a of the name seeds a linear congruential generator (Knuth's MMIX constants).
        let mut state = self
            .case
            .name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let mut offsets: Vec<usize> = (1..PIECES)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                usize::try_from(state >> 33).unwrap_or_default() % size.max(1)
            })
            .filter(|offset| *offset > 0)
            .collect();
        offsets.sort_unstable();
        offsets.dedup();
        offsets
    }

    /// Reads the expected responses and what comes after; the error is what was wrong.
    fn read(
        &self,
        reader: &mut Reader<'_>,
        heard: &Sender<u16>,
        statuses: &mut Vec<u16>,
        written: impl Fn() -> bool,
    ) -> Result<(), String> {
        for (index, expect) in self.case.expects.iter().enumerate() {
            reader.extend_deadline(Instant::now() + self.answer_bound());
            let number = index + 1;
            let found = self.final_response(reader, expect, heard)?;
            let Some(response) = found else {
                let earlier = self.case.expects.get(..index).unwrap_or_default();
                let waived = earlier.last().is_some_and(|before| before.after == After::Any);
                if expect.silent || waived {
                    return Ok(());
                }
                return Err(format!("closed without answer {number}"));
            };
            statuses.push(response.status);
            judge_response(expect, &response).map_err(|problem| format!("answer {number}: {problem}"))?;
        }
        let Some(last) = self.case.expects.last() else {
            return Ok(());
        };
        reader.extend_deadline(Instant::now() + ANSWER_BOUND);
        match last.after {
            After::Close => judge_end(reader, last),
            After::Keep | After::Any => self.probe(reader, last.after, written),
            After::Tunnel => self.tunnel(reader, written),
        }
    }

    /// The next response that is not an interim one; `None` if the connection ended first.
    fn final_response(
        &self,
        reader: &mut Reader<'_>,
        expect: &Expect,
        heard: &Sender<u16>,
    ) -> Result<Option<Response>, String> {
        loop {
            let response = match reader.response(expect.no_body) {
                // A refusal may carry a body even where a HEAD was meant: its sender closes.
                Err(_) if expect.no_body && expect.after == After::Close => None,
                other => other?,
            };
            let Some(response) = response else {
                return Ok(None);
            };
            // The writer may have finished, and then nobody listens.
            heard.send(response.status).ok();
            if response.status >= 200 || response.status == 101 {
                return Ok(Some(response));
            }
            if expect.no_interim {
                return Err(format!("an interim answer {}", response.status));
            }
        }
    }

    /// One more request on the same connection tells whether it is still in step.
    fn probe(&self, reader: &mut Reader<'_>, after: After, written: impl Fn() -> bool) -> Result<(), String> {
        wait_until_written(written)?;
        if !reader.pending().is_empty() {
            return Err(format!("bytes behind the last answer: {}", show(reader.pending())));
        }
        let request = format!("GET {PROBE} HTTP/1.1\r\nHost: probe\r\n\r\n");
        let sent = reader.send(request.as_bytes());
        let closed = match reader.response(false) {
            Ok(Some(response)) => {
                let text = String::from_utf8_lossy(&response.body).into_owned();
                if response.status == 200 && text.trim_end() == format!("GET {PROBE}") {
                    return Ok(());
                }
                return Err(format!("out of step: {} {text:?}", response.status));
            }
            Ok(None) => String::from("closed"),
            Err(problem) if sent.is_err() || reader.pending().is_empty() => problem,
            Err(problem) => return Err(format!("out of step: {problem}")),
        };
        if after == After::Keep {
            return Err(format!("the connection should stay, but: {closed}"));
        }
        if closed.contains("in time") {
            return Err(String::from("neither closed nor serving"));
        }
        Ok(())
    }

    /// What the client sends comes back untouched: first what came with the handshake.
    fn tunnel(&self, reader: &mut Reader<'_>, written: impl Fn() -> bool) -> Result<(), String> {
        wait_until_written(written)?;
        let mut wanted = Vec::new();
        if let Some(Step::Send(bytes)) = self.case.steps.last()
            && let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n")
        {
            wanted.extend_from_slice(bytes.get(at + 4..).unwrap_or_default());
        }
        let frame = b"\x82\x07\r\n\r\n\x00\xff!";
        wanted.extend_from_slice(frame);
        reader.send(frame).map_err(|error| format!("the tunnel does not take bytes: {error}"))?;
        while reader.pending().len() < wanted.len() {
            reader.more().map_err(|end| format!("the tunnel ended ({end:?})"))?;
        }
        if reader.pending() == wanted {
            Ok(())
        } else {
            Err(format!("the tunnel gave back {}", show(reader.pending())))
        }
    }

    /// Compares what the server saw with what it has to see.
    fn judge_server(&self, seen: &[Seen], first_status: Option<u16>) -> Vec<String> {
        let mut problems = Vec::new();
        let mut wanted =
            self.case.server.iter().filter(|line| line.only_if.is_none() || line.only_if == first_status).peekable();
        for request in seen {
            match &request.state {
                State::Ambiguous(reason) => {
                    problems.push(format!("AMBIGUOUS for the server: {reason}"));
                    continue;
                }
                State::Cut if self.case.cut_allowed => continue,
                State::Cut => {
                    problems.push(String::from("the server saw a request cut short"));
                    continue;
                }
                State::Whole => {}
            }
            // An optional line that does not fit was not sent; the next one may fit.
            while wanted
                .peek()
                .is_some_and(|line| line.optional && !(line.method == request.method && line.fits_target(request)))
            {
                wanted.next();
            }
            match wanted.next() {
                Some(line) => problems.append(&mut self.differences(line, request)),
                None => {
                    problems.push(format!("the server saw a request too many: {} {}", request.method, request.target))
                }
            }
        }
        problems.extend(
            wanted
                .filter(|line| !line.optional)
                .map(|line| format!("the server never saw {} {}", line.method, line.targets.join("|"))),
        );
        problems
    }

    fn differences(&self, line: &ServerLine, seen: &Seen) -> Vec<String> {
        let mut problems = Vec::new();
        if line.method != seen.method || !line.fits_target(seen) {
            problems.push(format!(
                "the server saw {} {} and not {} {}",
                seen.method,
                seen.target,
                line.method,
                line.targets.join("|")
            ));
        }
        if line.body != seen.body {
            problems.push(format!("the server's body is {}", show(&seen.body)));
        }
        if let Some(host) = &line.host
            && named(&seen.headers, "host").next() != Some(host)
        {
            problems.push(format!("the server's Host is not {host:?}"));
        }
        for check in &line.checks {
            if !self.holds(check, seen) {
                problems.push(format!("at the server fails: {check:?}"));
            }
        }
        problems
    }

    fn holds(&self, check: &Check, seen: &Seen) -> bool {
        let wanted =
            |field: &Field| field.value.as_ref().map(|value| value.replace("{client}", &self.client.to_string()));
        let absent = |fields: &[(String, String)], field: &Field| match wanted(field) {
            Some(text) => !named(fields, &field.name).any(|value| value.contains(&text)),
            None => named(fields, &field.name).next().is_none(),
        };
        match check {
            Check::Header(field) => match wanted(field) {
                Some(text) => named(&seen.headers, &field.name).any(|value| value == text),
                None => named(&seen.headers, &field.name).next().is_some(),
            },
            Check::HeaderContains(field) => {
                let text = wanted(field).unwrap_or_default();
                named(&seen.headers, &field.name).any(|value| value.contains(&text))
            }
            Check::NoHeader(field) => absent(&seen.headers, field),
            Check::NoTrailer(field) => absent(&seen.trailers, field),
        }
    }
}

impl ServerLine {
    fn fits_target(&self, seen: &Seen) -> bool {
        self.targets.contains(&seen.target)
    }
}

/// Nothing may be written into the middle of what the case's own writer still sends.
fn wait_until_written(written: impl Fn() -> bool) -> Result<(), String> {
    let until = Instant::now() + ANSWER_BOUND;
    while !written() {
        if Instant::now() > until {
            return Err(String::from("answered, and does not take the rest of the request"));
        }
        thread::yield_now();
    }
    Ok(())
}

fn cut<'a>(bytes: &'a [u8], offsets: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for offset in offsets.iter().copied().chain([bytes.len()]) {
        pieces.extend(bytes.get(start..offset).filter(|piece| !piece.is_empty()));
        start = offset;
    }
    pieces
}

fn judge_response(expect: &Expect, response: &Response) -> Result<(), String> {
    if !expect.statuses.contains(&response.status) {
        return Err(format!("{} and not {:?}", response.status, expect.statuses));
    }
    let body = String::from_utf8_lossy(&response.body);
    for text in &expect.says {
        if !body.contains(text.as_str()) {
            return Err(format!("the body does not say {text:?} but {body:?}"));
        }
    }
    for field in &expect.with {
        let mut values = named(&response.headers, &field.name);
        let found = match &field.value {
            Some(wanted) => values.any(|value| value == wanted),
            None => values.next().is_some(),
        };
        if !found {
            return Err(format!("no field {field:?}"));
        }
    }
    match expect.without.iter().find(|name| named(&response.headers, name).next().is_some()) {
        Some(name) => Err(format!("a field {name}")),
        None => Ok(()),
    }
}

fn judge_end(reader: &mut Reader<'_>, last: &Expect) -> Result<(), String> {
    let end = reader.end();
    if end == End::TimedOut {
        return Err(String::from("the connection was not closed"));
    }
    if reader.pending().is_empty() || (last.no_body && !reader.pending().starts_with(b"HTTP/")) {
        Ok(())
    } else {
        Err(format!("bytes behind the last answer: {}", show(reader.pending())))
    }
}
