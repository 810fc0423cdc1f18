//! curl as the client, and the comparisons that every interop makes.

use std::process::Command;

use crate::children::TemporaryFolder;
use crate::shell::Fallible;

/// What curl got.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Field lines with names in lower case, of the last answer.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// curl's exit code: 0 is a complete answer, 18 one that was cut short.
    pub(crate) exit: i32,
}

impl Answer {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Fallible<serde_json::Value> {
        serde_json::from_slice(&self.body)
            .map_err(|error| format!("no JSON: {error}: {}", String::from_utf8_lossy(&self.body)).into())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Runs curl once; an answer that was cut short is an answer, no answer at all is an error.
pub(crate) fn curl(folder: &TemporaryFolder, arguments: &[&str], url: &str) -> Fallible<Answer> {
    let (head, body) = (folder.path().join("curl.head"), folder.path().join("curl.body"));
    for file in [&head, &body] {
        std::fs::write(file, "")?;
    }
    let run = Command::new("curl")
        .args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "60", "--write-out", "%{http_code}"])
        .arg("--dump-header")
        .arg(&head)
        .arg("--output")
        .arg(&body)
        .args(arguments)
        .arg(url)
        .output()?;
    let status: u16 = String::from_utf8_lossy(&run.stdout).trim().parse().unwrap_or(0);
    if status == 0 {
        return Err(format!("curl {}: {}", arguments.join(" "), String::from_utf8_lossy(&run.stderr)).into());
    }
    let head = String::from_utf8_lossy(&std::fs::read(head)?).into_owned();
    // 1xx answers come before the one that counts.
    let last = head.trim_end().rsplit("\r\n\r\n").next().unwrap_or_default();
    let fields = last.lines().filter_map(|line| line.split_once(':'));
    let fields = fields.map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned())).collect();
    Ok(Answer { status, fields, body: std::fs::read(body)?, exit: run.status.code().unwrap_or(-1) })
}

/// Many requests on as few connections as curl can; the distinct status codes it got.
pub(crate) fn curl_many(url: &str, count: u32) -> Fallible<Vec<String>> {
    let run = Command::new("curl")
        .args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "120", "--write-out", "%{http_code}\n"])
        .args(["--output", "/dev/null", &format!("{url}?number=[1-{count}]")])
        .output()?;
    let text = String::from_utf8_lossy(&run.stdout);
    let mut codes: Vec<String> = text.lines().map(str::to_owned).collect();
    if codes.len() != count as usize || !run.status.success() {
        let error = String::from_utf8_lossy(&run.stderr);
        return Err(format!("{} of {count} answers; {error}", codes.len()).into());
    }
    codes.sort();
    codes.dedup();
    Ok(codes)
}

/// An error that names what was looked at, unless both are equal.
pub(crate) fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, wanted: &T) -> Fallible<()> {
    if found == wanted { Ok(()) } else { Err(format!("{what}: {found:?} instead of {wanted:?}").into()) }
}

/// An error that names what was looked at, unless the condition holds.
pub(crate) fn ensure(what: &str, holds: bool, seen: impl std::fmt::Debug) -> Fallible<()> {
    if holds { Ok(()) } else { Err(format!("{what}: {seen:?}").into()) }
}

/// What hey counted.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) good: u64,
    /// Lines of hey about other status codes and about errors.
    pub(crate) bad: Vec<String>,
}

/// Reads hey's two distributions: of status codes and of errors.
pub(crate) fn read_hey(text: &str) -> Tally {
    let mut tally = Tally::default();
    let mut section = "";
    for line in text.lines().map(str::trim) {
        match line {
            "Status code distribution:" => section = "status",
            "Error distribution:" => section = "errors",
            _ if line.starts_with('[') && section == "status" => match line.strip_prefix("[200]") {
                Some(rest) => {
                    tally.good +=
                        rest.split_whitespace().next().and_then(|count| count.parse::<u64>().ok()).unwrap_or(0)
                }
                None => tally.bad.push(line.to_owned()),
            },
            _ if line.starts_with('[') && section == "errors" => tally.bad.push(line.to_owned()),
            _ => {}
        }
    }
    tally
}

impl Tally {
    pub(crate) fn all_good(&self, at_least: u64) -> Fallible<()> {
        ensure("requests that failed", self.bad.is_empty(), &self.bad)?;
        ensure("too few answers", self.good >= at_least, self.good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heys_two_distributions() {
        let text = "Status code distribution:\n  [200]\t1990 responses\n  [502]\t3 responses\n\nError distribution:\n  [7]\tGet \"http://x\": EOF\n";
        let tally = read_hey(text);
        assert_eq!(tally.good, 1990);
        assert_eq!(tally.bad.len(), 2);
        assert!(tally.all_good(1).is_err());
        assert!(read_hey("Status code distribution:\n  [200]\t5 responses\n").all_good(5).is_ok());
    }
}
