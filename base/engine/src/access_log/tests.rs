use std::fs::File;
use std::io::{self, BufRead, BufReader, PipeReader, Read};

use proptest::prelude::*;
use sumun_config::checked::{LogField, LogPart};
use sumun_traffic::pressure::Measures;

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// A log of one worker that writes into a pipe; the time zone is fixed.
fn log_into_pipe(format: &LogFormat) -> (AccessLog, LogSender, PipeReader) {
    let zone = TimeZone::fixed(jiff::tz::offset(9));
    let log = AccessLog::start_in(1, zone).unwrap();
    let (reader, writer) = io::pipe().unwrap();
    log.change(Some(format));
    log.reopen(writer.into());
    let sender = log.sender(0);
    (log, sender, reader)
}

/// What the entries look like.
fn written(format: &LogFormat, entries: &[Entry<'_>]) -> String {
    let (log, sender, mut reader) = log_into_pipe(format);
    entries.iter().for_each(|entry| sender.write(entry));
    drop(log);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn one_line_in_so_many_is_written_while_the_log_is_cut_down() {
    let (log, sender, _reader) = log_into_pipe(&LogFormat::Json);
    let limits = crate::OwnLimits::new(1);
    let wanted = || (0..100).filter(|_| sender.wants_line(&limits)).count();
    assert_eq!(wanted(), 100);
    limits.set(Measures { cuts_log: true, ..Measures::default() });
    assert_eq!(wanted(), 10);
    let left_out = log
        .families()
        .iter()
        .flat_map(|family| family.samples.clone())
        .find(|sample| sample.labels.iter().any(|(_, cause)| &**cause == "own_limits"));
    assert_eq!(left_out.map(|sample| sample.value), Some(90.into()));
    log.change(None);
    assert_eq!(wanted(), 0);
}

fn template(fields: &[LogField]) -> LogFormat {
    let mut parts = Vec::new();
    for field in fields {
        parts.push(LogPart::Field(field.clone()));
        parts.push(LogPart::Text("|".to_owned()));
    }
    LogFormat::Template(parts)
}

fn entry() -> Entry<'static> {
    Entry {
        unix_ms: 1_700_000_000_042,
        read_us: 12,
        queue_us: 0,
        connect_us: 345,
        first_byte_us: 6_789,
        total_us: 1_234_567,
        status: 200,
        bytes_received: 3,
        bytes_sent: 512,
        tries: 1,
        reason: "done",
        client: Some("[::ffff:192.0.2.7]:4711".parse().unwrap()),
        method: b"GET",
        target: b"/shop?q=1",
        host: b"example.com",
        version: b"HTTP/1.1",
        referer: b"https://example.com/",
        user_agent: b"curl/8.0",
        request_id: b"r-1",
        listener: b"web",
        route: b"/",
        pool: b"app",
        server: b"127.0.0.1:9001",
        user: b"kim",
        request_headers: None,
        response_headers: None,
    }
}

#[test]
fn combined() {
    assert_eq!(
        written(&LogFormat::Combined, &[entry(), Entry { reason: "header_timeout", status: 408, ..Entry::default() }]),
        "192.0.2.7 - kim [15/Nov/2023:07:13:20 +0900] \"GET /shop?q=1 HTTP/1.1\" 200 512 \
         \"https://example.com/\" \"curl/8.0\"\n\
         - - - [01/Jan/1970:09:00:00 +0900] \"-\" 408 0 \"-\" \"-\"\n"
    );
}

#[test]
fn json() {
    assert_eq!(
        written(&LogFormat::Json, &[entry(), Entry { reason: "no_route", ..Entry::default() }]),
        "{\"time\":\"2023-11-15T07:13:20.042+09:00\",\"client\":\"192.0.2.7\",\"user\":\"kim\",\"method\":\"GET\",\
         \"target\":\"/shop?q=1\",\"host\":\"example.com\",\"version\":\"HTTP/1.1\",\
         \"referer\":\"https://example.com/\",\"user_agent\":\"curl/8.0\",\"request_id\":\"r-1\",\
         \"listener\":\"web\",\"route\":\"/\",\"pool\":\"app\",\"server\":\"127.0.0.1:9001\",\"status\":200,\
         \"bytes_sent\":512,\"bytes_received\":3,\"tries\":1,\"read_ms\":0.012,\"queue_ms\":0.000,\
         \"connect_ms\":0.345,\"first_byte_ms\":6.789,\"total_ms\":1234.567,\"reason\":\"done\"}\n\
         {\"time\":\"1970-01-01T09:00:00.000+09:00\",\"status\":0,\"bytes_sent\":0,\"bytes_received\":0,\"tries\":0,\
         \"read_ms\":0.000,\"queue_ms\":0.000,\"connect_ms\":0.000,\"first_byte_ms\":0.000,\"total_ms\":0.000,\
         \"reason\":\"no_route\"}\n"
    );
}

#[test]
fn templates_name_everything() {
    let format = template(&[
        LogField::Time,
        LogField::Client,
        LogField::Method,
        LogField::Target,
        LogField::Host,
        LogField::Version,
        LogField::Status,
        LogField::BytesSent,
        LogField::BytesReceived,
        LogField::RequestId,
        LogField::Listener,
        LogField::Route,
        LogField::Pool,
        LogField::Server,
        LogField::Tries,
        LogField::ReadMs,
        LogField::QueueMs,
        LogField::ConnectMs,
        LogField::FirstByteMs,
        LogField::TotalMs,
        LogField::Reason,
        LogField::User,
    ]);
    assert_eq!(
        written(&format, &[entry()]),
        "2023-11-15T07:13:20.042+09:00|192.0.2.7|GET|/shop?q=1|example.com|HTTP/1.1|200|512|3|r-1|web|/|app|\
         127.0.0.1:9001|1|0.012|0.000|0.345|6.789|1234.567|done|kim|\n"
    );
}

#[test]
fn templates_name_headers_of_both_sides() {
    let format = template(&[
        LogField::ResponseHeader("x-cache".to_owned()),
        LogField::RequestHeader("accept".to_owned()),
        LogField::RequestHeader("x-not-sent".to_owned()),
        LogField::RequestHeader("accept".to_owned()),
    ]);
    let (log, sender, mut reader) = log_into_pipe(&format);
    let request = sender.keep_request_headers(|name| (name == "accept").then_some(b"text/html"));
    let response = sender.keep_response_headers(|name| (name == "x-cache").then_some(b"HIT"));
    sender.write(&Entry { request_headers: Some(&request), response_headers: Some(&response), ..entry() });
    sender.write(&Entry { response_headers: Some(&response), ..entry() });
    // Those that another format had asked for are none of this one.
    log.change(Some(&template(&[LogField::RequestHeader("cookie".to_owned())])));
    sender.write(&Entry { request_headers: Some(&request), ..entry() });
    drop(log);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "HIT|text/html|-|text/html|\nHIT|-|-|-|\n-|\n");
}

