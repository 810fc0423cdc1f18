//! Keys of rate limits.

use super::Wrong;
use super::template::{self, Part};
use crate::checked::{JwtAlgorithm, KeyPart};
use crate::limits;
use crate::report::{nearest, quoted};

pub(crate) const KEY_PATTERN: &str = r"^(client|path|[^\n]*\{[^\n]*)$";

/// What a template can name, but for header fields and cookies.
const FIELDS: &[(&str, KeyPart)] = &[
    ("client", KeyPart::Client),
    ("path", KeyPart::Path),
    ("method", KeyPart::Method),
    ("host", KeyPart::Host),
    ("listener", KeyPart::Listener),
    ("route", KeyPart::Route),
];

/// `client`, `path`, or a template with `{fields}`.
pub(crate) fn key(text: &str) -> Result<Vec<KeyPart>, Wrong> {
    match text {
        "client" => return Ok(vec![KeyPart::Client]),
        "path" => return Ok(vec![KeyPart::Path]),
        _ => {}
    }
    if text.contains('\n') {
        return Err(Wrong::new("a template of a key is one line"));
    }
    if !text.contains('{') {
        let wrong = Wrong::new(format!("{} is neither client, path nor a template with {{fields}}", quoted(text)));
        return Err(match nearest(text, ["client", "path"].into_iter()) {
            Some(word) => wrong.help(format!("did you mean `{word}`?")),
            None => wrong.help("such as client, { header: Authorization }, { cookie: session } or \"{client} {path}\""),
        });
    }
    let parts: Vec<KeyPart> = template::parts(text, field)?
        .into_iter()
        .map(|part| match part {
            Part::Text(text) => KeyPart::Text(text),
            Part::Field(field) => field,
        })
        .collect();
    if parts.iter().all(|part| matches!(part, KeyPart::Text(_))) {
        return Err(Wrong::new(format!("{} names no field", quoted(text))).help("all requests would have one key"));
    }
    if parts.len() > limits::KEY_PARTS {
        return Err(Wrong::new(format!("a key has at most {} parts", limits::KEY_PARTS)));
    }
    Ok(parts)
}

fn field(name: &str) -> Result<KeyPart, Wrong> {
    if let Some(header) = name.strip_prefix("header.") {
        return super::http::header_name(header).map(|()| KeyPart::Header(header.to_ascii_lowercase()));
    }
    if let Some(cookie) = name.strip_prefix("cookie.") {
        return super::http::cookie_name(cookie).map(|()| KeyPart::Cookie(cookie.to_owned()));
    }
    if let Some((_, field)) = FIELDS.iter().find(|(known, _)| *known == name) {
        return Ok(field.clone());
    }
    let wrong = Wrong::new(format!("a key knows no {}", quoted(&format!("{{{name}}}"))));
    Err(match nearest(name, FIELDS.iter().map(|(known, _)| *known)) {
        Some(known) => wrong.help(format!("did you mean `{{{known}}}`?")),
        None => {
            let known: Vec<&str> = FIELDS.iter().map(|(known, _)| *known).collect();
            wrong.help(format!("it knows {}, header.NAME and cookie.NAME", known.join(", ")))
        }
    })
}

pub(crate) fn algorithm(text: &str) -> Option<JwtAlgorithm> {
    Some(match text {
        "HS256" => JwtAlgorithm::Hs256,
        "HS384" => JwtAlgorithm::Hs384,
        "HS512" => JwtAlgorithm::Hs512,
        "RS256" => JwtAlgorithm::Rs256,
        "ES256" => JwtAlgorithm::Es256,
        "EdDSA" => JwtAlgorithm::EdDsa,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let expected = vec![
            KeyPart::Client,
            KeyPart::Text(" ".to_owned()),
            KeyPart::Header("x-api-key".to_owned()),
            KeyPart::Text(" {".to_owned()),
            KeyPart::Cookie("Sid".to_owned()),
        ];
        assert_eq!(key("{client} {header.X-Api-Key} {{{cookie.Sid}"), Ok(expected));
        for text in ["", "clinet", "{clinet}", "{client", "{{client}}", "{header.a b}", "{client}\n", "{header.}"] {
            assert!(key(text).is_err(), "{text}");
        }
        assert!(key(&"{client}".repeat(limits::KEY_PARTS + 1)).is_err());
    }
}
