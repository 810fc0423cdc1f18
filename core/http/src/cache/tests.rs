//! The law, case by case.

use super::status::{CacheStatus, Forwarded};
use super::*;
use crate::response::ResponseHead;
use crate::{Method, RequestHead};

const NOW_S: u64 = 1_700_000_000;

/// A response with these lines.
fn response(status: u16, lines: &str) -> (String, ResponseHead) {
    let text = format!("HTTP/1.1 {status} X\r\n{}\r\n", lines.replace('\n', "\r\n"));
    let mut head = ResponseHead::default();
    head.parse(text.as_bytes(), Method::Get).unwrap().unwrap();
    (text, head)
}

fn request(lines: &str) -> (String, RequestHead) {
    let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", lines.replace('\n', "\r\n"));
    let mut head = RequestHead::default();
    head.parse(text.as_bytes(), 100).unwrap().unwrap();
    (text, head)
}

fn fields<'a>(text: &'a str, fields: &'a [Field]) -> Fields<'a> {
    Fields { bytes: text.as_bytes(), fields }
}

fn control(lines: &str) -> ResponseControl {
    let (text, head) = response(200, lines);
    ResponseControl::of(fields(&text, &head.fields))
}

fn validity_of(status: u16, lines: &str, rules: &Rules) -> Validity {
    let (text, head) = response(status, lines);
    let fields = fields(&text, &head.fields);
    Validity::of(status, fields, &ResponseControl::of(fields), rules, NOW_S, NOW_S)
}

fn validity(lines: &str) -> Validity {
    validity_of(200, lines, &Rules::default())
}

fn stored_with(status: u16, request_lines: &str, lines: &str, rules: &Rules) -> Result<(), Unstorable> {
    let (text, head) = response(status, lines);
    let response = fields(&text, &head.fields);
    let (request_text, request_head) = request(request_lines);
    let request_fields = fields(&request_text, &request_head.fields);
    let request = Request {
        method: Method::Get,
        control: RequestControl::of(request_fields),
        has_authorization: request_fields.has("authorization"),
    };
    let control = ResponseControl::of(response);
    let validity = Validity::of(status, response, &control, rules, NOW_S, NOW_S);
    storable(&request, status, response, &control, rules, &validity)
}

fn stored(lines: &str) -> Result<(), Unstorable> {
    stored_with(200, "", lines, &Rules::default())
}

