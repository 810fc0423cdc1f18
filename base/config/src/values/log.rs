//! The access log: where it goes and what a line looks like.

use super::Wrong;
use super::template::Part;
use crate::checked::{LogField, LogFormat, LogPart};
use crate::report::{nearest, quoted};

pub(crate) const TARGET_PATTERN: &str = r"^(stdout|stderr|[^\x00]*[/.][^\x00]*)$";

/// `stdout`, `stderr` or a path; a word without a slash or dot is rather a misspelt word.
pub(crate) fn target(text: &str) -> Result<(), Wrong> {
    if matches!(text, "stdout" | "stderr") {
        return Ok(());
    }
    if !text.contains(['/', '.']) {
        let wrong = Wrong::new(format!("{} is neither stdout, stderr nor a path", quoted(text)));
        return Err(match nearest(text, ["stdout", "stderr", "off"].into_iter()) {
            Some(word) => wrong.help(format!("did you mean `{word}`?")),
            None => wrong.help(format!("a file beside the config is written as ./{text}")),
        });
    }
    super::path(text)
}

pub(crate) const FORMAT_PATTERN: &str = r"^(combined|json|[^\n]*\{[^\n]*)$";

/// What a template can name, in the order of the reference.
pub(crate) const FIELDS: &[(&str, LogField)] = &[
    ("time", LogField::Time),
    ("client", LogField::Client),
    ("user", LogField::User),
    ("method", LogField::Method),
    ("target", LogField::Target),
    ("host", LogField::Host),
    ("version", LogField::Version),
    ("status", LogField::Status),
    ("bytes_sent", LogField::BytesSent),
    ("bytes_received", LogField::BytesReceived),
    ("request_id", LogField::RequestId),
    ("listener", LogField::Listener),
    ("route", LogField::Route),
    ("pool", LogField::Pool),
    ("server", LogField::Server),
    ("tries", LogField::Tries),
    ("read_ms", LogField::ReadMs),
    ("queue_ms", LogField::QueueMs),
    ("connect_ms", LogField::ConnectMs),
    ("first_byte_ms", LogField::FirstByteMs),
    ("total_ms", LogField::TotalMs),
    ("reason", LogField::Reason),
];

/// `combined`, `json`, or a template with `{fields}`; `{{` and `}}` are braces themselves.
pub(crate) fn format(text: &str) -> Result<LogFormat, Wrong> {
    match text {
        "combined" => return Ok(LogFormat::Combined),
        "json" => return Ok(LogFormat::Json),
        _ => {}
    }
    if text.contains('\n') {
        return Err(Wrong::new("a template of the access log is one line"));
    }
    if !text.contains('{') {
        let wrong = Wrong::new(format!("{} is neither combined, json nor a template with {{fields}}", quoted(text)));
        return Err(match nearest(text, ["combined", "json"].into_iter()) {
            Some(word) => wrong.help(format!("did you mean `{word}`?")),
            None => wrong.help("a template is written like '{client} {method} {target} {status} {total_ms}'"),
        });
    }
    let parts = super::template::parts(text, field)?.into_iter();
    let part = |part| match part {
        Part::Text(text) => LogPart::Text(text),
        Part::Field(field) => LogPart::Field(field),
    };
    Ok(LogFormat::Template(parts.map(part).collect()))
}

fn field(name: &str) -> Result<LogField, Wrong> {
    if let Some(header) = name.strip_prefix("request.") {
        return super::http::header_name(header).map(|()| LogField::RequestHeader(header.to_ascii_lowercase()));
    }
    if let Some(header) = name.strip_prefix("response.") {
        return super::http::header_name(header).map(|()| LogField::ResponseHeader(header.to_ascii_lowercase()));
    }
    if let Some((_, field)) = FIELDS.iter().find(|(known, _)| *known == name) {
        return Ok(field.clone());
    }
    let wrong = Wrong::new(format!("the access log knows no {}", quoted(&format!("{{{name}}}"))));
    Err(match nearest(name, FIELDS.iter().map(|(known, _)| *known)) {
        Some(known) => wrong.help(format!("did you mean `{{{known}}}`?")),
        None => {
            let known: Vec<&str> = FIELDS.iter().map(|(known, _)| *known).collect();
            wrong.help(format!("it knows {}, request.NAME and response.NAME", known.join(", ")))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        let parts = format("{client} {{x}} {request.User-Agent}").expect("a template");
        let expected = vec![
            LogPart::Field(LogField::Client),
            LogPart::Text(" {x} ".to_owned()),
            LogPart::Field(LogField::RequestHeader("user-agent".to_owned())),
        ];
        assert_eq!(parts, LogFormat::Template(expected));
        for text in ["{clinet}", "{client", "x}{client}", "combind", "{request.a b}", "{}\n"] {
            assert!(format(text).is_err(), "{text}");
        }
    }
}
