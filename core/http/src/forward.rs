//! Writing the head that goes on: hop-by-hop fields out, what the gateway adds in.

pub use crate::edits::Edits;
use crate::edits::write_line;
use crate::field::{Field, Known, Span, is_same_name};
use crate::request::{RequestHead, Version};
use crate::response::ResponseHead;

/// How the body goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No field: no body, or one that ends with the connection.
    Silent,
    Length(u64),
    Chunked,
}

/// What a request looks like to the server behind.
#[derive(Debug)]
pub struct RequestPlan<'a> {
    /// Normalised path with its query: the target.
    pub path: &'a [u8],
    pub query: Option<&'a [u8]>,
    pub host: &'a [u8],
    /// Who asked: `X-Forwarded-Host` and `Forwarded` name the host the client saw.
    pub client_host: &'a [u8],
    /// The client's address as it stands in `X-Forwarded-For`.
    pub client: &'a [u8],
    /// The same as a `for=` value of RFC 7239 (IPv6 in quotes and brackets).
    pub client_node: &'a [u8],
    /// `http` or `https`.
    pub scheme: &'a [u8],
    /// Incoming forwarding fields are believed and extended, not replaced.
    pub trusted: bool,
    /// Name and value of the request id.
    pub request_id: (&'a [u8], &'a [u8]),
    /// Name and value of the field that says who the client has proved to be. Others of that name
    /// were taken out before ([`RequestHead::take_out`]).
    pub client_subject: Option<(&'a [u8], &'a [u8])>,
    /// This gateway's element of `CDN-Loop` (RFC 8586).
    pub loop_id: &'a [u8],
    pub framing: Framing,
    pub websocket: bool,
    /// The key of a WebSocket that was asked for without one (RFC 8441 section 5).
    pub websocket_key: Option<&'a [u8]>,
    /// The client takes trailers, and a server of HTTP/2 is to know that (RFC 9113 section 8.2.2);
    /// `Connection` says nothing of it.
    pub te_trailers: bool,
    pub expect_continue: bool,
    pub max_forwards: Option<u64>,
    pub edits: &'a Edits,
}

const fn set_of(names: &[Known]) -> u64 {
    let mut bits = 0;
    let mut index = 0;
    while index < names.len() {
        bits |= 1 << names[index] as u8;
        index += 1;
    }
    bits
}

/// Never copied: hop-by-hop (RFC 9110 section 7.6.1) or written anew.
const REQUEST_DROPPED: u64 = set_of(&[
    Known::Host,
    Known::Connection,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::Te,
    Known::Trailer,
    Known::Upgrade,
    Known::TransferEncoding,
    Known::ContentLength,
    Known::Expect,
    Known::Via,
    Known::CdnLoop,
    Known::MaxForwards,
    Known::ProxyAuthorization,
    Known::Forwarded,
    Known::XForwardedFor,
    Known::XForwardedHost,
    Known::XForwardedProto,
]);

/// Written anew, unless a route's edits replace them; so is the request id.
const REQUEST_OWN: u64 = set_of(&[
    Known::XForwardedFor,
    Known::XForwardedProto,
    Known::XForwardedHost,
    Known::Forwarded,
    Known::Via,
    Known::MaxForwards,
]);

/// Believed from trusted proxies only.
const REQUEST_UNTRUSTED: u64 = set_of(&[Known::XRealIp, Known::XForwardedPort]);

const RESPONSE_DROPPED: u64 = set_of(&[
    Known::Connection,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::Te,
    Known::Trailer,
    Known::Upgrade,
    Known::TransferEncoding,
    Known::ContentLength,
]);

