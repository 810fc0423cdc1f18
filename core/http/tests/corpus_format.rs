//! The corpus of hostile requests is well-formed: what the end-to-end runner relies on.

#[path = "corpus/parser.rs"]
mod parser;

use std::collections::BTreeMap;

use parser::{After, Case, Check, Split, Step, parse_text, read_directory};

/// The smallest corpus that is worth its name.
const CASES_MIN: usize = 200;
/// Shorter than this no line explains anything.
const WHY_BYTES_MIN: usize = 20;

fn corpus() -> Vec<Case> {
    let directory =
        std::path::PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("tests/corpus");
    read_directory(&directory).unwrap_or_else(|errors| panic!("\n{}", errors.join("\n")))
}

#[test]
fn every_file_reads_and_the_corpus_is_large_enough() {
    let cases = corpus();
    assert!(cases.len() >= CASES_MIN, "{} cases", cases.len());

    let mut per_file: BTreeMap<&str, usize> = BTreeMap::new();
    for case in &cases {
        let file = case.place.split(':').next().unwrap_or_default();
        *per_file.entry(file).or_default() += 1;
    }
    let thin: Vec<_> = per_file.iter().filter(|(_, count)| **count < 5).collect();
    assert!(thin.is_empty(), "files with fewer than five cases: {thin:?}");
    println!("{} cases: {per_file:?}", cases.len());
}

#[test]
fn names_are_unique_and_each_case_says_why() {
    let cases = corpus();
    let mut names: Vec<_> = cases.iter().map(|case| case.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), cases.len());
    let terse: Vec<_> = cases
        .iter()
        .filter(|case| case.why.len() < WHY_BYTES_MIN)
        .map(|case| format!("{}: {}", case.place, case.why))
        .collect();
    assert!(terse.is_empty(), "says too little:\n{}", terse.join("\n"));
    for case in &cases {
        assert!(case.reference.len() > "RFC 0000 ".len(), "{}: no section", case.place);
    }
}

/// No two cases send the same bytes in the same way.
#[test]
fn no_case_repeats_another() {
    let cases = corpus();
    let mut twins = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        for other in cases.iter().skip(index + 1) {
            if case.steps == other.steps && case.split == other.split && case.half_close == other.half_close {
                twins.push(format!("{} {} = {} {}", case.place, case.name, other.place, other.name));
            }
        }
    }
    assert!(twins.is_empty(), "\n{}", twins.join("\n"));
}

/// A verdict of a refusal lets no whole request through, and a success shows one.
#[test]
fn verdicts_agree_with_what_the_server_sees() {
    for case in corpus() {
        let refused = case.expects.iter().all(|expect| expect.statuses.iter().all(|status| *status >= 400));
        if refused {
            assert!(
                case.server.iter().all(|line| line.optional),
                "{}: all is refused, and the server sees a request",
                case.place
            );
        }
        let required = case.server.iter().filter(|line| !line.optional && line.only_if.is_none()).count();
        assert!(required <= case.expects.len(), "{}: more requests than responses", case.place);
        for line in &case.server {
            assert!(!line.method.is_empty() && !line.targets.is_empty(), "{}", case.place);
            assert_ne!(line.host.as_deref(), Some(""), "{}", case.place);
            for check in &line.checks {
                let (Check::Header(field)
                | Check::HeaderContains(field)
                | Check::NoHeader(field)
                | Check::NoTrailer(field)) = check;
                assert!(!field.name.is_empty(), "{}: a check without a name", case.place);
                if matches!(check, Check::HeaderContains(_)) {
                    assert!(field.value.is_some(), "{}: ~header needs a value", case.place);
                }
            }
        }
    }
}

