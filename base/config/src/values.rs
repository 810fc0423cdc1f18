//! Single texts into values: durations, sizes, addresses and so on.
//!
//! Each function says what is wrong in words for an engineer: what was found, what would have
//! been right.

pub(crate) mod account;
pub(crate) mod acme;
pub(crate) mod address;
pub(crate) mod health;
pub(crate) mod http;
pub(crate) mod limit;
pub(crate) mod log;
pub(crate) mod password;
pub(crate) mod quic;
mod template;
pub(crate) mod tls;

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::checked::Rate;
use crate::limits;
use crate::report::quoted;

/// Why a text is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

impl Wrong {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// A number in thousandths and its unit: `1.5s` is (1500, "s").
fn amount(text: &str) -> Option<(u64, &str)> {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit() && byte != b'.').unwrap_or(text.len());
    let (digits, unit) = text.split_at_checked(end)?;
    let (whole, fraction) = match digits.split_once('.') {
        Some((_, "")) => return None,
        Some((whole, fraction)) => (whole, fraction),
        None => (digits, ""),
    };
    if whole.is_empty() || whole.len() > 15 || fraction.len() > 3 || fraction.contains('.') {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let fraction: u64 = format!("{fraction:0<3}").parse().ok()?;
    Some((whole * 1000 + fraction, unit))
}

pub(crate) const DURATION_PATTERN: &str = r"^(0|[0-9]{1,15}(\.[0-9]{1,3})?(ms|s|m|h|d))$";

pub(crate) fn duration(text: &str) -> Result<Duration, Wrong> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let form = "a duration is a number and ms, s, m, h or d, such as 250ms, 2s, 5m or 1h";
    let Some((thousandths, unit)) = amount(text) else {
        return Err(Wrong::new(format!("{} is no duration", quoted(text))).help(form));
    };
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" => {
            let message = format!("{} has no unit", quoted(text));
            return Err(Wrong::new(message).help(format!("{form}; did you mean `{text}s`?")));
        }
        _ => {
            let meant = match unit.trim().to_ascii_lowercase().as_str() {
                "ms" | "msec" | "msecs" | "millis" | "milliseconds" => Some("ms"),
                "s" | "sec" | "secs" | "second" | "seconds" => Some("s"),
                "m" | "min" | "mins" | "minute" | "minutes" => Some("m"),
                "h" | "hr" | "hrs" | "hour" | "hours" => Some("h"),
                "d" | "day" | "days" => Some("d"),
                _ => None,
            };
            let number = text.strip_suffix(unit).unwrap_or(text);
            let message = format!("{} is no unit of a duration", quoted(unit.trim()));
            return Err(Wrong::new(message).help(match meant {
                Some(meant) => format!("{form}; did you mean `{number}{meant}`?"),
                None => form.to_owned(),
            }));
        }
    };
    // Both factors are below 2^60 and 2^27, so only u128 holds every product.
    let total = u128::from(thousandths) * milliseconds / 1000;
    let total = u64::try_from(total).ok().map(Duration::from_millis).filter(|total| *total <= limits::DURATION);
    total.ok_or_else(|| Wrong::new(format!("{} is too long: at most 366d", quoted(text))))
}

pub(crate) const SIZE_PATTERN: &str = r"^(0|[0-9]{1,15}(\.[0-9]{1,3})?(B|KB|KiB|MB|MiB|GB|GiB|TB|TiB))$";