/// Appends the head of the request for the server. `bytes` is the head that `head` was parsed from.
pub fn write_request(output: &mut Vec<u8>, head: &RequestHead, bytes: &[u8], plan: &RequestPlan<'_>) {
    output.extend_from_slice(head.method.as_str().as_bytes());
    output.push(b' ');
    output.extend_from_slice(plan.path);
    if let Some(query) = plan.query {
        output.push(b'?');
        output.extend_from_slice(query);
    }
    output.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    output.extend_from_slice(plan.host);
    output.extend_from_slice(b"\r\n");

    let mut dropped = REQUEST_DROPPED | plan.edits.known();
    if !plan.trusted {
        dropped |= REQUEST_UNTRUSTED;
    }
    if plan.websocket_key.is_some() {
        dropped |= 1 << Known::SecWebSocketKey as u8;
    }
    let id_name = plan.request_id.0;
    let id_known = Known::alike(id_name);
    if id_known != Known::Other {
        dropped |= 1 << id_known as u8;
    }
    copy_fields(output, &head.fields, bytes, |field| {
        if field.known != Known::Other {
            return dropped & 1 << field.known as u8 != 0;
        }
        let name = field.name.of_bytes(bytes);
        is_nominated(&head.nominated, bytes, name)
            || poses_as(name, dropped)
            || (id_known == Known::Other && is_same_name(name, id_name))
            || plan.edits.drops_other(name)
    });
    let own = output.len();
    write_forwarding(output, head, bytes, plan);
    // Few routes edit what the gateway writes itself: they pay for it, the others for one look.
    if plan.edits.known() & REQUEST_OWN != 0
        || plan.edits.drops(id_name)
        || plan.client_subject.is_some_and(|(name, _)| plan.edits.drops(name))
    {
        plan.edits.take_out(output, own);
    }
    write_connection(output, plan);
    plan.edits.write(output);
    output.extend_from_slice(b"\r\n");
}

/// `X-Forwarded-*`, `Forwarded` (RFC 7239), `Via` (RFC 9110 section 7.6.3), `CDN-Loop` (RFC 8586),
/// the request id and `Max-Forwards` (RFC 9110 section 7.6.2).
fn write_forwarding(output: &mut Vec<u8>, head: &RequestHead, bytes: &[u8], plan: &RequestPlan<'_>) {
    let before = |known: Known| if plan.trusted { head.known(bytes, known) } else { None };

    output.extend_from_slice(b"X-Forwarded-For: ");
    extend_list(output, head, bytes, Known::XForwardedFor, plan.trusted);
    output.extend_from_slice(plan.client);
    output.extend_from_slice(b"\r\nX-Forwarded-Proto: ");
    output.extend_from_slice(before(Known::XForwardedProto).unwrap_or(plan.scheme));
    if !plan.client_host.is_empty() {
        output.extend_from_slice(b"\r\nX-Forwarded-Host: ");
        output.extend_from_slice(before(Known::XForwardedHost).unwrap_or(plan.client_host));
    }
    output.extend_from_slice(b"\r\nForwarded: ");
    extend_list(output, head, bytes, Known::Forwarded, plan.trusted);
    output.extend_from_slice(b"for=");
    output.extend_from_slice(plan.client_node);
    if !plan.client_host.is_empty() {
        // A host may hold a colon, which is no token (RFC 7239 section 4).
        output.extend_from_slice(b";host=\"");
        output.extend_from_slice(plan.client_host);
        output.push(b'"');
    }
    output.extend_from_slice(b";proto=");
    output.extend_from_slice(plan.scheme);
    output.extend_from_slice(b"\r\nVia: ");
    extend_list(output, head, bytes, Known::Via, true);
    output.extend_from_slice(match head.version {
        Version::Http10 => b"1.0 sumun\r\nCDN-Loop: ",
        Version::Http11 => b"1.1 sumun\r\nCDN-Loop: ",
        Version::Http2 => b"2.0 sumun\r\nCDN-Loop: ",
    });
    extend_list(output, head, bytes, Known::CdnLoop, true);
    output.extend_from_slice(plan.loop_id);
    output.extend_from_slice(b"\r\n");
    write_line(output, plan.request_id.0, plan.request_id.1);
    if let Some((name, subject)) = plan.client_subject {
        write_line(output, name, subject);
    }
    if let Some(hops) = plan.max_forwards {
        output.extend_from_slice(b"Max-Forwards: ");
        output.extend_from_slice(itoa::Buffer::new().format(hops).as_bytes());
        output.extend_from_slice(b"\r\n");
    }
}

/// Values of a list field that came in, each followed by a comma.
fn extend_list(output: &mut Vec<u8>, head: &RequestHead, bytes: &[u8], known: Known, believed: bool) {
    if !believed || !head.has(known) {
        return;
    }
    for field in head.fields.iter().filter(|field| field.known == known) {
        let value = field.value.of_bytes(bytes);
        if !value.is_empty() {
            output.extend_from_slice(value);
            output.extend_from_slice(b", ");
        }
    }
}