#[test]
fn escapes_repetitions_and_words_mean_what_the_readme_says() {
    let text = "# comment\n\n== one | RFC 9112 2.2\nwhy: because\nexpect: 200|none close\n\
                server 200: GET \"/a|b\" body=\"{repeat:ab:2}\\x22\" host=\"h\" -header \"X: y\"\n\
                split: 1, 3\nend: half-close\nbytes:\nA\\r\\n\n\\t\\0\\\\\\xfF{repeat:z:3}\n";
    let cases = parse_text("t.txt", text).expect("a good text");
    let [case] = cases.as_slice() else { panic!("one case") };
    assert_eq!(case.place, "t.txt:3");
    assert_eq!(case.steps, [Step::Send(b"A\r\n\t\0\\\xffzzz".to_vec())]);
    assert_eq!(case.split, Split::At(vec![1, 3]));
    assert!(case.half_close && !case.cut_allowed);
    let [expect] = case.expects.as_slice() else { panic!("one response") };
    assert_eq!((expect.statuses.as_slice(), expect.silent), (&[200][..], true));
    assert!(expect.after == After::Close && !expect.no_body && !expect.no_interim);
    assert!(expect.says.is_empty() && expect.with.is_empty() && expect.without.is_empty());
    let [line] = case.server.as_slice() else { panic!("one request") };
    assert_eq!(line.targets, ["/a|b"]);
    assert_eq!(line.body, b"abab\"");
    assert_eq!(line.only_if, Some(200));
    let [Check::NoHeader(field)] = line.checks.as_slice() else { panic!("one check") };
    assert_eq!((field.name.as_str(), field.value.as_deref()), ("x", Some("y")));
}

#[test]
fn a_pause_for_an_interim_response_cuts_the_bytes() {
    let text = "== one | RFC 9110 10.1.1\nwhy: because\nexpect: 200 keep\nserver: PUT /\n\
                bytes:\nab{await:100}cd\n";
    let cases = parse_text("t.txt", text).expect("a good text");
    let steps = cases.first().map(|case| case.steps.clone()).unwrap_or_default();
    let send = |text: &[u8]| Step::Send(text.to_vec());
    assert_eq!(steps, [send(b"ab"), Step::AwaitInterim(100), send(b"cd")]);
}

/// Each of these is one fault in an otherwise good case.
#[test]
fn faults_of_the_format_are_found_with_their_place() {
    let good = "== one | RFC 9112 2.2\nwhy: because\nexpect: 400 close\nserver: nothing\nbytes:\nx\n";
    assert!(parse_text("t.txt", good).is_ok());
    let faults = [
        ("== one |", "== One |"),
        ("RFC 9112 2.2", "9112"),
        ("why: because\n", ""),
        ("expect: 400 close\n", ""),
        ("400 close", "400"),
        ("400 close", "abc close"),
        ("400 close", "100 close"),
        ("400 close", "none keep"),
        ("400 close", "400 close loudly"),
        ("400 close", "400 tunnel"),
        ("server: nothing\n", ""),
        ("server: nothing", "server: GET"),
        ("server: nothing", "server 200: GET /"),
        ("server: nothing", "server: GET / body=\"x"),
        ("server: nothing", "servers: nothing"),
        ("server: nothing", "server: nothing\nserver: GET /"),
        ("bytes:\nx\n", ""),
        ("x\n", "x \n"),
        ("x\n", "\u{e9}\n"),
        ("x\n", "\\q\n"),
        ("x\n", "\\x4\n"),
        ("x\n", "{repeat:a}\n"),
        ("x\n", "{repeat:a:99999999}\n"),
        ("x\n", "{await:200}\n"),
        ("bytes:", "split: 5\nbytes:"),
        ("bytes:", "split: here\nbytes:"),
        ("bytes:", "end: soon\nbytes:"),
    ];
    for (from, to) in faults {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good, "{from:?} is not in the good case");
        let errors = parse_text("t.txt", &text).expect_err(&text);
        assert!(errors.iter().all(|error| error.starts_with("t.txt:")), "{errors:?}");
    }
    assert!(parse_text("t.txt", "stray\n").is_err());
}