/// Bytes.
pub(crate) fn size(text: &str) -> Result<u64, Wrong> {
    if text == "0" {
        return Ok(0);
    }
    let form = "a size is a number and B, KB, KiB, MB, MiB, GB, GiB, TB or TiB, such as 64KiB or 10MB";
    let Some((thousandths, unit)) = amount(text) else {
        return Err(Wrong::new(format!("{} is no size", quoted(text))).help(form));
    };
    let Some(bytes) = unit_bytes(unit) else {
        if unit.is_empty() {
            let message = format!("{} has no unit", quoted(text));
            return Err(Wrong::new(message).help(format!("{form}; did you mean `{text}B`?")));
        }
        let number = text.strip_suffix(unit).unwrap_or(text);
        let first = unit.trim().chars().next().map(|first| first.to_ascii_uppercase());
        let meant = match first {
            Some(first @ ('K' | 'M' | 'G' | 'T')) => Some(format!("{number}{first}iB")),
            Some('B') => Some(format!("{number}B")),
            _ => None,
        };
        let message = format!("{} is no unit of a size", quoted(unit.trim()));
        return Err(Wrong::new(message).help(match meant {
            Some(meant) => format!("{form}; did you mean `{meant}`?"),
            None => form.to_owned(),
        }));
    };
    let total = u128::from(thousandths) * u128::from(bytes) / 1000;
    let total = u64::try_from(total).ok().filter(|total| *total <= limits::SIZE_BYTES);
    total.ok_or_else(|| Wrong::new(format!("{} is too large", quoted(text))))
}

fn unit_bytes(unit: &str) -> Option<u64> {
    Some(match unit {
        "B" => 1,
        "KB" => 1000,
        "KiB" => 1 << 10,
        "MB" => 1000 * 1000,
        "MiB" => 1 << 20,
        "GB" => 1000 * 1000 * 1000,
        "GiB" => 1 << 30,
        "TB" => 1000 * 1000 * 1000 * 1000,
        "TiB" => 1 << 40,
        _ => return None,
    })
}

pub(crate) const SPEED_PATTERN: &str =
    r"^(0|[0-9]{1,15}(\.[0-9]{1,3})?(B|KB|KiB|MB|MiB|GB|GiB|TB|TiB|bit|kbit|Mbit|Gbit)/s)$";

/// Bytes a second.
pub(crate) fn speed(text: &str) -> Result<u64, Wrong> {
    if text == "0" {
        return Ok(0);
    }
    let form = "a speed is a size a second, such as 1KiB/s, or bits a second, such as 10Mbit/s";
    let Some(amount) = text.strip_suffix("/s") else {
        let wrong = Wrong::new(format!("{} is no speed", quoted(text)));
        return Err(wrong.help(match size(text) {
            Ok(_) => format!("{form}; did you mean `{text}/s`?"),
            Err(_) => form.to_owned(),
        }));
    };
    if amount == "0" {
        return Err(Wrong::new(format!("{} is no speed", quoted(text))).help("write 0 to turn it off"));
    }
    if let Some(bits) = bits(amount) {
        return bits;
    }
    let unit = amount.trim_start_matches(|digit: char| digit.is_ascii_digit() || digit == '.').trim();
    if let Some(meant) = ["bit", "kbit", "Mbit", "Gbit"].into_iter().find(|known| known.eq_ignore_ascii_case(unit)) {
        let message = format!("{} is no unit of a speed", quoted(unit));
        let number = amount.strip_suffix(unit).unwrap_or(amount).trim();
        return Err(Wrong::new(message).help(format!("did you mean `{number}{meant}/s`?")));
    }
    size(amount).map_err(|wrong| Wrong { message: wrong.message, help: wrong.help.or_else(|| Some(form.to_owned())) })
}

/// Bytes, where bits are written; `None` where they are not.
fn bits(text: &str) -> Option<Result<u64, Wrong>> {
    let (thousandths, unit) = amount(text)?;
    let thousands: u128 = match unit {
        "bit" => 1,
        "kbit" => 1000,
        "Mbit" => 1000 * 1000,
        "Gbit" => 1000 * 1000 * 1000,
        _ => return None,
    };
    let bytes = u64::try_from(u128::from(thousandths) * thousands / 8000).ok();
    Some(match bytes.filter(|bytes| *bytes <= limits::SIZE_BYTES) {
        Some(0) => {
            Err(Wrong::new(format!("{} a second is less than a byte", quoted(text))).help("write 0 to turn it off"))
        }
        Some(bytes) => Ok(bytes),
        None => Err(Wrong::new(format!("{} is too large", quoted(text)))),
    })
}