#[test]
fn hostile_bytes_stay_in_their_field() {
    let hostile = b"a\"b\\c\nd\re\x1b[31m\x00\x7f\xff\xc2\x9b\xed\x95\x9c f";
    let entry = Entry { target: hostile, user_agent: hostile, user: hostile, ..entry() };
    let word = r#"a\x22b\\c\x0ad\x0de\x1b[31m\x00\x7f\xff\xc2\x9b\xed\x95\x9c\x20f"#;
    let quoted = r#"a\"b\\c\x0ad\x0de\x1b[31m\x00\x7f\xff\xc2\x9b\xed\x95\x9c"#;
    assert_eq!(
        written(&LogFormat::Combined, &[entry]),
        format!(
            "192.0.2.7 - {word} [15/Nov/2023:07:13:20 +0900] \"GET {word} HTTP/1.1\" 200 512 \
             \"https://example.com/\" \"{quoted} f\"\n"
        )
    );
    assert_eq!(written(&template(&[LogField::Target]), &[entry]), format!("{quoted} f|\n"));
    let json = written(&LogFormat::Json, &[entry]);
    let expected = r#""target":"a\"b\\c\nd\re\u001b[31m\u0000\u007f�\u009b한 f""#;
    assert!(json.contains(expected), "{json}");
}

proptest! {
    #[test]
    fn a_line_is_one_line_and_says_what_was_sent(target in proptest::collection::vec(any::<u8>(), 0..60)) {
        let entries = [Entry { target: &target, user: &target, referer: &target, ..entry() }];
        for format in [LogFormat::Combined, LogFormat::Json, template(&[LogField::Target, LogField::User])] {
            let text = written(&format, &entries);
            prop_assert_eq!(text.find('\n'), Some(text.len() - 1));
            prop_assert!(!text.chars().any(|character| character.is_control() && character != '\n'));
            if format == LogFormat::Json {
                let value: serde_json::Value = serde_json::from_str(&text).unwrap();
                let expected = String::from_utf8_lossy(&target);
                prop_assert_eq!(value["target"].as_str().unwrap_or_default(), &*expected);
            }
            if format == LogFormat::Combined {
                // Seven fields and the words inside the quotation marks, whatever was sent.
                prop_assert_eq!(text.split('"').next().unwrap().split(' ').count(), 6);
            }
        }
    }
}

#[test]
fn long_texts_are_cut() {
    let long = vec![b'a'; limits::TEXT_BYTES + 1];
    let text = written(&template(&[LogField::Target]), &[Entry { target: &long, ..entry() }]);
    assert_eq!(text.len(), limits::TEXT_BYTES + "|\n".len());
}

