//! Rate limits, and the routes that name them.

use std::collections::BTreeMap;
use std::sync::Arc;

use sumun_certificates::{VerifyingKey, verifying_key};

use super::{Lower, Section};
use crate::checked::{Jwt, JwtAlgorithm, JwtKey, KeyPart, Limit, Name, Rate, RateWindow, TokenPlace};
use crate::limits;
use crate::node::{Entry, Node};
use crate::report::{nearest, quoted};
use crate::table;
use crate::values::{self, limit};

/// Keys of a key that are about tokens alone.
const OF_JWT: [&str; 5] = ["algorithm", "secret", "file", "token_header", "token_cookie"];

impl Lower<'_> {
    pub(super) fn all_limits(&mut self) -> BTreeMap<Name, Arc<Limit>> {
        let entries = self.limits.iter();
        entries.filter_map(|entry| Some((Name::from(entry.key.as_str()), Arc::new(self.limit(entry)?)))).collect()
    }

    fn limit(&mut self, entry: &Entry) -> Option<Limit> {
        let section = Section::of(&entry.value, &table::LIMIT);
        let key = self.key(section);
        let rate = section.value("rate", values::rate)?;
        let window = match section.text("window") {
            Some("sliding") => RateWindow::Sliding,
            _ => RateWindow::Bucket,
        };
        if window == RateWindow::Sliding {
            self.sliding(section, rate);
        }
        let shared = self.is_shared(section);
        if window == RateWindow::Sliding
            && shared
            && let Some(node) = section.given("shared")
        {
            self.error(node.place, "a window that slides cannot be shared", "take `window: bucket`");
        }
        Some(Limit {
            name: Name::from(entry.key.as_str()),
            key: key?,
            rate,
            burst: section.optional_number("burst").unwrap_or(rate.count),
            window,
            keys: section.number("keys"),
            shared,
            tells_always: section.text("fields") == Some("always"),
        })
    }

    fn sliding(&mut self, section: Section<'_>, rate: Rate) {
        if let Some(node) = section.given("burst") {
            let message = "a window that slides has no `burst`: it holds what came within the last period";
            self.error(node.place, message, "take it out, or take `window: bucket`");
        }
        if let Some(node) = section.given("rate")
            && rate.count > limits::SLIDING_COUNT
        {
            let message = format!("`window: sliding` counts up to {} in a period", limits::SLIDING_COUNT);
            self.error(node.place, message, "take `window: bucket`, or a shorter period");
        }
    }

    fn key(&mut self, limit: Section<'_>) -> Option<Vec<KeyPart>> {
        let node = limit.given("key")?;
        if let Some(scalar) = node.scalar() {
            return limit::key(&scalar.text).ok();
        }
        let key = limit.section("key");
        if key.given("jwt").is_none() {
            for name in OF_JWT {
                if let Some(node) = key.given(name) {
                    self.error(node.place, format!("`{name}` is about tokens"), "`jwt: CLAIM` looks into one");
                }
            }
        }
        let part = if let Some(name) = key.text("header") {
            KeyPart::Header(name.to_ascii_lowercase())
        } else if let Some(name) = key.text("cookie") {
            KeyPart::Cookie(name.to_owned())
        } else {
            KeyPart::Claim(Arc::new(self.jwt(node, key)?))
        };
        Some(vec![part])
    }

    fn jwt(&mut self, node: &Node, key: Section<'_>) -> Option<Jwt> {
        let claim = key.text("jwt")?;
        if claim.is_empty() || claim.len() > limits::CLAIM_BYTES {
            let message = format!("the name of a claim has 1 to {} bytes", limits::CLAIM_BYTES);
            self.error(key.given("jwt")?.place, message, "such as `sub`");
        }
        let Some(algorithm) = key.text("algorithm") else {
            if key.given("algorithm").is_none() {
                let message = "`jwt` needs `algorithm`: no token may choose how it is verified";
                self.error(node.place, message, "HS256, HS384, HS512, RS256, ES256 or EdDSA");
            }
            return None;
        };
        let algorithm = limit::algorithm(algorithm)?;
        if let (Some(_), Some(second)) = (key.given("token_header"), key.given("token_cookie")) {
            self.error(second.place, "the token is looked for in one place", "keep `token_header` or `token_cookie`");
        }
        let token = match key.text("token_cookie") {
            Some(name) => TokenPlace::Cookie(name.to_owned()),
            None => TokenPlace::Header(
                key.text("token_header").or_else(|| key.default("token_header"))?.to_ascii_lowercase(),
            ),
        };
        Some(Jwt { claim: claim.to_owned(), algorithm, key: self.jwt_key(node, key, algorithm)?, token })
    }

    fn jwt_key(&mut self, node: &Node, key: Section<'_>, algorithm: JwtAlgorithm) -> Option<JwtKey> {
        match (key.given("secret"), key.given("file")) {
            (Some(secret), None) if algorithm.is_symmetric() => {
                Some(JwtKey(secret.scalar().filter(|scalar| !scalar.broken)?.text.clone().into_bytes()))
            }
            (Some(secret), None) => {
                let message = "this algorithm is verified with a public key, not with a secret";
                self.error(secret.place, message, "`file: FILE` names one with the key in PEM");
                None
            }
            (None, Some(file)) => self.jwt_file(file, algorithm),
            (Some(_), Some(file)) => {
                self.error(file.place, "`secret` and `file` exclude each other", "keep one of the two");
                None
            }
            (None, None) => {
                let help = if algorithm.is_symmetric() {
                    "write `secret: \"${JWT_SECRET}\"`, or `file: FILE`"
                } else {
                    "write `file: FILE`, with the public key in PEM"
                };
                self.error(node.place, "`jwt` has nothing to verify signatures with", help);
                None
            }
        }
    }

    fn jwt_file(&mut self, node: &Node, algorithm: JwtAlgorithm) -> Option<JwtKey> {
        let scalar = node.scalar().filter(|scalar| !scalar.broken)?;
        let shown = self.path(node, &scalar.text);
        let directory = self.sources.files.get(node.place.file).map(|file| file.directory.join(&scalar.text));
        let found = directory.and_then(|path| self.sources.attached.get(&path)).cloned();
        let text = match found.unwrap_or_else(|| Err("no file is read here".to_owned())) {
            Ok(index) => self.sources.files.get(index).map(|file| file.text.clone()).unwrap_or_default(),
            Err(reason) => {
                let message = format!("the file {} cannot be read: {reason}", shown.display());
                self.error(node.place, message, super::probe::RELATIVE);
                return None;
            }
        };
        let kind = match algorithm {
            JwtAlgorithm::Hs256 | JwtAlgorithm::Hs384 | JwtAlgorithm::Hs512 => {
                let secret = text.trim_end_matches(['\r', '\n']);
                if values::http::secret(secret).is_err() {
                    let message = format!("the secret in {} is too short", shown.display());
                    self.error(node.place, message, "it has at least 16 characters: `openssl rand -hex 32` makes one");
                    return None;
                }
                return Some(JwtKey(secret.as_bytes().to_vec()));
            }
            JwtAlgorithm::Rs256 => VerifyingKey::Rsa,
            JwtAlgorithm::Es256 => VerifyingKey::P256,
            JwtAlgorithm::EdDsa => VerifyingKey::Ed25519,
        };
        match verifying_key(text.as_bytes(), kind) {
            Ok(der) => Some(JwtKey(der)),
            Err(problem) => {
                self.error(node.place, format!("the file {} {}", shown.display(), problem.message), problem.help);
                None
            }
        }
    }

    /// The limits of a route.
    pub(super) fn route_limits(&mut self, route: Section<'_>) -> Vec<Name> {
        let mut found: Vec<Name> = Vec::new();
        for (node, text) in route.texts("limits") {
            if values::name(text).is_err() {
                continue;
            }
            if found.iter().any(|name| **name == *text) {
                self.error(node.place, format!("the limit {} stands here twice", quoted(text)), "keep one of the two");
            } else if self.limits.iter().any(|limit| limit.key == text) {
                self.used_limits.push(text.to_owned());
                found.push(Name::from(text));
            } else {
                self.unknown_limit(node, text);
            }
        }
        if found.len() > limits::ROUTE_LIMITS
            && let Some(node) = route.given("limits")
        {
            let message = format!("a route has at most {} limits", limits::ROUTE_LIMITS);
            self.error(node.place, message, "one limit with a template as its key may do what several do");
        }
        found
    }

    pub(super) fn unknown_limit(&mut self, node: &Node, text: &str) {
        let known: Vec<&str> = self.limits.iter().map(|limit| limit.key.as_str()).collect();
        let help = match nearest(text, known.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if known.is_empty() => format!("define it: `limits: {{ {text}: {{ key: client, rate: 50/s }} }}`"),
            None => {
                let shown: Vec<&str> = known.iter().take(10).copied().collect();
                format!("the limits are {}{}", shown.join(", "), if known.len() > shown.len() { ", …" } else { "" })
            }
        };
        self.error(node.place, format!("there is no limit {}", quoted(text)), help);
    }
}
