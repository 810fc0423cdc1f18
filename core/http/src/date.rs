//! Dates of HTTP fields (RFC 9110 section 5.6.7).
//!
//! Times are whole seconds since 1970-01-01 00:00:00 UTC. Whoever sends a date keeps the formatted
//! text for as long as its second lasts.

use std::time::UNIX_EPOCH;

/// Bytes of an IMF-fixdate.
pub const LENGTH: usize = 29;

/// 9999-12-31 23:59:59, the last second that four digits of a year can say.
const LAST_SECOND: u64 = 253_402_300_799;

const SECONDS_PER_DAY: u64 = 86_400;

/// 1970-01-01 was a Thursday.
const WEEKDAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];

const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// Writes the IMF-fixdate of a second, `Sun, 06 Nov 1994 08:49:37 GMT`.
///
/// A time after the year 9999 is written as that year's last second.
pub fn format(unix_seconds: u64, out: &mut [u8; LENGTH]) {
    let unix_seconds = unix_seconds.min(LAST_SECOND);
    let days = unix_seconds / SECONDS_PER_DAY;
    let second_of_day = unix_seconds % SECONDS_PER_DAY;
    let (year, month, day) = civil_date(days);

    out.copy_from_slice(b"Thu, 01 Jan 1970 00:00:00 GMT");
    out[0..3].copy_from_slice(WEEKDAYS[(days % 7) as usize]);
    two_digits(day, &mut out[5..7]);
    out[8..11].copy_from_slice(MONTHS[(month - 1) as usize]);
    two_digits(year / 100, &mut out[12..14]);
    two_digits(year % 100, &mut out[14..16]);
    two_digits(second_of_day / 3600, &mut out[17..19]);
    two_digits(second_of_day / 60 % 60, &mut out[20..22]);
    two_digits(second_of_day % 60, &mut out[23..25]);
}

/// Reads a date in any of the three forms that a recipient must accept: IMF-fixdate, RFC 850 and
/// asctime.
///
/// `None` for anything else, and for times before 1970. Two-digit years mean 1970 to 2069.
#[must_use]
pub fn parse(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let time = httpdate::parse_http_date(text).ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

fn two_digits(number: u64, out: &mut [u8]) {
    out[0] = b'0' + (number / 10 % 10) as u8;
    out[1] = b'0' + (number % 10) as u8;
}

/// Year, month 1..=12 and day 1..=31 of a day counted from 1970-01-01.
///
/// Years are counted from the first of March here: the leap day is then the last one of its year
/// and shifts no other day.
fn civil_date(days_since_1970: u64) -> (u64, u64, u64) {
    const DAYS_FROM_MARCH_0000_TO_1970: u64 = 719_468;
    const DAYS_PER_400_YEARS: u64 = 146_097;
    let days = days_since_1970 + DAYS_FROM_MARCH_0000_TO_1970;
    let cycle = days / DAYS_PER_400_YEARS;
    let day_of_cycle = days % DAYS_PER_400_YEARS;
    let leap_corrected = day_of_cycle - day_of_cycle / 1_460 + day_of_cycle / 36_524 - day_of_cycle / 146_096;
    let year_of_cycle = leap_corrected / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    // From March on, five months take 153 days; so do the next five.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let (month, next_year) = if month_from_march < 10 { (month_from_march + 3, 0) } else { (month_from_march - 9, 1) };
    (cycle * 400 + year_of_cycle + next_year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn formatted(unix_seconds: u64) -> String {
        let mut out = [0; LENGTH];
        format(unix_seconds, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn the_example_of_the_rfc_in_all_three_forms() {
        assert_eq!(formatted(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(parse(text.as_bytes()), Some(784_111_777), "{text}");
        }
    }

    #[test]
    fn edges_of_calendars() {
        for (second, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_799, "Tue, 29 Feb 2000 23:59:59 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (LAST_SECOND, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(formatted(second), text);
        }
    }

    #[test]
    fn what_is_no_date() {
        for text in [
            "",
            "0",
            "now",
            "Sun, 06 Nov 1994",
            "Sun, 06 Nov 1994 08:49:37",
            "1994-11-06T08:49:37Z",
            "Sun, 06 Nov 1994 25:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 +0100",
            "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse(b"\xff\xfe"), None);
    }

    proptest! {
        #[test]
        fn agrees_with_another_implementation(second in 0..=LAST_SECOND) {
            let expected = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
            prop_assert_eq!(formatted(second), expected);
        }

        #[test]
        fn what_was_written_is_read_again(second in 0..=LAST_SECOND) {
            prop_assert_eq!(parse(formatted(second).as_bytes()), Some(second));
        }

        #[test]
        fn no_input_panics(text in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(parse(&text).is_none_or(|second| second <= LAST_SECOND + 1));
        }
    }
}