#[test]
fn what_is_not_needed_is_not_looked_up() {
    let log = AccessLog::start(1).unwrap();
    let sender = log.sender(0);
    assert!(!sender.is_on());
    assert_eq!(sender.needs(), Needs::NOTHING);
    log.change(Some(&template(&[LogField::Status, LogField::Host, LogField::ResponseHeader("age".to_owned())])));
    assert!(sender.is_on());
    let needs = sender.needs();
    assert_eq!(needs, Needs::HOST | Needs::RESPONSE_HEADERS);
    assert_eq!(needs.text(Needs::HOST, || b"a"), b"a");
    assert_eq!(needs.text(Needs::TARGET, || unreachable!()), b"");
    log.change(None);
    assert!(!sender.is_on());
}

#[test]
fn a_full_queue_loses_lines_and_says_how_many() {
    let (log, sender, reader) = log_into_pipe(&LogFormat::Json);
    let mut sent = 0;
    // Nobody reads: the pipe fills, the writer waits, the queue fills.
    while log.lost_in_queue() == 0 {
        sender.write(&entry());
        sent += 1;
    }
    let count = std::thread::spawn(move || BufReader::new(reader).lines().count() as u64);
    assert!(log.flush(PATIENCE));
    let lost = log.lost_in_queue();
    assert_eq!((log.lost_in_writing(), log.families()[0].samples[0].value.clone()), (0, lost.into()));
    drop(log);
    assert_eq!(count.join().unwrap() + lost, sent);
}

#[test]
fn reopening_loses_no_line() {
    let (log, sender, reader) = log_into_pipe(&template(&[LogField::Target]));
    let writing = std::thread::spawn(move || {
        for number in 0..20_000_u32 {
            sender.write(&Entry { target: number.to_string().as_bytes(), ..entry() });
            if number % 1000 == 0 {
                std::thread::yield_now();
            }
        }
    });
    let mut readers = vec![reader];
    while !writing.is_finished() {
        let (reader, writer) = io::pipe().unwrap();
        readers.push(reader);
        log.reopen(writer.into());
        // Each pipe takes two descriptors until the end.
        if readers.len() == 400 {
            break;
        }
    }
    let reading: Vec<_> = readers
        .into_iter()
        .map(|reader| std::thread::spawn(move || BufReader::new(reader).lines().collect::<io::Result<Vec<_>>>()))
        .collect();
    writing.join().unwrap();
    assert!(log.flush(PATIENCE));
    let lost = log.lost_in_queue();
    drop(log);
    let mut numbers: Vec<u32> = reading
        .into_iter()
        .flat_map(|reading| reading.join().unwrap().unwrap())
        .map(|line| line.trim_end_matches('|').parse().unwrap())
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len() as u64 + lost, 20_000);
}

#[test]
fn what_was_sent_before_a_reopening_is_in_the_old_file() {
    let (log, sender, old) = log_into_pipe(&LogFormat::Combined);
    sender.write(&entry());
    assert!(log.flush(PATIENCE));
    let (new, writer) = io::pipe().unwrap();
    log.reopen(writer.into());
    assert!(log.flush(PATIENCE));
    sender.write(&entry());
    drop(log);
    assert_eq!(BufReader::new(old).lines().count(), 1);
    assert_eq!(BufReader::new(new).lines().count(), 1);
}

#[test]
fn a_full_disk_is_counted_and_gets_over_it() {
    let log = AccessLog::start(1).unwrap();
    let sender = log.sender(0);
    log.change(Some(&LogFormat::Combined));
    log.reopen(File::options().write(true).open("/dev/full").unwrap().into());
    sender.write(&entry());
    sender.write(&entry());
    assert!(log.flush(PATIENCE));
    assert_eq!((log.lost_in_writing(), log.lost_in_queue()), (2, 0));
    let (reader, writer) = io::pipe().unwrap();
    log.reopen(writer.into());
    assert!(log.flush(PATIENCE));
    sender.write(&entry());
    drop(log);
    assert_eq!(BufReader::new(reader).lines().count(), 1);
}

#[test]
fn a_reader_that_is_gone_costs_lines_and_nothing_else() {
    let (log, sender, reader) = log_into_pipe(&LogFormat::Combined);
    drop(reader);
    sender.write(&entry());
    assert!(log.flush(PATIENCE));
    assert_eq!(log.lost_in_writing(), 1);
}

#[test]
fn each_line_has_the_format_of_its_time() {
    let (log, sender, mut reader) = log_into_pipe(&template(&[LogField::Method]));
    sender.write(&entry());
    log.change(Some(&template(&[LogField::Status])));
    sender.write(&entry());
    log.change(None);
    sender.write(&entry());
    log.change(Some(&template(&[LogField::Pool])));
    sender.write(&entry());
    drop(log);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "GET|\n200|\napp|\n");
}