pub(crate) const RATE_PATTERN: &str = "^[0-9]{1,9}/(s|m|h)$";

/// So many in a period.
pub(crate) fn rate(text: &str) -> Result<Rate, Wrong> {
    let form = "a rate is a number a second, minute or hour, such as 50/s or 1000/m";
    let (digits, period) = match text.split_once('/') {
        Some((digits, "s")) => (digits, 1),
        Some((digits, "m")) => (digits, 60),
        Some((digits, "h")) => (digits, 3600),
        _ => return Err(Wrong::new(format!("{} is no rate", quoted(text))).help(form)),
    };
    let is_number = (1..=9).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    match digits.parse::<u32>() {
        Ok(count) if is_number && count > 0 => Ok(Rate { count, period: Duration::from_secs(period) }),
        Ok(0) if is_number => {
            Err(Wrong::new(format!("{} lets nobody through", quoted(text)))
                .help("leave it out where there is no bound"))
        }
        _ => Err(Wrong::new(format!("{} is no rate", quoted(text))).help(form)),
    }
}

pub(crate) const PERCENT_PATTERN: &str = "^[0-9]{1,3}%$";

/// 0..=100.
pub(crate) fn percent(text: &str) -> Result<u8, Wrong> {
    let form = "a share is written with a percent sign, such as 20%";
    let Some(digits) = text.strip_suffix('%') else {
        let wrong = Wrong::new(format!("{} is no share in percent", quoted(text)));
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        return Err(wrong.help(if is_number { format!("{form}; did you mean `{text}%`?") } else { form.to_owned() }));
    };
    if digits.is_empty() || digits.len() > 3 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Wrong::new(format!("{} is no share in percent", quoted(text))).help(form));
    }
    let number = digits.parse().ok().filter(|number| *number <= 100);
    number.ok_or_else(|| Wrong::new(format!("{} is more than all: at most 100%", quoted(text))))
}

/// Decimal digits only: a leading zero means octal to some readers of YAML and not to others.
pub(crate) fn integer(text: &str, least: u64, most: u64) -> Result<u64, Wrong> {
    let range = format!("a whole number from {least} to {most}");
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Wrong::new(format!("{} is not {range}", quoted(text))));
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err(Wrong::new(format!("{} starts with a zero", quoted(text))).help("write the number without it"));
    }
    let number = text.parse::<u64>().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| Wrong::new(format!("{} is not {range}", quoted(text))))
}

pub(crate) fn switch(text: &str) -> Result<bool, Wrong> {
    match text {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => {
            let wrong = Wrong::new(format!("{} is neither on nor off", quoted(text)));
            Err(wrong.help(match text.to_ascii_lowercase().as_str() {
                "yes" | "y" | "true" | "on" | "1" | "enable" | "enabled" => "write `on` or `true`",
                "no" | "n" | "false" | "0" | "disable" | "disabled" => "write `off` or `false`",
                _ => "write `on` or `off`",
            }))
        }
    }
}

/// `off` alone: what is on is said in another way.
pub(crate) fn off(text: &str) -> Result<(), Wrong> {
    let is_off = matches!(text, "off" | "false");
    if is_off { Ok(()) } else { Err(Wrong::new(format!("{} is not off", quoted(text)))) }
}

pub(crate) const IP_PATTERN: &str = r"^[0-9A-Fa-f.:]+$";

pub(crate) fn ip(text: &str) -> Result<IpAddr, Wrong> {
    text.parse().map_err(|_| {
        Wrong::new(format!("{} is no IP address", quoted(text))).help("write it as 10.0.0.1 or 2001:db8::1")
    })
}

pub(crate) const NETWORK_PATTERN: &str = r"^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$";

/// `10.0.0.0/8`, or one address.
pub(crate) fn network(text: &str) -> Result<IpNet, Wrong> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let Ok(network) = text.parse::<IpNet>() else {
        let wrong = Wrong::new(format!("{} is no network", quoted(text)));
        return Err(wrong.help("write it as 10.0.0.0/8, 2001:db8::/32, or as one address"));
    };
    let whole = network.trunc();
    if whole != network {
        let message = format!("{} has bits set behind its prefix", quoted(text));
        return Err(Wrong::new(message).help(format!("did you mean `{whole}`?")));
    }
    Ok(network)
}