fn write_connection(output: &mut Vec<u8>, plan: &RequestPlan<'_>) {
    match plan.framing {
        Framing::Silent => {}
        Framing::Length(length) => content_length(output, length),
        Framing::Chunked => output.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
    if plan.websocket {
        output.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
    }
    if let Some(key) = plan.websocket_key {
        write_line(output, b"Sec-WebSocket-Key", key);
    }
    if plan.te_trailers {
        output.extend_from_slice(b"TE: trailers\r\n");
    }
    if plan.expect_continue {
        output.extend_from_slice(b"Expect: 100-continue\r\n");
    }
}

/// What a response looks like to the client.
#[derive(Debug)]
pub struct ResponsePlan<'a> {
    pub framing: Framing,
    pub connection: ConnectionLine,
    /// An IMF-fixdate, written when the server sent none (RFC 9110 section 6.6.1).
    pub date: &'a [u8],
    /// A `Set-Cookie` value of the gateway's own (sticky sessions).
    pub cookie: Option<&'a [u8]>,
    /// Whole field lines that are written whatever the edits say, such as the cookie of a waiting room:
    /// without it the visitor would be back at the end of the queue with the next request.
    pub own_fields: &'a [u8],
    /// Value of `Strict-Transport-Security` (RFC 6797); takes the place of what the server says.
    pub hsts: Option<&'a [u8]>,
    pub edits: &'a Edits,
}

/// RFC 6797 section 6.1.
const HSTS: &[u8] = b"Strict-Transport-Security";

/// What the client is told about the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionLine {
    /// The version's default holds.
    Silent,
    Close,
    /// A 1.0 client asked for it.
    KeepAlive,
    Websocket,
}

impl ConnectionLine {
    /// Says whether the connection is kept to a client of this version (RFC 9112 section 9.3).
    #[must_use]
    pub fn of(keep_alive: bool, client: Version) -> Self {
        match (keep_alive, client) {
            (false, _) => Self::Close,
            (true, Version::Http10) => Self::KeepAlive,
            (true, Version::Http11 | Version::Http2) => Self::Silent,
        }
    }
}

