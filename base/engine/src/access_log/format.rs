//! One line of each format.

use std::net::SocketAddr;

use sumun_config::checked::LogField;

use super::batch::{Batch, Line};
use super::entry::Text;
use super::escape::{push_json, push_quotable, push_word};
use super::plan::{Form, Part, Plan};
use super::time::Times;

/// Appends the lines of a batch, each with its newline.
pub(super) fn push_batch(out: &mut Vec<u8>, plan: &Plan, batch: &Batch, times: &mut Times) {
    let Some(form) = &plan.form else { return };
    batch.lines(plan, |line| {
        match form {
            Form::Combined => push_combined(out, line, times),
            Form::Json => push_object(out, line, times),
            Form::Template(parts) => parts.iter().for_each(|part| push_part(out, part, line, times)),
        }
        out.push(b'\n');
    });
}

/// `client - user [time] "request line" status bytes "referer" "user agent"`
fn push_combined(out: &mut Vec<u8>, line: &Line<'_>, times: &mut Times) {
    push_client(out, line.record.client);
    out.extend_from_slice(b" - ");
    match line.text(Text::User) {
        b"" => out.push(b'-'),
        user => push_word(out, user),
    }
    out.extend_from_slice(b" [");
    out.extend_from_slice(times.combined(line.record.unix_ms).as_bytes());
    out.extend_from_slice(b"] \"");
    match line.text(Text::Method) {
        b"" => out.push(b'-'),
        method => {
            push_word(out, method);
            out.push(b' ');
            push_word(out, line.text(Text::Target));
            out.push(b' ');
            push_word(out, line.text(Text::Version));
        }
    }
    out.extend_from_slice(b"\" ");
    push_integer(out, line.record.status.into());
    out.push(b' ');
    push_integer(out, line.record.bytes_sent);
    out.extend_from_slice(b" \"");
    push_text(out, line.text(Text::Referer));
    out.extend_from_slice(b"\" \"");
    push_text(out, line.text(Text::UserAgent));
    out.push(b'"');
}

/// All fields, those that are empty left out.
fn push_object(out: &mut Vec<u8>, line: &Line<'_>, times: &mut Times) {
    let record = line.record;
    out.extend_from_slice(b"{\"time\":\"");
    times.push_rfc3339(record.unix_ms, out);
    out.push(b'"');
    if record.client.is_some() {
        out.extend_from_slice(b",\"client\":\"");
        push_client(out, record.client);
        out.push(b'"');
    }
    for (key, text) in [
        ("user", Text::User),
        ("method", Text::Method),
        ("target", Text::Target),
        ("host", Text::Host),
        ("version", Text::Version),
        ("referer", Text::Referer),
        ("user_agent", Text::UserAgent),
        ("request_id", Text::RequestId),
        ("listener", Text::Listener),
        ("route", Text::Route),
        ("pool", Text::Pool),
        ("server", Text::Server),
    ] {
        let text = line.text(text);
        if !text.is_empty() {
            push_key(out, key);
            push_json(out, text);
        }
    }
    for (key, number) in [
        ("status", record.status.into()),
        ("bytes_sent", record.bytes_sent),
        ("bytes_received", record.bytes_received),
        ("tries", record.tries.into()),
    ] {
        push_key(out, key);
        push_integer(out, number);
    }
    for (key, microseconds) in [
        ("read_ms", record.read_us),
        ("queue_ms", record.queue_us),
        ("connect_ms", record.connect_us),
        ("first_byte_ms", record.first_byte_us),
        ("total_ms", record.total_us),
    ] {
        push_key(out, key);
        push_milliseconds(out, microseconds);
    }
    push_key(out, "reason");
    push_json(out, record.reason.as_bytes());
    out.push(b'}');
}

fn push_key(out: &mut Vec<u8>, key: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

fn push_part(out: &mut Vec<u8>, part: &Part, line: &Line<'_>, times: &mut Times) {
    match part {
        Part::Text(text) => out.extend_from_slice(text.as_bytes()),
        Part::RequestHeader(place) => push_text(out, line.request_header(*place)),
        Part::ResponseHeader(place) => push_text(out, line.response_header(*place)),
        Part::Field(field) => push_field(out, field, line, times),
    }
}

fn push_field(out: &mut Vec<u8>, field: &LogField, line: &Line<'_>, times: &mut Times) {
    let record = line.record;
    match field {
        LogField::Time => times.push_rfc3339(record.unix_ms, out),
        LogField::Client => push_client(out, record.client),
        LogField::Method => push_text(out, line.text(Text::Method)),
        LogField::Target => push_text(out, line.text(Text::Target)),
        LogField::Host => push_text(out, line.text(Text::Host)),
        LogField::Version => push_text(out, line.text(Text::Version)),
        LogField::Status => push_integer(out, record.status.into()),
        LogField::BytesSent => push_integer(out, record.bytes_sent),
        LogField::BytesReceived => push_integer(out, record.bytes_received),
        LogField::RequestId => push_text(out, line.text(Text::RequestId)),
        LogField::Listener => push_text(out, line.text(Text::Listener)),
        LogField::Route => push_text(out, line.text(Text::Route)),
        LogField::Pool => push_text(out, line.text(Text::Pool)),
        LogField::Server => push_text(out, line.text(Text::Server)),
        LogField::Tries => push_integer(out, record.tries.into()),
        LogField::ReadMs => push_milliseconds(out, record.read_us),
        LogField::QueueMs => push_milliseconds(out, record.queue_us),
        LogField::ConnectMs => push_milliseconds(out, record.connect_us),
        LogField::FirstByteMs => push_milliseconds(out, record.first_byte_us),
        LogField::TotalMs => push_milliseconds(out, record.total_us),
        LogField::Reason => push_text(out, record.reason.as_bytes()),
        LogField::User => push_text(out, line.text(Text::User)),
        // Plans hold headers as places.
        LogField::RequestHeader(_) | LogField::ResponseHeader(_) => out.push(b'-'),
    }
}

fn push_text(out: &mut Vec<u8>, text: &[u8]) {
    match text {
        b"" => out.push(b'-'),
        text => push_quotable(out, text),
    }
}

/// The address without its TCP port; an IPv4 one that came through an IPv6 socket as IPv4.
fn push_client(out: &mut Vec<u8>, client: Option<SocketAddr>) {
    match client {
        Some(client) => out.extend_from_slice(client.ip().to_canonical().to_string().as_bytes()),
        None => out.push(b'-'),
    }
}

fn push_integer(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Microseconds as milliseconds with three decimals.
fn push_milliseconds(out: &mut Vec<u8>, microseconds: u64) {
    push_integer(out, microseconds / 1000);
    out.push(b'.');
    let rest = (microseconds % 1000) as u16;
    out.extend([rest / 100, rest / 10 % 10, rest % 10].map(|digit| b'0' + digit as u8));
}
