//! Clients that are blocked for a while, by rule, with a reason and an end.
//!
//! The tables are shared by all workers, without a lock: `sumun_traffic::blocks`.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sumun_config::checked::{BlockRule, Config};
use sumun_engine::accept::client_key;
use sumun_traffic::blocks::{self as tables, Block, Strikes};
use sumun_traffic::limits::{BLOCK_REASONS, BLOCKED_CLIENTS, STRIKING_CLIENTS};

use crate::events::Event;
use crate::limits::BLOCK_LINES;
use crate::traffic::client_text;

/// What the workers of one process share of blocks.
#[derive(Debug)]
pub(crate) struct Blocks {
    started: Instant,
    /// Made when the first rule comes.
    table: OnceLock<tables::Blocks>,
    rules: Mutex<Vec<Arc<Rule>>>,
    /// What rules say, in words. Rules go with their config, their blocks stay.
    reasons: Mutex<Vec<Arc<str>>>,
    begun: AtomicU64,
    refused: AtomicU64,
    /// The second in which lines were written last, and how many of them: its lower half.
    lines: AtomicU64,
}

/// A rule of the config that is in force.
#[derive(Debug)]
pub(crate) struct Rule {
    config: BlockRule,
    strikes: Strikes,
    reason: u16,
    text: Arc<str>,
}

/// A client that is blocked now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// An IPv4 address, or the /64 of IPv6 ones.
    pub client: String,
    pub reason: Arc<str>,
    pub left: Duration,
    /// Its connections are closed; it is refused otherwise.
    pub closes: bool,
}

/// The last reason that is told apart stands for all others.
const OTHER_REASONS: usize = BLOCK_REASONS - 1;

impl Blocks {
    pub(crate) fn new(started: Instant) -> Self {
        Self {
            started,
            table: OnceLock::new(),
            rules: Mutex::default(),
            reasons: Mutex::default(),
            begun: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            lines: AtomicU64::new(0),
        }
    }

    /// A config comes into force. Rules that stay know who has broken them how often; without any rule
    /// nobody is blocked any more.
    pub(crate) fn follow(&self, config: &Config) {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let known = std::mem::take(&mut *rules);
        for wanted in &config.blocks {
            let same = known.iter().find(|rule| rule.config == *wanted);
            rules.push(same.map_or_else(|| Arc::new(self.rule(wanted)), Arc::clone));
        }
        match self.table.get() {
            Some(table) if rules.is_empty() => table.sweep(u64::MAX),
            None if !rules.is_empty() => drop(self.table.get_or_init(|| tables::Blocks::new(BLOCKED_CLIENTS))),
            _ => {}
        }
    }

    fn rule(&self, config: &BlockRule) -> Rule {
        let text: Arc<str> = in_words(config).into();
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        let known = reasons.iter().position(|reason| *reason == text);
        let reason = known.unwrap_or_else(|| {
            if reasons.len() < OTHER_REASONS {
                reasons.push(Arc::clone(&text));
            } else if reasons.len() == OTHER_REASONS {
                reasons.push("a rule of `blocks`".into());
            }
            reasons.len() - 1
        });
        let strikes = Strikes::new(config.count, milliseconds(config.within), STRIKING_CLIENTS);
        Rule { config: config.clone(), strikes, reason: reason as u16, text }
    }

    /// For a worker, while this config is in force. `None`: nobody is blocked.
    pub(crate) fn guard(self: &Arc<Self>) -> Option<Guard> {
        let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        (!rules.is_empty()).then(|| Guard { blocks: Arc::clone(self), rules: rules.iter().map(Arc::clone).collect() })
    }

    /// Frees the places of blocks that have ended.
    pub(crate) fn sweep(&self) {
        if let Some(table) = self.table.get() {
            table.sweep(self.now_ms());
        }
    }