/// Appends the head of the response for the client. `bytes` is the head `head` was parsed from.
pub fn write_response(output: &mut Vec<u8>, head: &ResponseHead, bytes: &[u8], plan: &ResponsePlan<'_>) {
    output.extend_from_slice(b"HTTP/1.1 ");
    output.extend_from_slice(itoa::Buffer::new().format(head.status).as_bytes());
    output.push(b' ');
    output.extend_from_slice(head.reason.of_bytes(bytes));
    output.extend_from_slice(b"\r\n");
    let dropped = RESPONSE_DROPPED | plan.edits.known();
    copy_fields(output, &head.fields, bytes, |field| {
        if field.known != Known::Other {
            return dropped & 1 << field.known as u8 != 0;
        }
        let name = field.name.of_bytes(bytes);
        is_nominated(&head.nominated, bytes, name)
            || plan.edits.drops(name)
            || (plan.hsts.is_some() && name.eq_ignore_ascii_case(HSTS))
    });
    if !head.has(Known::Date) && head.status >= 200 && !plan.edits.replaces(Known::Date) {
        write_line(output, b"Date", plan.date);
    }
    if let Some(cookie) = plan.cookie
        && !plan.edits.replaces(Known::SetCookie)
    {
        write_line(output, b"Set-Cookie", cookie);
    }
    output.extend_from_slice(plan.own_fields);
    write_hsts(output, plan.hsts, plan.edits);
    match plan.framing {
        Framing::Silent => {}
        Framing::Length(length) => content_length(output, length),
        Framing::Chunked => output.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
    write_connection_line(output, plan.connection);
    plan.edits.write(output);
    output.extend_from_slice(b"\r\n");
}

/// Appends `Strict-Transport-Security`, unless the edits say otherwise.
pub fn write_hsts(output: &mut Vec<u8>, value: Option<&[u8]>, edits: &Edits) {
    if let Some(value) = value
        && !edits.drops(HSTS)
    {
        write_line(output, HSTS, value);
    }
}

/// Appends `Connection` as `connection` says.
pub fn write_connection_line(output: &mut Vec<u8>, connection: ConnectionLine) {
    output.extend_from_slice(match connection {
        ConnectionLine::Silent => b"",
        ConnectionLine::Close => b"Connection: close\r\n",
        ConnectionLine::KeepAlive => b"Connection: keep-alive\r\n",
        ConnectionLine::Websocket => b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    });
}

/// Copies the lines of all fields that are not dropped, neighbours in one piece.
fn copy_fields(output: &mut Vec<u8>, fields: &[Field], bytes: &[u8], dropped: impl Fn(&Field) -> bool) {
    let section_end = bytes.len().saturating_sub(2) as u32;
    let mut run: Option<Span> = None;
    for (index, field) in fields.iter().enumerate() {
        let end = fields.get(index + 1).map_or(section_end, |next| next.name.start);
        if dropped(field) {
            if let Some(span) = run.take() {
                output.extend_from_slice(span.of_bytes(bytes));
            }
        } else {
            let start = run.map_or(field.name.start, |span| span.start);
            run = Some(Span { start, end });
        }
    }
    if let Some(span) = run {
        output.extend_from_slice(span.of_bytes(bytes));
    }
}

fn is_nominated(nominated: &[Span], bytes: &[u8], name: &[u8]) -> bool {
    nominated.iter().any(|span| span.of_bytes(bytes).eq_ignore_ascii_case(name))
}

/// CGI-like servers read `X_Forwarded_For` as `X-Forwarded-For`, some `X.Forwarded.For`, too: a name
/// with such signs whose hyphenated twin the gateway owns would be believed as ours.
fn poses_as(name: &[u8], owned: u64) -> bool {
    // All of it is looked at, without a branch for each byte: nearly every name is as it should be.
    let is_odd = |byte: &u8| !byte.is_ascii_alphanumeric() & (*byte != b'-');
    if !name.iter().fold(false, |odd, byte| odd | is_odd(byte)) {
        return false;
    }
    let known = Known::alike(name);
    known != Known::Other && owned & 1 << known as u8 != 0
}

fn content_length(output: &mut Vec<u8>, length: u64) {
    output.extend_from_slice(b"Content-Length: ");
    output.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    output.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Method;

    fn plan(edits: &Edits) -> RequestPlan<'_> {
        RequestPlan {
            path: b"/p",
            query: None,
            host: b"h",
            client_host: b"h",
            client: b"192.0.2.1",
            client_node: b"192.0.2.1",
            scheme: b"http",
            trusted: false,
            request_id: (b"X-Request-Id", b"id1"),
            client_subject: None,
            loop_id: b"sumun-1",
            framing: Framing::Silent,
            websocket: false,
            websocket_key: None,
            te_trailers: false,
            expect_continue: false,
            max_forwards: Some(2),
            edits,
        }
    }

    fn forward(text: &str, trusted: bool, edits: &Edits) -> String {
        forward_as(b"X-Request-Id", text, trusted, edits)
    }

    fn forward_as(id_name: &[u8], text: &str, trusted: bool, edits: &Edits) -> String {
        let mut head = RequestHead::default();
        head.parse(text.as_bytes(), 100).unwrap();
        let mut output = Vec::new();
        let plan = RequestPlan { trusted, request_id: (id_name, b"id1"), ..plan(edits) };
        write_request(&mut output, &head, text.as_bytes(), &plan);
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn hop_by_hop_fields_stay_here() {
        let out = forward(
            "GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nConnection: close, x-drop\r\nX-Drop: 1\r\nTE: trailers\r\nKeep-Alive: 1\r\nUpgrade: h2c\r\nB:  2 \r\n\r\n",
            false,
            &Edits::default(),
        );
        assert!(
            out.starts_with("GET /p HTTP/1.1\r\nHost: h\r\nA: 1\r\nB:  2 \r\nX-Forwarded-For: 192.0.2.1\r\n"),
            "{out}"
        );
        for gone in ["Connection", "X-Drop", "TE:", "Keep-Alive", "Upgrade"] {
            assert!(!out.contains(gone), "{gone} in {out}");
        }
        assert!(out.ends_with("CDN-Loop: sumun-1\r\nX-Request-Id: id1\r\nMax-Forwards: 2\r\n\r\n"), "{out}");
    }

    #[test]
    fn forged_forwarding_fields_are_replaced_unless_trusted() {
        let text = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nx_forwarded_for: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Forwarded-Proto: https\r\n\r\n";
        let out = forward(text, false, &Edits::default());
        assert!(!out.contains("6.6.6.6") && !out.contains("https"), "{out}");
        let out = forward(text, true, &Edits::default());
        assert!(out.contains("X-Forwarded-For: 6.6.6.6, 192.0.2.1\r\n"), "{out}");
        assert!(out.contains("Forwarded: for=6.6.6.6, for=192.0.2.1;"), "{out}");
        assert!(out.contains("X-Forwarded-Proto: https\r\n"), "{out}");
        assert!(!out.contains("x_forwarded_for"), "{out}");
    }

    fn edits(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> Edits {
        let owned =
            |pairs: &[(&str, &str)]| pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        Edits::new(owned(set), owned(add), remove.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn edits_of_fields_that_came_in() {
        let edits = edits(&[("A", "new"), ("X-Auth-User", "")], &[("C", "3")], &["b", "X-Real-IP"]);
        let text = "GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\nx_auth-user: eve\r\nX-Real-IP: 6\r\nX_Real_IP: 6\r\nC_: 4\r\n\r\n";
        let out = forward(text, true, &edits);
        for gone in ["A: 1", "B: 2", "eve", ": 6"] {
            assert!(!out.contains(gone), "{gone} in {out}");
        }
        assert!(out.contains("C_: 4\r\n"), "{out}");
        assert!(out.ends_with("\r\nA: new\r\nX-Auth-User: \r\nC: 3\r\n\r\n"), "{out}");
    }

    #[test]
    fn edits_of_what_the_gateway_writes() {
        let text =
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: http\r\nX-Forwarded-For: 6.6.6.6\r\nVia: 1.1 a\r\n\r\n";
        let set = [("x-forwarded-proto", "https"), ("Max-Forwards", "7"), ("X_Request_Id", "mine")];
        let edits = edits(&set, &[("X-Forwarded-For", "192.0.2.9")], &["FORWARDED", "Via", "X-Forwarded-Host"]);
        for trusted in [false, true] {
            let out = forward(text, trusted, &edits);
            let before = if trusted { "6.6.6.6, " } else { "" };
            assert_eq!(
                out,
                format!(
                    "GET /p HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: {before}192.0.2.1\r\nCDN-Loop: sumun-1\r\n\
                     x-forwarded-proto: https\r\nMax-Forwards: 7\r\nX_Request_Id: mine\r\n\
                     X-Forwarded-For: 192.0.2.9\r\n\r\n"
                )
            );
        }
    }

    #[test]
    fn each_field_that_the_gateway_writes_can_be_removed() {
        let own = [
            "X-Forwarded-For",
            "X-Forwarded-Proto",
            "X-Forwarded-Host",
            "Forwarded",
            "Via",
            "X-Request-Id",
            "Max-Forwards",
        ];
        for removed in own {
            let out = forward("GET / HTTP/1.1\r\nHost: a\r\n\r\n", false, &edits(&[], &[], &[removed]));
            for name in own {
                assert_eq!(out.contains(&format!("\r\n{name}: ")), name != removed, "{name} in {out}");
            }
        }
    }

    #[test]
    fn a_request_id_of_any_name_is_the_gateways() {
        let text = "GET / HTTP/1.1\r\nHost: a\r\nX-My-Trace: 6\r\nx_my_trace: 6\r\nX-Request-Id: 7\r\n\r\n";
        let out = forward_as(b"X-My-Trace", text, false, &Edits::NONE);
        assert!(!out.contains(": 6") && out.contains("X-Request-Id: 7\r\n"), "{out}");
        assert!(out.ends_with("X-My-Trace: id1\r\nMax-Forwards: 2\r\n\r\n"), "{out}");
        let out = forward_as(b"X_Request_Id", text, false, &Edits::NONE);
        assert!(!out.contains(": 7") && out.ends_with("X_Request_Id: id1\r\nMax-Forwards: 2\r\n\r\n"), "{out}");
        let out = forward_as(b"X-My-Trace", text, false, &edits(&[], &[], &["x-my-trace"]));
        assert!(!out.to_ascii_lowercase().contains("trace"), "{out}");
    }

    fn answer(text: &str, edits: &Edits) -> String {
        let mut head = ResponseHead::default();
        head.parse(text.as_bytes(), Method::Get).unwrap();
        let mut output = Vec::new();
        let plan = ResponsePlan {
            framing: Framing::Length(3),
            connection: ConnectionLine::of(false, Version::Http11),
            date: b"D",
            cookie: Some(b"at=1"),
            own_fields: b"",
            hsts: None,
            edits,
        };
        write_response(&mut output, &head, text.as_bytes(), &plan);
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn responses() {
        let text = "HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nConnection: x-y\r\nX-Y: 1\r\nContent-Length: 3\r\nServer: s\r\n\r\n";
        assert_eq!(
            answer(text, &Edits::NONE),
            "HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nServer: s\r\nDate: D\r\nSet-Cookie: at=1\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn edits_of_responses() {
        let edits = edits(&[("date", "E")], &[("Set-Cookie", "b=2")], &["Server"]);
        let end = "Content-Length: 3\r\nConnection: close\r\ndate: E\r\nSet-Cookie: b=2\r\n\r\n";
        for date in ["", "Date: S\r\n"] {
            let text = format!("HTTP/1.1 200 OK\r\n{date}Server: s\r\nSet-Cookie: c=3\r\nContent-Length: 3\r\n\r\n");
            assert_eq!(
                answer(&text, &edits),
                format!("HTTP/1.1 200 OK\r\nSet-Cookie: c=3\r\nSet-Cookie: at=1\r\n{end}")
            );
        }
        let without = Edits::new(vec![], vec![], vec!["Date".into(), "Set-Cookie".into()]);
        assert_eq!(
            answer("HTTP/1.1 200 OK\r\nSet-Cookie: c=3\r\nContent-Length: 3\r\n\r\n", &without),
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn who_the_client_is_says_the_gateway_alone() {
        let text = "GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nX-Subject: forged\r\nB: 2\r\nx_subject: forged\r\nX-SUBJECT: forged\r\nConnection: x-subject\r\n\r\n";
        let bytes = text.as_bytes();
        let mut head = RequestHead::default();
        head.parse(bytes, 100).unwrap();
        head.take_out(bytes, |name| is_same_name(name, b"X-Subject"));
        assert_eq!(head.values(bytes, b"x-subject").count(), 0);
        let written = |client_subject, edits: &Edits| {
            let mut output = Vec::new();
            let plan = RequestPlan { client_subject, edits, ..plan(edits) };
            write_request(&mut output, &head, bytes, &plan);
            String::from_utf8(output).unwrap()
        };
        let subject = Some((&b"X-Subject"[..], &b"CN=ann"[..]));
        let out = written(None, &Edits::NONE);
        assert!(!out.contains("forged") && !out.to_lowercase().contains("subject"), "{out}");
        assert!(out.contains("\r\nA: 1\r\nB: 2\r\n"), "{out}");
        let out = written(subject, &Edits::NONE);
        assert!(!out.contains("forged") && out.contains("\r\nX-Subject: CN=ann\r\n"), "{out}");
        let out = written(subject, &edits(&[], &[], &["X-Subject"]));
        assert!(!out.to_lowercase().contains("subject"), "{out}");
        let out = written(subject, &edits(&[("X_Subject", "own")], &[], &[]));
        assert!(!out.contains("ann") && out.contains("\r\nX_Subject: own\r\n"), "{out}");
    }

    #[test]
    fn strict_transport_security_is_said_once() {
        let text = "HTTP/1.1 200 OK\r\nDate: D\r\nstrict-transport-security: max-age=1\r\nContent-Length: 3\r\n\r\n";
        let end = "Content-Length: 3\r\nConnection: close\r\n";
        let mut head = ResponseHead::default();
        head.parse(text.as_bytes(), Method::Get).unwrap();
        let written = |hsts, edits: &Edits| {
            let mut output = Vec::new();
            let connection = ConnectionLine::Close;
            let plan = ResponsePlan {
                framing: Framing::Length(3),
                connection,
                date: b"",
                cookie: None,
                own_fields: b"",
                hsts,
                edits,
            };
            write_response(&mut output, &head, text.as_bytes(), &plan);
            String::from_utf8(output).unwrap()
        };
        let start = "HTTP/1.1 200 OK\r\nDate: D\r\n";
        let theirs = "strict-transport-security: max-age=1\r\n";
        assert_eq!(written(None, &Edits::NONE), format!("{start}{theirs}{end}\r\n"));
        let ours = "Strict-Transport-Security: max-age=2\r\n";
        assert_eq!(written(Some(b"max-age=2"), &Edits::NONE), format!("{start}{ours}{end}\r\n"));
        let route = edits(&[("Strict-Transport-Security", "max-age=3")], &[], &[]);
        let routes = "Strict-Transport-Security: max-age=3\r\n";
        assert_eq!(written(Some(b"max-age=2"), &route), format!("{start}{end}{routes}\r\n"));
        assert_eq!(
            written(Some(b"max-age=2"), &edits(&[], &[], &["strict-transport-security"])),
            format!("{start}{end}\r\n")
        );
    }
}
