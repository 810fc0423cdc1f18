//! Password hashes in the form of crypt(3), and files of them as `htpasswd` writes them.
//!
//! No message repeats a hash: it would end in a log.

use super::{Wrong, http};
use crate::limits;

pub(crate) const HASH_PATTERN: &str = r"^\$(2[aby]|5|6)\$[./A-Za-z0-9=$]+$";

/// bcrypt (`$2b$`), SHA-256-crypt (`$5$`) or SHA-512-crypt (`$6$`).
pub(crate) fn hash(text: &str) -> Result<(), Wrong> {
    let advice = "make one with `htpasswd -nB USER` or `openssl passwd -6`";
    let Some((scheme, rest)) = text.strip_prefix('$').and_then(|rest| rest.split_once('$')) else {
        return Err(Wrong::new("this is no password hash; passwords are not kept in clear").help(advice));
    };
    let damaged = || Wrong::new("this password hash is damaged: it has the wrong length or characters").help(advice);
    let is_base64 = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/'));
    match scheme {
        "2a" | "2b" | "2y" => {
            let (cost, digest) = rest.split_once('$').ok_or_else(damaged)?;
            if cost.len() != 2 || digest.len() != 53 || !is_base64(digest) {
                return Err(damaged());
            }
            let cost = cost.parse::<u32>().map_err(|_| damaged())?;
            if !(4..=limits::BCRYPT_COST).contains(&cost) {
                let message =
                    format!("the cost of this hash is {cost}; it has to be from 4 to {}", limits::BCRYPT_COST);
                return Err(Wrong::new(message).help("every login pays it, so 10 to 12 is usual"));
            }
            Ok(())
        }
        "5" | "6" => {
            let mut rest = rest;
            if let Some(after) = rest.strip_prefix("rounds=") {
                let (rounds, after) = after.split_once('$').ok_or_else(damaged)?;
                let rounds = rounds.parse::<u32>().map_err(|_| damaged())?;
                if !(1000..=limits::SHA_CRYPT_ROUNDS).contains(&rounds) {
                    let message = format!(
                        "this hash has {rounds} rounds; they have to be from 1000 to {}",
                        limits::SHA_CRYPT_ROUNDS
                    );
                    return Err(Wrong::new(message).help("every login pays them; 5000 is usual"));
                }
                rest = after;
            }
            let (salt, digest) = rest.split_once('$').ok_or_else(damaged)?;
            let length = if scheme == "5" { 43 } else { 86 };
            if salt.len() > 16 || !is_base64(salt) || digest.len() != length || !is_base64(digest) {
                return Err(damaged());
            }
            Ok(())
        }
        "apr1" | "1" => Err(Wrong::new("this is an MD5 hash, which is too weak").help(advice)),
        _ => Err(Wrong::new("this kind of password hash is not known; $2b$, $5$ and $6$ are").help(advice)),
    }
}

/// One line of a password file: nothing, or a user and a hash.
pub(crate) fn line(text: &str) -> Result<Option<(&str, &str)>, Wrong> {
    let text = text.trim_end_matches(['\r', ' ', '\t']);
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    let Some((user, text)) = text.split_once(':') else {
        return Err(Wrong::new("this line has no colon").help("a line is written as USER:HASH"));
    };
    http::user(user)?;
    // A third field, as in a shadow file, is a comment to htpasswd as well.
    let text = text.split(':').next().unwrap_or_default();
    hash(text)?;
    Ok(Some((user, text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BCRYPT: &str = "$2b$10$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234";

    #[test]
    fn hashes() {
        assert_eq!(hash(BCRYPT), Ok(()));
        let sha512 = format!("$6$saltsalt${}", "a".repeat(86));
        assert_eq!(hash(&sha512), Ok(()));
        assert_eq!(hash(&format!("$5$rounds=5000$s${}", "a".repeat(43))), Ok(()));
        for text in [
            "secret",
            "$apr1$x$y",
            "$2b$99$x",
            "$6$salt$short",
            "{SHA}x=",
            "",
            "$",
            "$$",
            "$2b$31$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234",
        ] {
            assert!(hash(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lines_of_a_password_file() {
        assert_eq!(line("# a comment"), Ok(None));
        assert_eq!(line(&format!("ann:{BCRYPT}\r")), Ok(Some(("ann", BCRYPT))));
        assert!(line("ann").is_err());
        assert!(line("ann:secret").is_err_and(|wrong| !wrong.message.contains("secret")));
    }
}