    /// Who is blocked now, who is free first at the top.
    pub(crate) fn list(&self) -> Vec<Blocked> {
        let now_ms = self.now_ms();
        let mut listed = self.table.get().map(|table| table.list(now_ms)).unwrap_or_default();
        listed.sort_by_key(|(client, block)| (block.until_ms, *client));
        let reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        let row = |(client, block): (u64, Block)| Blocked {
            client: client_text(client),
            reason: reasons.get(usize::from(block.reason)).map_or_else(|| "".into(), Arc::clone),
            left: Duration::from_millis(block.until_ms - now_ms),
            closes: block.closes,
        };
        listed.into_iter().map(row).collect()
    }

    pub(crate) fn count(&self) -> u64 {
        self.table.get().map_or(0, |table| table.list(self.now_ms()).len() as u64)
    }

    /// Ends a block. False: there is none.
    pub(crate) fn lift(&self, client: IpAddr) -> bool {
        self.table.get().is_some_and(|table| table.lift(client_key(client), self.now_ms()))
    }

    /// Blocks that have begun.
    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Relaxed)
    }

    /// Requests and connections that were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    pub(crate) fn note_refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    fn block(&self, client: u64, rule: &Rule, now_ms: u64) {
        let Some(table) = self.table.get() else { return };
        let until_ms = now_ms.saturating_add(milliseconds(rule.config.lasts));
        let block = Block { until_ms, reason: rule.reason, closes: rule.config.closes };
        if !table.place(client, block, now_ms) {
            return;
        }
        self.begun.fetch_add(1, Relaxed);
        if self.may_write(now_ms / 1000) {
            Event::Blocked { client: &client_text(client), reason: &rule.text, lasts: rule.config.lasts }.write();
        }
    }

    /// An army of clients does not fill the log.
    fn may_write(&self, second: u64) -> bool {
        let before = self.lines.fetch_update(Relaxed, Relaxed, |lines| {
            Some(if lines >> 32 == second { lines.saturating_add(1) } else { second << 32 | 1 })
        });
        before.is_ok_and(|lines| lines >> 32 != second || (lines as u32) < BLOCK_LINES)
    }

    fn now_ms(&self) -> u64 {
        milliseconds(self.started.elapsed())
    }
}

/// What one worker asks about blocks.
pub(crate) struct Guard {
    pub(crate) blocks: Arc<Blocks>,
    rules: Vec<Arc<Rule>>,
}

impl Guard {
    /// Whether anybody is blocked at all.
    #[inline]
    pub(crate) fn is_needed(&self) -> bool {
        self.blocks.table.get().is_some_and(|table| !table.is_empty())
    }

    pub(crate) fn of(&self, client: IpAddr, now_ms: u64) -> Option<Block> {
        self.blocks.table.get()?.of(client_key(client), now_ms)
    }

    /// A client got an answer of this status.
    pub(crate) fn judge(&self, client: IpAddr, status: u16, now_ms: u64) {
        self.strike(client, now_ms, |rule| rule.counts(status));
    }

    /// A limit refused a client.
    pub(crate) fn judge_refusal(&self, client: IpAddr, limit: &str, now_ms: u64) {
        self.strike(client, now_ms, |rule| rule.limit.as_deref() == Some(limit));
    }

    #[cold]
    fn strike(&self, client: IpAddr, now_ms: u64, is_broken: impl Fn(&BlockRule) -> bool) {
        let address = client.to_canonical();
        for rule in &self.rules {
            let counts = is_broken(&rule.config) && !rule.config.allow.iter().any(|network| network.contains(&address));
            if counts && rule.strikes.strike(client_key(client), now_ms) {
                self.blocks.block(client_key(client), rule, now_ms);
            }
        }
    }
}

