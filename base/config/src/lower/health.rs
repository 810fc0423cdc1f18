//! Active health checks of a pool's servers.

use std::time::Duration;

use super::pools::span;
use super::{Lower, Section};
use crate::checked::{Check, Health, RecordType, RedisLogin, Server, ServerAddress};
use crate::limits;
use crate::node::Place;
use crate::report::quoted;
use crate::values::{self, health, http, tls};

impl Lower<'_> {
    pub(super) fn health(&mut self, pool: Section<'_>, servers: &[Server]) -> Option<Health> {
        pool.given("health")?;
        let health = pool.section("health");
        let check = self.check(pool, health, servers)?;
        let every = health.duration("every");
        let written = health.text("timeout").and_then(|text| values::duration(text).ok());
        let timeout = written.unwrap_or_else(|| Duration::from_secs(1).min(every));
        if let Some(node) = health.given("timeout")
            && timeout > every
        {
            let message = format!("a check may take {} but the next one starts after {}", span(timeout), span(every));
            self.error(node.place, message, "make `timeout` at most as long as `every`");
        }
        Some(Health {
            check,
            every,
            timeout,
            rise: health.number("rise"),
            fall: health.number("fall"),
            port: health.optional_number("port"),
        })
    }

    fn check(&mut self, pool: Section<'_>, health: Section<'_>, servers: &[Server]) -> Option<Check> {
        if let Some(node) = health.given("http") {
            let long = health.section("http");
            let path = node.scalar().map(|scalar| scalar.text.as_str()).or_else(|| long.text("path"))?;
            let host = long.text("host").map(str::to_owned);
            return Some(Check::Http { path: path.to_owned(), host, status: statuses(long) });
        }
        if let Some(node) = health.given("tls") {
            if speaks_tls(pool) {
                let message = "this pool speaks TLS itself, and a check of it begins with a handshake anyway";
                self.error(node.place, message, "write `tcp: {}`: it verifies the certificate as the pool does");
            }
            let name = health.section("tls").text("name").and_then(|text| tls::server_name(text).ok());
            return Some(Check::Tls { name });
        }
        if health.given("redis").is_some() {
            return Some(Check::Redis { login: self.redis_login(health.section("redis")) });
        }
        if health.given("postgres").is_some() {
            let postgres = health.section("postgres");
            let user = postgres.value("user", |text| Ok(text.to_owned())).unwrap_or_default();
            return Some(Check::Postgres { user, database: owned(postgres, "database") });
        }
        if let Some(node) = health.given("dns") {
            return Some(self.dns(node.place, pool, health.section("dns"), servers));
        }
        if health.given("exec").is_some() {
            return self.exec(health);
        }
        let tcp = health.section("tcp");
        Some(Check::Tcp { send: bytes(tcp, "send"), expect: bytes(tcp, "expect") })
    }

    fn dns(&mut self, place: Place, pool: Section<'_>, dns: Section<'_>, servers: &[Server]) -> Check {
        let over_tcp = dns.text("transport") == Some("tcp");
        if let Some(server) = servers.iter().find(|server| matches!(server.address, ServerAddress::Unix(_))) {
            let message = format!("{} is a Unix socket, and DNS is spoken over UDP and TCP", quoted(&server.name));
            self.error(place, message, "a pool has one kind of check: put that server into another pool");
        }
        if speaks_tls(pool) && !over_tcp {
            let message = "this pool speaks TLS, and DNS over UDP does not";
            self.error(place, message, "ask over TCP: `dns: { transport: tcp }`");
        }
        Check::Dns {
            name: dns.text("name").and_then(|text| health::domain_name(text).ok()),
            kind: match dns.text("type") {
                Some("A") => RecordType::A,
                Some("AAAA") => RecordType::Aaaa,
                Some("SOA") => RecordType::Soa,
                Some("TXT") => RecordType::Txt,
                _ => RecordType::Ns,
            },
            over_tcp,
        }
    }

    fn exec(&mut self, health: Section<'_>) -> Option<Check> {
        let words = health.texts("exec");
        let ((node, text), arguments) = words.split_first()?;
        if let Err(wrong) = values::path(text) {
            let help = wrong.help.unwrap_or_else(|| "the command comes first, its arguments behind it".to_owned());
            self.error(node.place, wrong.message, help);
            return None;
        }
        if arguments.len() > limits::COMMAND_ARGUMENTS {
            let message =
                format!("a command with {} arguments: at most {}", arguments.len(), limits::COMMAND_ARGUMENTS);
            self.error(node.place, message, "let a script say the rest");
        }
        let program = self.path(node, text);
        self.probe_command(node.place, &program, text);
        Some(Check::Exec { program, arguments: arguments.iter().map(|(_, text)| (*text).to_owned()).collect() })
    }

    fn redis_login(&mut self, redis: Section<'_>) -> Option<RedisLogin> {
        if let (Some(node), None) = (redis.given("user"), redis.given("password")) {
            let message = "there is a `user` and no `password`, and AUTH takes both";
            self.error(node.place, message, "for a user with `nopass` any password will do");
        }
        Some(RedisLogin { user: owned(redis, "user"), password: owned(redis, "password")? })
    }
}

fn owned(section: Section<'_>, key: &str) -> Option<String> {
    section.text(key).map(str::to_owned)
}

/// The pool's own `tls`, as it is written.
fn speaks_tls(pool: Section<'_>) -> bool {
    pool.given("tls").is_some_and(|node| node.scalar().is_none() || pool.switch("tls"))
}

fn bytes(section: Section<'_>, key: &str) -> Vec<u8> {
    section.value(key, health::bytes).unwrap_or_default()
}

fn statuses(check: Section<'_>) -> Vec<(u16, u16)> {
    let written: Vec<(u16, u16)> =
        check.texts("status").into_iter().filter_map(|(_, text)| http::status_range(text).ok()).collect();
    if !written.is_empty() {
        return written;
    }
    check.value("status", http::status_range).into_iter().collect()
}
