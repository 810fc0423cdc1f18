//! A client and a server of ours talk to each other over a link that cuts as it likes: bodies both
//! ways through narrow windows, resets at any time. What was not reset arrives whole.

use std::collections::BTreeMap;

use sumun_http::{RequestHead, ResponseHead};
use sumun_http2::{Connection, ErrorCode, Event, RequestLine, SendError, Settings, StreamId};

const SEEDS: u64 = 150;
const STEPS: usize = 1_500;
const BODY_MAX: usize = 200_000;

/// Pseudo-random numbers (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    fn body(&mut self) -> usize {
        match self.below(4) {
            0 => 0,
            1 => self.below(100),
            2 => self.below(20_000),
            _ => self.below(BODY_MAX),
        }
    }
}

/// Which byte stands where in the body of a stream.
fn pattern(stream: StreamId, at: usize) -> u8 {
    (stream as usize * 31 + at * 7 + at / 251) as u8
}

/// One stream, as one end sees it.
#[derive(Debug, Default)]
struct Talk {
    /// Of our body: its length, and how much was taken.
    length: usize,
    sent: usize,
    head_sent: bool,
    trailers: bool,
    done_sending: bool,
    /// Of theirs.
    received: usize,
    unreleased: usize,
    ended: bool,
}

struct End {
    connection: Connection,
    talks: BTreeMap<StreamId, Talk>,
    reset: Vec<StreamId>,
    /// Streams that both ends have finished: how much was received.
    finished: BTreeMap<StreamId, usize>,
    is_server: bool,
}

fn fields(stream: StreamId) -> Vec<(String, String)> {
    let mut fields = vec![("Server".into(), "s".into()), ("X-Stream".into(), stream.to_string())];
    fields.extend((0..stream % 5).map(|number| (format!("X-Field-{number}"), "v".repeat(number as usize * 40))));
    fields
}

fn wanted_lines(stream: StreamId) -> String {
    fields(stream).iter().map(|(name, value)| format!("{}: {value}\r\n", name.to_lowercase())).collect()
}

impl End {
    fn new(connection: Connection, is_server: bool) -> Self {
        Self { connection, talks: BTreeMap::new(), reset: Vec::new(), finished: BTreeMap::new(), is_server }
    }

    fn receive(&mut self, input: &[u8], dice: &mut Dice) {
        let mut rest = input;
        loop {
            let step = self.connection.receive(0, rest).expect("we keep the rules");
            rest = &rest[step.consumed..];
            let Some(event) = step.event else { break };
            self.note(event, dice);
        }
        assert!(rest.is_empty());
    }

    fn note(&mut self, event: Event<'_>, dice: &mut Dice) {
        match event {
            Event::Head { stream, end } => {
                let mut bytes = Vec::new();
                if self.is_server {
                    self.connection.take_request(&mut RequestHead::default(), &mut bytes).expect("a good request");
                    let talk =
                        Talk { length: dice.body(), trailers: dice.below(3) == 0, ended: end, ..Talk::default() };
                    assert!(self.talks.insert(stream, talk).is_none());
                } else {
                    let _ = self.connection.take_response(&mut ResponseHead::default(), &mut bytes).expect("good");
                    self.talks.get_mut(&stream).expect("asked for").ended = end;
                }
                let text = String::from_utf8(bytes).expect("text");
                assert!(text.contains(&wanted_lines(stream)), "{stream}: {text}");
            }
            Event::Data { stream, bytes, end } => {
                let talk = self.talks.get_mut(&stream).expect("open");
                for byte in bytes {
                    assert_eq!(*byte, pattern(stream, talk.received), "stream {stream} at {}", talk.received);
                    talk.received += 1;
                }
                talk.unreleased += bytes.len();
                talk.ended |= end;
            }
            Event::Trailers { stream } => {
                let mut lines = Vec::new();
                self.connection.take_trailers(&mut lines);
                assert_eq!(String::from_utf8(lines).expect("text"), wanted_lines(stream).replace("server: s\r\n", ""));
                self.talks.get_mut(&stream).expect("open").ended = true;
            }
            Event::Reset { stream, .. } => {
                // Of a request that we refused there is no talk.
                self.talks.remove(&stream);
                self.finished.remove(&stream);
                self.reset.push(stream);
            }
            _ => {}
        }
    }

    /// Goes on with one stream, as far as it is let.
    fn go_on(&mut self, stream: StreamId, dice: &mut Dice) {
        let Some(talk) = self.talks.get_mut(&stream) else { return };
        if !talk.head_sent {
            match self.connection.send_response(stream, 200, false, |fields| add_all(fields, stream)) {
                Ok(()) => talk.head_sent = true,
                Err(SendError::Busy) => return,
                Err(error) => panic!("{stream}: {error:?}"),
            }
        }
        if !talk.done_sending {
            let piece = (talk.length - talk.sent).min(1 + dice.below(16_384));
            let is_last = talk.sent + piece == talk.length;
            let bytes: Vec<u8> = (talk.sent..talk.sent + piece).map(|at| pattern(stream, at)).collect();
            let taken = self.connection.send_data(0, stream, &bytes, is_last && !talk.trailers).expect("open");
            talk.sent += taken;
            if talk.sent == talk.length && is_last && taken == piece {
                if talk.trailers {
                    let sent = self.connection.send_trailers(stream, |all| {
                        // Not every field may be a trailer.
                        for (name, value) in fields(stream).iter().skip(1) {
                            all.add(name.as_bytes(), value.as_bytes());
                        }
                    });
                    if sent.is_err() {
                        return;
                    }
                }
                talk.done_sending = true;
            }
        }
        self.finish(stream);
    }