fn date(seconds: u64) -> String {
    let mut out = [0; crate::date::LENGTH];
    crate::date::format(seconds, &mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn directives_are_read_whatever_their_case_and_quotes() {
    assert_eq!(control("Cache-Control: MaX-aGe=60\n").max_age, Some(60));
    assert_eq!(control("Cache-Control: max-age=\"60\"\n").max_age, Some(60));
    assert_eq!(control("Cache-Control: max-age=0060\n").max_age, Some(60));
    assert_eq!(control("Cache-Control: max-age=99999999999999999999\n").max_age, Some(1 << 31));
    for invalid in ["a", "-60", "60a", "1.5", "'60'", "", " 60"] {
        assert_eq!(control(&format!("Cache-Control: max-age={invalid}\n")).max_age, Some(0), "{invalid}");
    }
    assert_eq!(control("Cache-Control: max-age\n").max_age, Some(0));
    assert_eq!(control("Cache-Control: max-age =60\n").max_age, None);
    assert_eq!(control("Cache-Control: max-age=60, max-age=5\nCache-Control: max-age=70\n").max_age, Some(5));
    let other = control("Cache-Control: extension=\"max-age=3600, no-store\", public, foo, =, ,\n");
    assert_eq!((other.max_age, other.no_store, other.public), (None, false, true));
    let all = control(
        "Cache-Control: no-store, no-cache, private, must-revalidate, proxy-revalidate, must-understand\nCache-Control: no-transform, immutable, s-maxage=1, stale-while-revalidate=2, stale-if-error=3\n",
    );
    assert!(all.no_store && all.must_revalidate && all.proxy_revalidate && all.must_understand);
    assert!(all.no_transform && all.immutable && !all.is_targeted);
    assert_eq!((all.no_cache, all.private), (Qualified::All, Qualified::All));
    assert_eq!((all.s_maxage, all.stale_while_revalidate, all.stale_if_error), (Some(1), Some(2), Some(3)));
}

#[test]
fn directives_may_be_about_some_fields() {
    let lines =
        "Cache-Control: max-age=9, no-cache=\"X-User, x-Group\", private=Foo\nX-User: a\nX-Group: b\nFoo: c\nBar: d\n";
    assert_eq!((control(lines).no_cache, control(lines).private), (Qualified::Fields, Qualified::Fields));
    assert_eq!(control("Cache-Control: private=\"a\", private\n").private, Qualified::All);
    assert_eq!(control("Cache-Control: private, private=\"a\"\n").private, Qualified::All);
    assert_eq!(control("Cache-Control: no-cache=\"\"\n").no_cache, Qualified::All);
    assert_eq!(stored(lines), Ok(()));
    let (text, head) = response(200, lines);
    let kept: Vec<&str> = ["x-user", "X-Group", "foo", "bar"]
        .into_iter()
        .filter(|name| merge::is_kept(fields(&text, &head.fields), name.as_bytes()))
        .collect();
    assert_eq!(kept, ["bar"]);
}

#[test]
fn a_targeted_field_stands_for_the_others() {
    let lines = "CDN-Cache-Control: max-age=60\nCache-Control: no-store\nExpires: 0\n";
    assert_eq!(validity(lines).lifetime_s, 60);
    assert_eq!(stored(lines), Ok(()));
    assert_eq!(stored("CDN-Cache-Control: no-store\nCache-Control: max-age=60\n"), Err(Unstorable::NoStore));
    assert_eq!(stored("CDN-Cache-Control: must-revalidate\nCache-Control: max-age=60\n"), Err(Unstorable::NoLifetime));
    // What is no dictionary is as if it were not there.
    for invalid in ["max-age=60,,", "max-age=\"a", "&", "max-age=6 0", "1a=2", ""] {
        let control = control(&format!("CDN-Cache-Control: {invalid}\nCache-Control: max-age=7\n"));
        assert_eq!(control.max_age, Some(7), "{invalid}");
    }
    assert_eq!(control("CDN-Cache-Control: max-age=\"60\", s-maxage=5;a=1\n").max_age, None);
    assert_eq!(control("CDN-Cache-Control: s-maxage=5;a=1\n").s_maxage, Some(5));
    assert_eq!(control("Surrogate-Control: max-age=60;other, max-age=7\nCache-Control: max-age=1\n").max_age, Some(7));
    assert_eq!(control("Surrogate-Control: max-age=60;sumun\n").max_age, Some(60));
    assert_eq!(control("Surrogate-Control: max-age=600+30\n").max_age, Some(600));
    let esi = "Surrogate-Control: content=\"ESI/1.0\"\nCache-Control: private, max-age=60\n";
    assert_eq!(stored(esi), Err(Unstorable::Private));
}

#[test]
fn lifetimes_in_the_order_of_their_rank() {
    assert_eq!(validity("Cache-Control: max-age=60, s-maxage=5\n").lifetime_s, 5);
    assert_eq!(validity("Cache-Control: s-maxage=5\nCache-Control: max-age=0\n").lifetime_s, 5);
    let expires = format!("Date: {}\nExpires: {}\n", date(NOW_S), date(NOW_S + 100));
    assert_eq!(validity(&expires).lifetime_s, 100);
    assert_eq!(validity(&format!("{expires}Cache-Control: max-age=0\n")).lifetime_s, 0);
    assert_eq!(validity(&format!("Expires: {}\n", date(NOW_S + 100))).lifetime_s, 100);
    for invalid in ["0", "-1", "yesterday", ""] {
        assert_eq!(validity(&format!("Expires: {invalid}\n")).lifetime_s, 0, "{invalid}");
    }
    assert_eq!(validity(&format!("{expires}Expires: {}\n", date(NOW_S + 100))).lifetime_s, 0, "two of them");
    let rules = Rules { default_ttl: Some(9), negative_ttl: Some(3), negative_most: Some(10), ..Rules::default() };
    assert_eq!(validity_of(200, "", &rules).lifetime_s, 9);
    assert_eq!(validity_of(200, "Cache-Control: max-age=2\n", &rules).lifetime_s, 2);
    assert_eq!(validity_of(404, "", &rules).lifetime_s, 3);
    assert_eq!(validity_of(404, "Cache-Control: max-age=100\n", &rules).lifetime_s, 10);
    let forced = Rules { ttl: Some(50), ..rules };
    assert_eq!(validity_of(200, "Cache-Control: no-cache, max-age=2\n", &forced).use_now(NOW_S), Use::Fresh);
    assert_eq!(validity_of(500, "Cache-Control: max-age=2\n", &forced).lifetime_s, 2);
}

#[test]
fn age_is_counted_from_where_it_began() {
    assert_eq!(validity("Cache-Control: max-age=60\nAge: 20\n").age_s(NOW_S + 5), 25);
    assert_eq!(validity("Cache-Control: max-age=60\nAge: 20\n").ttl_s(NOW_S + 5), 35);
    let old = format!("Cache-Control: max-age=60\nDate: {}\n", date(NOW_S - 30));
    assert_eq!(validity(&old).age_s(NOW_S), 30);
    let ahead = format!("Cache-Control: max-age=60\nDate: {}\n", date(NOW_S + 3000));
    assert_eq!(validity(&ahead).age_s(NOW_S), 0);
    // RFC 9111 section 5.1: what is no number is passed over, of several the first counts.
    for (age, seconds) in [("abc", 0), ("-7200", 0), ("0.5", 0), ("0;a=b", 0), ("", 0), ("1, 2", 1), ("3\nAge: 50", 3)]
    {
        assert_eq!(validity(&format!("Cache-Control: max-age=60\nAge: {age}\n")).age_s(NOW_S), seconds, "{age}");
    }
    let (text, head) = response(200, "Cache-Control: max-age=60\nAge: 1\n");
    let fields = fields(&text, &head.fields);
    let slow = Validity::of(200, fields, &ResponseControl::of(fields), &Rules::default(), NOW_S - 4, NOW_S);
    assert_eq!(slow.age_s(NOW_S), 5, "the time that the answer took");
}

#[test]
fn stale_ones_are_good_for_some_things() {
    let both = validity("Cache-Control: max-age=10, stale-while-revalidate=5, stale-if-error=20\n");
    let uses: Vec<Use> = [9, 10, 14, 15].into_iter().map(|after| both.use_now(NOW_S + after)).collect();
    assert_eq!(uses, [Use::Fresh, Use::WhileRevalidating, Use::WhileRevalidating, Use::Revalidate]);
    assert!(both.covers_errors(NOW_S + 29) && !both.covers_errors(NOW_S + 30));
    for strict in ["must-revalidate", "proxy-revalidate", "s-maxage=10", "no-cache"] {
        let strict =
            validity(&format!("Cache-Control: max-age=10, stale-while-revalidate=5, stale-if-error=20, {strict}\n"));
        assert_eq!(strict.use_now(NOW_S + 11), Use::Revalidate);
        assert!(!strict.covers_errors(NOW_S + 11));
    }
    assert_eq!(validity("Cache-Control: no-cache, max-age=60\n").use_now(NOW_S), Use::Revalidate);
    let mut purged = both;
    purged.expire(NOW_S + 3);
    assert_eq!(purged.use_now(NOW_S + 3), Use::WhileRevalidating);
    assert!(purged.covers_errors(NOW_S + 20) && !purged.covers_errors(NOW_S + 23));
    let once = purged;
    purged.expire(NOW_S + 9);
    assert_eq!(purged, once, "once stale it does not become younger");
    let mut hour = validity("Cache-Control: max-age=3600, stale-if-error=60\n");
    hour.expire(NOW_S + 1000);
    assert_eq!(hour.use_now(NOW_S + 999), Use::Revalidate, "the clock of another worker may be behind");
    assert!(hour.covers_errors(NOW_S + 1059) && !hour.covers_errors(NOW_S + 1060));
}

#[test]
fn what_is_for_one_is_kept_for_nobody() {
    let fresh = "Cache-Control: max-age=60\n";
    assert_eq!(stored(fresh), Ok(()));
    assert_eq!(stored("Cache-Control: nO-sToRe, max-age=60\n"), Err(Unstorable::NoStore));
    assert_eq!(stored("Cache-Control: private, max-age=60\n"), Err(Unstorable::Private));
    assert_eq!(stored(&format!("{fresh}Set-Cookie: a=b\n")), Err(Unstorable::SetCookie));
    let cookies = Rules { stores_set_cookie: true, ..Rules::default() };
    assert_eq!(stored_with(200, "", &format!("{fresh}Set-Cookie: a=b\n"), &cookies), Ok(()));
    let login = "Authorization: Basic eA==\n";
    assert_eq!(stored_with(200, login, fresh, &Rules::default()), Err(Unstorable::Authorization));
    for allowed in ["public", "must-revalidate", "s-maxage=60"] {
        let lines = format!("Cache-Control: max-age=60, {allowed}\n");
        assert_eq!(stored_with(200, login, &lines, &Rules::default()), Ok(()), "{allowed}");
    }
    assert_eq!(
        stored_with(200, "Cache-Control: no-store\n", fresh, &Rules::default()),
        Err(Unstorable::RequestNoStore)
    );
    for any in ["*", "*, *", ", *", "*, Foo", "Foo, *", "Foo\nVary: *"] {
        assert_eq!(stored(&format!("{fresh}Vary: {any}\n")), Err(Unstorable::VaryAny), "{any}");
    }
}

#[test]
fn what_says_nothing_is_not_kept() {
    assert_eq!(stored(""), Err(Unstorable::NoLifetime));
    assert_eq!(stored("Cache-Control: max-age=0\n"), Err(Unstorable::NoLifetime));
    assert_eq!(stored("Cache-Control: no-cache, max-age=60\n"), Err(Unstorable::NoLifetime));
    assert_eq!(stored("Cache-Control: no-cache\nETag: \"a\"\n"), Ok(()), "the server can be asked");
    assert_eq!(stored(&format!("Last-Modified: {}\n", date(0))), Ok(()));
    assert_eq!(stored_with(404, "", "ETag: \"a\"\n", &Rules::default()), Err(Unstorable::NoLifetime));
    for status in [200, 203, 204, 299, 301, 302, 303, 307, 308, 400, 404, 410, 499, 500, 502, 503, 504, 599] {
        assert_eq!(stored_with(status, "", "Cache-Control: max-age=60\n", &Rules::default()), Ok(()), "{status}");
    }
    for status in [206, 304] {
        let not = stored_with(status, "", "Cache-Control: max-age=60\n", &Rules::default());
        assert_eq!(not, Err(Unstorable::Status), "{status}");
    }
    let understood = "Cache-Control: max-age=60, no-store, must-understand\n";
    assert_eq!(stored_with(200, "", understood, &Rules::default()), Ok(()));
    assert_eq!(stored_with(599, "", understood, &Rules::default()), Err(Unstorable::Status));
}

#[test]
fn requests_are_alike_where_what_varies_is() {
    let selection = |vary: &str, lines: &str| {
        let (text, head) = response(200, &format!("Vary: {vary}\n"));
        let (request_text, request_head) = request(lines);
        let mut out = Vec::new();
        let names = vary::names(fields(&text, &head.fields));
        vary::write_selection(fields(&request_text, &request_head.fields), &names, &mut out);
        out
    };
    let alike = |vary: &str, one: &str, other: &str| selection(vary, one) == selection(vary, other);
    assert!(alike("Foo", "Foo: 1\n", "fOO: 1\nBar: 2\n"));
    assert!(!alike("Foo", "Foo: 1\n", "Foo: 2\n"));
    assert!(!alike("Foo", "Foo: 1\n", ""));
    assert!(!alike("Foo", "Foo: \n", ""), "an empty one is not none");
    assert!(alike("Foo, Bar", "Foo: 1\n", "Foo: 1\n"));
    assert!(!alike("Foo, Bar", "Foo: 1\n", "Bar: 1\n"));
    assert!(alike("Foo", "Foo: 1\nFoo: 2\n", "Foo: 1, 2\n"));
    assert!(alike("Foo", "Foo: 1,  2\n", "Foo: 1,2\n"));
    assert!(!alike("Foo", "Foo: a b\n", "Foo: ab\n"));
    assert!(!alike("Foo", "Foo: \"a, b\"\n", "Foo: \"a,b\"\n"), "what is quoted is as it is");
    assert!(alike("Accept-Language", "Accept-Language: en, de\n", "Accept-Language: DE,en\n"));
    assert!(!alike("Accept-Language", "Accept-Language: en, de;q=0.5\n", "Accept-Language: en;q=0.5, de\n"));
    assert!(alike("Accept-Encoding", "Accept-Encoding: gzip;q=1.0, br\n", "Accept-Encoding: br, gzip; q=1.0\n"));
    assert!(!alike("Cookie", "Cookie: a=B\n", "Cookie: a=b\n"));
    let (text, head) = response(200, "Vary: foo, Bar\nVary: FOO\n");
    assert_eq!(vary::names(fields(&text, &head.fields)), b"bar,foo");
}

#[test]
fn queries_are_alike_where_what_counts_is() {
    let rules = |value: &str| query::QueryRules::parse(value.as_bytes());
    let written = |rules: &query::QueryRules, query: &str| {
        let mut out = Vec::new();
        rules.write(query.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    };
    let order = rules("key-order").unwrap();
    assert_eq!(written(&order, "b=1&a=2&b=0"), "?a=2&b=1&b=0");
    let but = rules("params=(\"utm_source\" \"x\")").unwrap();
    assert_eq!(written(&but, "utm_source=1&a=2&x"), "?a=2");
    assert_eq!(written(&but, "utm%5fsource=1&a=2&%78=3"), "?a=2", "escaped it is the same name");
    assert_eq!(rules("params=(\"utm%5Fsource\" \"x\")"), Some(but), "names are written as in queries");
    assert_eq!(written(&rules("params, except=(\"id\")").unwrap(), "a=1&id=2&b"), "?id=2");
    assert_eq!(written(&rules("params").unwrap(), "a=1"), "");
    for nothing in ["", "key-order=?0", "foo", "params=a", "except=(\"a\")", "params=(a)", "key-order=1"] {
        assert_eq!(rules(nothing), None, "{nothing}");
    }
    assert_eq!(written(&query::QueryRules::default(), "b&a"), "?b&a");
    assert_eq!(written(&query::QueryRules::default(), ""), "");
}

#[test]
fn a_later_answer_replaces_what_is_not_of_the_bytes() {
    let (text, head) = response(304, "Connection: X-Hop\nX-Hop: 1\nETag: \"b\"\n");
    let newer = fields(&text, &head.fields);
    for kept in
        ["content-encoding", "content-range", "content-length", "etag", "x-hop", "set-cookie", "age", "Connection"]
    {
        assert!(!merge::is_updated(newer, kept.as_bytes()), "{kept}");
    }
    for replaced in ["cache-control", "expires", "content-type", "x-foo", "Last-Modified", "date"] {
        assert!(merge::is_updated(newer, replaced.as_bytes()), "{replaced}");
    }
}

#[test]
fn changes_make_what_they_name_invalid() {
    assert!(invalidates(Method::Post, 200) && invalidates(Method::Delete, 204) && invalidates(Method::Put, 303));
    assert!(!invalidates(Method::Post, 404) && !invalidates(Method::Get, 200) && !invalidates(Method::Head, 200));
    let path = |reference: &str| {
        same_origin_path(reference.as_bytes(), "https", b"shop.example", b"/a/b?c")
            .map(|path| String::from_utf8(path).unwrap())
    };
    assert_eq!(path("/x?y#z").as_deref(), Some("/x?y"));
    assert_eq!(path("x").as_deref(), Some("/a/x"));
    assert_eq!(path("?x").as_deref(), Some("/a/b?x"));
    assert_eq!(path("https://Shop.example/x").as_deref(), Some("/x"));
    assert_eq!(path("https://shop.example?q").as_deref(), Some("/?q"));
    assert_eq!(path("//shop.example").as_deref(), Some("/"));
    for other in ["https://other.example/x", "http://shop.example/x", "//other/x", "", "#x"] {
        assert_eq!(path(other), None, "{other}");
    }
}

#[test]
fn the_client_is_told() {
    let text = |status: CacheStatus| {
        let mut out = Vec::new();
        status.write(&mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(text(CacheStatus::Hit { ttl_s: -3 }), "sumun; hit; ttl=-3");
    let miss = CacheStatus::Forwarded { why: Forwarded::UriMiss, status: None, stored: Ok(()), collapsed: true };
    assert_eq!(text(miss), "sumun; fwd=uri-miss; stored; collapsed");
    let not = Err(Unstorable::Private);
    let stale = CacheStatus::Forwarded { why: Forwarded::Stale, status: Some(304), stored: not, collapsed: false };
    assert_eq!(text(stale), "sumun; fwd=stale; fwd-status=304; detail=private");
}

proptest::proptest! {
    /// Whatever a server or a client writes into these fields, nothing panics, and what is not stored by one
    /// reading is not stored by the other order of lines.
    #[test]
    fn anything_may_be_written(values in proptest::collection::vec("[ -~]{0,40}", 7)) {
        let names = ["Cache-Control", "CDN-Cache-Control", "Surrogate-Control", "Expires", "Age", "Vary", "No-Vary-Search"];
        let lines: String = names.iter().zip(&values).map(|(name, value)| format!("{name}: {value}\n")).collect();
        let backwards: String = names.iter().zip(&values).rev().map(|(name, value)| format!("{name}: {value}\n")).collect();
        proptest::prop_assert_eq!(stored(&lines), stored(&backwards));
        let (text, head) = response(200, &lines);
        let response = fields(&text, &head.fields);
        if let Some(rules) = query::QueryRules::parse(values[6].as_bytes()) {
            rules.write(values[0].as_bytes(), &mut Vec::new());
        }
        let mut out = Vec::new();
        vary::write_selection(response, &vary::names(response), &mut out);
        drop(same_origin_path(values[0].as_bytes(), "http", values[1].as_bytes(), values[2].as_bytes()));
    }
}

#[test]
fn what_nobody_says_is_guessed_where_it_may_be() {
    let guess = Rules { is_heuristic: true, ..Rules::default() };
    let changed = |ago_s: u64| format!("Date: {}\nLast-Modified: {}\n", date(NOW_S), date(NOW_S - ago_s));
    assert_eq!(validity_of(200, &changed(1000), &Rules::default()).lifetime_s, 0);
    assert_eq!(validity_of(200, &changed(1000), &guess).lifetime_s, 100);
    assert_eq!(validity_of(404, &changed(1000), &guess).lifetime_s, 100);
    assert_eq!(validity_of(200, &changed(100 * 86_400), &guess).lifetime_s, 86_400);
    assert_eq!(validity_of(302, &changed(1000), &guess).lifetime_s, 0);
    assert_eq!(validity_of(302, &format!("{}Cache-Control: public\n", changed(1000)), &guess).lifetime_s, 100);
    assert_eq!(validity_of(200, &format!("{}Cache-Control: max-age=3\n", changed(1000)), &guess).lifetime_s, 3);
}

#[test]
fn dates_are_read_in_any_case_and_with_any_day_of_the_week() {
    let usual = date(NOW_S + 50);
    let (_, behind) = usual.split_once(',').unwrap();
    let wrong_day = format!("{},{behind}", if usual.starts_with("Mon") { "Tue" } else { "Mon" });
    for expires in [usual.to_ascii_lowercase(), usual.to_ascii_uppercase(), wrong_day] {
        let said = format!("Date: {}\nExpires: {expires}\n", date(NOW_S));
        assert_eq!(validity(&said).lifetime_s, 50, "{expires}");
    }
}
