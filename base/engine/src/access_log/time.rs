//! Times in lines: a second is put into words once, its thousandths are appended.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The texts of the last second that was asked for.
#[derive(Debug)]
pub(super) struct Times {
    zone: TimeZone,
    unix_seconds: u64,
    combined: String,
    /// Up to the seconds,
    date_time: String,
    /// and behind them.
    offset: String,
}

impl Times {
    pub(super) fn new(zone: TimeZone) -> Self {
        let mut times =
            Self { zone, unix_seconds: 0, combined: String::new(), date_time: String::new(), offset: String::new() };
        times.put_into_words(0);
        times
    }

    /// `10/Oct/2000:13:55:36 -0700`
    pub(super) fn combined(&mut self, unix_ms: u64) -> &str {
        self.look(unix_ms);
        &self.combined
    }

    /// `2000-10-10T13:55:36.123-07:00` (RFC 3339), local time.
    pub(super) fn push_rfc3339(&mut self, unix_ms: u64, out: &mut Vec<u8>) {
        self.look(unix_ms);
        let thousandths = (unix_ms % 1000) as u16;
        out.extend_from_slice(self.date_time.as_bytes());
        out.push(b'.');
        out.extend([thousandths / 100, thousandths / 10 % 10, thousandths % 10].map(|digit| b'0' + digit as u8));
        out.extend_from_slice(self.offset.as_bytes());
    }

    fn look(&mut self, unix_ms: u64) {
        if unix_ms / 1000 != self.unix_seconds {
            self.put_into_words(unix_ms / 1000);
        }
    }

    fn put_into_words(&mut self, unix_seconds: u64) {
        self.unix_seconds = unix_seconds;
        // Far beyond the year 9999 there is no time to write: the beginning then.
        let time = i64::try_from(unix_seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
        let time = time.unwrap_or_default().to_zoned(self.zone.clone());
        self.combined = time.strftime("%d/%b/%Y:%H:%M:%S %z").to_string();
        self.date_time = time.strftime("%Y-%m-%dT%H:%M:%S").to_string();
        self.offset = time.strftime("%:z").to_string();
    }
}
