//! Users of the host.

use super::Wrong;
use crate::checked::User;
use crate::report::quoted;

pub(crate) const PATTERN: &str = r"^([A-Za-z_][A-Za-z0-9_.-]{0,63}\$?|[0-9]{1,10}(:[0-9]{1,10})?)$";

/// A name, or numbers. Whether there is such a user is the host's to say.
pub(crate) fn user(text: &str) -> Result<User, Wrong> {
    let form = "write a name such as www-data, or numbers such as 1000 or 1000:1000";
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        let fits = regex::Regex::new(PATTERN).is_ok_and(|pattern| pattern.is_match(text));
        let wrong = || Wrong::new(format!("{} is no name of a user", quoted(text))).help(form);
        return fits.then(|| User::Name(text.to_owned())).ok_or_else(wrong);
    }
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (uid, Some(gid)),
        None => (text, None),
    };
    Ok(User::Ids { uid: number(uid, form)?, gid: gid.map(|gid| number(gid, form)).transpose()? })
}

fn number(text: &str, form: &str) -> Result<u32, Wrong> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // The highest number stands for "leave it as it is" in the kernel.
    let number = text.parse().ok().filter(|number| digits && *number != u32::MAX);
    number.ok_or_else(|| Wrong::new(format!("{} is no number of a user or group", quoted(text))).help(form))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        assert_eq!(user("www-data").ok(), Some(User::Name("www-data".to_owned())));
        assert_eq!(user("1000").ok(), Some(User::Ids { uid: 1000, gid: None }));
        assert_eq!(user("0:33").ok(), Some(User::Ids { uid: 0, gid: Some(33) }));
        for wrong in ["", "-x", "a b", "a:b", "1000:", "1000:www", "4294967295", "99999999999", "1a", "1:2:3"] {
            assert!(user(wrong).is_err(), "{wrong}");
        }
    }
}