    fn release(&mut self, stream: StreamId, dice: &mut Dice) {
        let Some(talk) = self.talks.get_mut(&stream) else { return };
        let bytes = dice.below(talk.unreleased + 1).max(talk.unreleased.min(1));
        talk.unreleased -= bytes;
        self.connection.release(stream, bytes);
        self.finish(stream);
    }

    fn finish(&mut self, stream: StreamId) {
        if let Some(talk) = self.talks.get(&stream)
            && talk.ended
            && talk.done_sending
            && talk.unreleased == 0
        {
            self.finished.insert(stream, talk.received);
            self.talks.remove(&stream);
        }
    }

    fn any_stream(&self, dice: &mut Dice) -> Option<StreamId> {
        let count = self.talks.len();
        (count > 0).then(|| *self.talks.keys().nth(dice.below(count)).expect("below the count"))
    }
}

fn add_all(all: &mut sumun_http2::Fields<'_>, stream: StreamId) {
    for (name, value) in fields(stream) {
        all.add(name.as_bytes(), value.as_bytes());
    }
}

/// Moves a part of what one end wrote to the other.
fn carry(from: &mut End, to: &mut End, dice: &mut Dice) {
    let output = from.connection.output();
    let length = if dice.below(3) == 0 { output.len() } else { dice.below(output.len() + 1).min(700) };
    let bytes = output[..length].to_vec();
    from.connection.consume(length);
    to.receive(&bytes, dice);
}

fn step(client: &mut End, server: &mut End, lengths: &mut BTreeMap<StreamId, usize>, dice: &mut Dice, calm: bool) {
    for end in [&mut *client, &mut *server] {
        if let Some(stream) = end.any_stream(dice) {
            end.go_on(stream, dice);
        }
        if let Some(stream) = end.any_stream(dice) {
            end.release(stream, dice);
        }
        while let Some(stream) = end.connection.next_writable() {
            end.go_on(stream, dice);
        }
        if !calm
            && dice.below(60) == 0
            && let Some(stream) = end.any_stream(dice)
        {
            end.connection.reset(stream, ErrorCode::CANCEL);
            end.talks.remove(&stream);
            end.reset.push(stream);
        }
    }
    if !calm && dice.below(3) == 0 {
        let length = dice.body();
        let line = RequestLine { method: b"POST", scheme: b"https", authority: b"a.test", path: b"/", protocol: None };
        let next =
            client.talks.keys().chain(client.finished.keys()).chain(&client.reset).max().map_or(1, |last| last + 2);
        match client.connection.send_request(&line, false, |fields| add_all(fields, next)) {
            Ok(stream) => {
                assert_eq!(stream, next);
                lengths.insert(stream, length);
                let trailers = dice.below(3) == 0;
                client.talks.insert(stream, Talk { length, trailers, head_sent: true, ..Talk::default() });
            }
            Err(SendError::Busy | SendError::NoStream) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    carry(client, server, dice);
    carry(server, client, dice);
}

#[test]
fn what_was_not_reset_arrives() {
    let mut finished = 0;
    for seed in 1..=SEEDS {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let settings = Settings {
            streams_max: 1 + dice.below(12) as u32,
            stream_window: 65_535 + dice.below(100_000) as u32,
            connection_window: 65_535 + dice.below(200_000) as u32,
            ..Settings::default()
        };
        // A server that allows more than the client asks for, and one that allows less.
        let server_settings = Settings { streams_max: 1 + dice.below(12) as u32, ..settings };
        let mut client = End::new(Connection::client(&settings, 0), false);
        let mut server = End::new(Connection::server(&server_settings, 0), true);
        let mut lengths = BTreeMap::new();
        for _ in 0..STEPS / 10 {
            step(&mut client, &mut server, &mut lengths, &mut dice, false);
        }
        for _ in 0..STEPS {
            step(&mut client, &mut server, &mut lengths, &mut dice, true);
            if client.talks.is_empty() && server.talks.is_empty() && client.connection.output().is_empty() {
                break;
            }
        }
        assert!(
            client.talks.is_empty() && server.talks.is_empty(),
            "seed {seed}: {:?} {:?}",
            client.talks,
            server.talks
        );
        assert_eq!((client.connection.streams(), server.connection.streams()), (0, 0), "seed {seed}");
        for (stream, length) in lengths {
            let was_reset = client.reset.contains(&stream) || server.reset.contains(&stream);
            if !was_reset {
                assert_eq!(server.finished.get(&stream), Some(&length), "seed {seed}: stream {stream}");
                assert!(client.finished.contains_key(&stream), "seed {seed}: stream {stream}");
                finished += 1;
            }
        }
    }
    assert!(finished > 10 * SEEDS, "{finished}");
}