pub(crate) const NAME_PATTERN: &str = "^[A-Za-z][A-Za-z0-9_.-]{0,62}$";

pub(crate) fn name(text: &str) -> Result<(), Wrong> {
    let fits = text.len() <= 63
        && text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    if fits {
        return Ok(());
    }
    let wrong = Wrong::new(format!("{} is no name", quoted(text)));
    Err(wrong.help("a name starts with a letter and goes on with letters, digits, `-`, `_` and `.`, 63 at most"))
}

pub(crate) fn pattern(text: &str) -> Result<regex::Regex, Wrong> {
    if text.starts_with('~') {
        let wrong = Wrong::new(format!("{} starts with ~", quoted(text)));
        return Err(wrong.help("this is a regular expression already: leave the ~ out"));
    }
    compile(text)
}

pub(crate) fn compile(text: &str) -> Result<regex::Regex, Wrong> {
    regex::RegexBuilder::new(text).size_limit(limits::PATTERN_BYTES).build().map_err(|error| {
        let wrong = Wrong::new(format!("{} is no regular expression: {}", quoted(text), explain_regex(&error)));
        let unsupported = ["(?=", "(?!", "(?<=", "(?<!"].iter().any(|look| text.contains(look));
        if unsupported {
            wrong.help("such patterns can take forever; two routes, the narrower one first, do the same")
        } else {
            wrong
        }
    })
}

/// The parser of the regex crate draws several lines; the last one is the reason.
fn explain_regex(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(_) => "it is too large when compiled".to_owned(),
        other => {
            let text = other.to_string();
            let last = text.lines().last().unwrap_or_default();
            last.strip_prefix("error: ").unwrap_or(last).to_owned()
        }
    }
}

pub(crate) const PATH_PATTERN: &str = r"^[^\x00]+$";

/// A path in the file system, as text.
pub(crate) fn path(text: &str) -> Result<(), Wrong> {
    if text.is_empty() {
        return Err(Wrong::new("the path is empty"));
    }
    if text.contains('\0') {
        return Err(Wrong::new(format!("{} holds a NUL character", quoted(text))));
    }
    if text.starts_with("~/") {
        let wrong = Wrong::new(format!("{} starts with ~", quoted(text)));
        return Err(wrong.help("a config knows no home directory; write ${HOME}/… or the whole path"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("250ms", 250),
            ("2s", 2000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("1.5s", 1500),
            ("0", 0),
            ("366d", 31_622_400_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "5", "2 s", "-1s", "1.s", ".5s", "2S", "1.5.5s", "367d", "999999999999999d", "1s ", "１s"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(duration("5 sec").is_err_and(|wrong| wrong.help.is_some_and(|help| help.contains("`5s`"))));
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("64KiB", 65_536), ("10MB", 10_000_000), ("1.5GiB", 1_610_612_736), ("0", 0), ("7B", 7)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "10", "10K", "10 MiB", "10mb", "1e3B", "999999999999999TiB", "-1B"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(speed("1KiB/s"), Ok(1024));
        assert_eq!(speed("10Mbit/s"), Ok(1_250_000));
        assert_eq!(speed("0.5kbit/s"), Ok(62));
        for text in ["1KiB", "10Mbit", "1bit/s", "10mbit/s", "0bit/s"] {
            assert!(speed(text).is_err(), "{text}");
        }
    }

    #[test]
    fn networks() {
        assert_eq!(network("10.0.0.0/8"), Ok("10.0.0.0/8".parse().expect("a network")));
        assert_eq!(network("10.1.2.3"), Ok("10.1.2.3/32".parse().expect("a network")));
        let wrong = network("10.1.2.3/8").expect_err("host bits");
        assert_eq!(wrong.help.as_deref(), Some("did you mean `10.0.0.0/8`?"));
    }
}