/// `50 answers of 400, 403 or 404 within 10s`, `100 refusals of per-client within 10s`
fn in_words(rule: &BlockRule) -> String {
    if let Some(limit) = &rule.limit {
        return format!("{} refusals of {limit} within {:?}", rule.count, rule.within);
    }
    let one = |(first, last): &(u16, u16)| match (first, last) {
        (first, last) if first == last => first.to_string(),
        (first, _) => format!("{}xx", first / 100),
    };
    let statuses: Vec<String> = rule.statuses.iter().map(one).collect();
    let statuses = match statuses.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, before)) => format!("{} or {last}", before.join(", ")),
        None => String::new(),
    };
    format!("{} answers of {statuses} within {:?}", rule.count, rule.within)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(statuses: &[(u16, u16)]) -> BlockRule {
        let second = Duration::from_secs(1);
        BlockRule {
            statuses: statuses.to_vec(),
            limit: None,
            count: 3,
            within: second * 10,
            lasts: second * 60,
            closes: false,
            allow: vec!["198.51.100.0/24".parse().unwrap()],
        }
    }

    fn blocks(rules: &[BlockRule]) -> Arc<Blocks> {
        let blocks = Arc::new(Blocks::new(Instant::now()));
        let mut config = sumun_config::check_text("t", "listeners: { web: { bind: \":1\", routes: [respond: 200] } }")
            .map_err(|report| report.render(false))
            .unwrap()
            .config;
        config.blocks = rules.to_vec();
        blocks.follow(&config);
        blocks
    }

    #[test]
    fn a_rule_is_said_in_words() {
        assert_eq!(in_words(&rule(&[(404, 404)])), "3 answers of 404 within 10s");
        assert_eq!(in_words(&rule(&[(400, 499), (500, 500), (503, 503)])), "3 answers of 4xx, 500 or 503 within 10s");
    }

    #[test]
    fn who_breaks_a_rule_is_blocked_and_nobody_else() {
        let blocks = blocks(&[rule(&[(404, 404)])]);
        let guard = blocks.guard().unwrap();
        let [client, other, allowed] = ["203.0.113.7", "203.0.113.8", "198.51.100.1"].map(|text| text.parse().unwrap());
        for _ in 0..3 {
            guard.judge(client, 404, 0);
            guard.judge(other, 403, 0);
            guard.judge(allowed, 404, 0);
        }
        assert!(guard.is_needed() && guard.of(client, 59_999).is_some() && guard.of(client, 60_000).is_none());
        assert!(guard.of(other, 0).is_none() && guard.of(allowed, 0).is_none());
        assert_eq!((blocks.begun(), blocks.count()), (1, 1));
        let listed = blocks.list();
        assert_eq!((listed[0].client.as_str(), &*listed[0].reason), ("203.0.113.7", "3 answers of 404 within 10s"));
        assert!(blocks.lift(client) && !blocks.lift(client));
    }

    #[test]
    fn refusals_of_a_limit_are_told_from_answers() {
        let of_limit = BlockRule { limit: Some("per-client".into()), ..rule(&[]) };
        assert_eq!(in_words(&of_limit), "3 refusals of per-client within 10s");
        let blocks = blocks(&[of_limit]);
        let guard = blocks.guard().unwrap();
        let [client, other, allowed] = ["203.0.113.7", "203.0.113.8", "198.51.100.1"].map(|text| text.parse().unwrap());
        for _ in 0..3 {
            guard.judge_refusal(client, "per-client", 0);
            guard.judge_refusal(other, "per-token", 0);
            guard.judge(other, 429, 0);
            guard.judge_refusal(allowed, "per-client", 0);
        }
        assert!(guard.of(client, 0).is_some() && guard.of(other, 0).is_none() && guard.of(allowed, 0).is_none());
    }

    #[test]
    fn without_rules_nobody_is_blocked() {
        let blocks = blocks(&[rule(&[(404, 404)])]);
        let guard = blocks.guard().unwrap();
        (0..3).for_each(|_| guard.judge("203.0.113.7".parse().unwrap(), 404, 0));
        assert_eq!(blocks.count(), 1);
        let none = sumun_config::check_text("t", "listeners: { web: { bind: \":1\", routes: [respond: 200] } }");
        blocks.follow(&none.map_err(|report| report.render(false)).unwrap().config);
        assert!(blocks.guard().is_none() && blocks.count() == 0);
    }

    #[test]
    fn an_army_does_not_fill_the_log() {
        let blocks = Blocks::new(Instant::now());
        let written = |second| (0..1000).filter(|_| blocks.may_write(second)).count() as u32;
        assert_eq!((written(7), written(7), written(8)), (BLOCK_LINES, 0, BLOCK_LINES));
    }
}
