//! TLS: what the keys mean, and certificates that expire while a test runs.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair};
use sumun_config::checked::*;
use sumun_config::{Probe, check, check_text, load};

/// The listener `web` of a config.
fn listener(text: &str) -> Listener {
    let text = format!("listeners: {{ web: {{ {text}, routes: [ respond: 204 ] }} }}");
    let checked = check_text("test.yaml", &text).unwrap_or_else(|report| panic!("{report}"));
    Listener::clone(&checked.config.listeners["web"])
}

fn pool(text: &str) -> Pool {
    let text =
        format!("pools: {{ app: {{ {text} }} }}\nlisteners: {{ web: {{ bind: ':0', routes: [ proxy: app ] }} }}");
    Pool::clone(&check_text("test.yaml", &text).unwrap_or_else(|report| panic!("{report}")).config.pools["app"])
}

fn here(name: &str) -> PathBuf {
    std::env::current_dir().unwrap().join(name)
}

fn tcp(text: &str) -> BindAddress {
    BindAddress::Tcp(text.parse().unwrap())
}

const CERTS: &str = "certs: { cert: a.pem, key: a.key }";

#[test]
fn defaults() {
    let web = listener(&format!("bind: '127.0.0.1:443', tls: {{ {CERTS} }}"));
    let tls = &web.tls[&tcp("127.0.0.1:443")];
    let files = CertificateFiles { certificate: here("a.pem"), key: here("a.key"), ocsp: None };
    assert_eq!(
        **tls,
        ListenerTls {
            certificates: vec![files],
            acme: Vec::new(),
            min_version: TlsVersion::V1_2,
            client_auth: None,
            is_http: true,
            tickets: true
        }
    );
    assert_eq!((web.redirect_https, web.hsts), (None, None));
    assert!(listener("bind: ':80'").tls.is_empty());

    let web = listener("bind: ':443', tls: { certs: { cert: both.pem, ocsp: a.ocsp }, client_auth: { ca: ca.pem } }");
    let tls = &web.tls[&tcp("[::]:443")];
    let files = CertificateFiles { certificate: here("both.pem"), key: here("both.pem"), ocsp: Some(here("a.ocsp")) };
    assert_eq!(tls.certificates, [files]);
    let auth = ClientAuth { ca: here("ca.pem"), required: true, header: "x-client-subject".to_owned() };
    assert_eq!(tls.client_auth, Some(auth));

    assert_eq!(pool("servers: 'a.example:80'").tls, None);
    assert_eq!(pool("servers: 'a.example:80', tls: off").tls, None);
    let plain = PoolTls { verify: true, ca: None, sni: None, identity: None, min_version: TlsVersion::V1_2 };
    assert_eq!(pool("servers: 'a.example:80', tls: on").tls, Some(plain.clone()));
    assert_eq!(pool("servers: 'a.example:80', tls: {}").tls, Some(plain));
    let tls = pool("servers: 'unix:a.sock', tls: { sni: App.Example, cert: c.pem, min_version: '1.3' }").tls.unwrap();
    assert_eq!((tls.sni.as_deref(), tls.min_version), (Some("app.example"), TlsVersion::V1_3));
    assert_eq!(tls.identity.unwrap().key, here("c.pem"));
    assert!(!pool("servers: 'unix:a.sock', tls: { verify: off }").tls.unwrap().verify);
}

#[test]
fn each_address_has_its_own_or_the_listeners() {
    let web = listener(&format!(
        "bind: [':443', {{ address: '127.0.0.1:80', tls: off }}, {{ address: '127.0.0.1:444', tls: {{ certs: {{ cert: b.pem }} }} }}], tls: {{ {CERTS} }}"
    ));
    let certificate = |address: &str| {
        let tls = web.tls.get(&tcp(address))?;
        Some(tls.certificates[0].certificate.file_name()?.to_owned().into_string().unwrap())
    };
    assert_eq!(certificate("0.0.0.0:443").as_deref(), Some("a.pem"));
    assert_eq!(certificate("[::]:443").as_deref(), Some("a.pem"));
    assert_eq!(certificate("127.0.0.1:444").as_deref(), Some("b.pem"));
    assert_eq!(certificate("127.0.0.1:80"), None);
    assert_eq!(web.bind.len(), 4);
}

#[test]
fn redirections_and_hsts() {
    let redirect = |text: &str| listener(text).redirect_https.map(|found| (found.port, found.status));
    let secure = |port: u16| format!("{{ address: '127.0.0.1:{port}', tls: {{ {CERTS} }} }}");
    assert_eq!(redirect("bind: ':80', redirect_https: on"), Some((443, 308)));
    assert_eq!(redirect("bind: ':80', redirect_https: off"), None);
    assert_eq!(redirect(&format!("bind: [':80', {}], redirect_https: on", secure(8443))), Some((8443, 308)));
    assert_eq!(redirect(&format!("bind: [':80', {}], redirect_https: {{}}", secure(0))), Some((443, 308)));
    let long = format!("bind: [':80', {}], redirect_https: {{ port: 444, status: 301 }}", secure(8443));
    assert_eq!(redirect(&long), Some((444, 301)));

    let year = Duration::from_secs(365 * 24 * 3600);
    let hsts = |text: &str| listener(&format!("bind: ':443', tls: {{ {CERTS} }}, hsts: {text}")).hsts;
    assert_eq!(hsts("off"), None);
    assert_eq!(hsts("365d"), Some(Hsts { max_age: year, subdomains: false, preload: false }));
    let long = "{ max_age: 365d, subdomains: on, preload: on }";
    assert_eq!(hsts(long), Some(Hsts { max_age: year, subdomains: true, preload: true }));
}

/// What a check says of a certificate that ends after so many days.
fn check_said(folder: &Path, days: u64) -> String {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    // A minute of difference, so that the time that the test takes does not matter.
    params.not_after = (SystemTime::now() + Duration::from_secs(days * 86_400 + 60)).into();
    std::fs::write(folder.join("a.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(folder.join("a.key"), key.serialize_pem()).unwrap();
    let path = folder.join("sumun.yaml");
    let text = format!("listeners: {{ web: {{ bind: ':443', tls: {{ {CERTS} }}, routes: [ respond: 204 ] }} }}");
    std::fs::write(&path, text).unwrap();
    check(&load(&path).unwrap(), Probe::Files).unwrap_or_else(|report| panic!("{report}")).warnings.render(false)
}

#[test]
fn a_certificate_is_warned_of_three_weeks_before_its_end() {
    let folder = std::env::temp_dir().join(format!("sumun-config-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    assert_eq!(check_said(&folder, 21), "");
    let said = check_said(&folder, 20);
    assert!(said.contains("warning: the certificate for `a.example` expires on 20"), "{said}");
    std::fs::remove_dir_all(&folder).unwrap();
}

const DIRECTORY: &str = "directory: 'https://acme.example/dir'";

/// The challenge of each certificate of the listener `web`, by address.
fn challenges(text: &str) -> Vec<(String, AcmeChallenge)> {
    let web = listener(text);
    let address = |bind: &BindAddress| match bind {
        BindAddress::Tcp(address) | BindAddress::Udp(address) => address.to_string(),
        BindAddress::Unix(path) => path.display().to_string(),
    };
    let of = |(bind, tls): (&BindAddress, &std::sync::Arc<ListenerTls>)| (address(bind), tls.acme[0].challenge);
    web.tls.iter().map(of).collect()
}

#[test]
fn certificates_by_acme() {
    let acme = format!("tls: {{ acme: {{ {DIRECTORY}, domains: [WWW.example.com., '192.0.2.1'] }} }}");
    let web = listener(&format!("bind: '127.0.0.1:443', {acme}"));
    let expected = Acme {
        directory: AcmeDirectory {
            url: "https://acme.example/dir".to_owned(),
            host: "acme.example".to_owned(),
            port: 443,
            is_secure: true,
        },
        domains: vec![
            CertifiedName::Dns("www.example.com".to_owned()),
            CertifiedName::Ip("192.0.2.1".parse().unwrap()),
        ],
        email: None,
        challenge: AcmeChallenge::TlsAlpn01,
        key_type: KeyType::EcdsaP256,
        ca: None,
        external_account: None,
    };
    let tls = &web.tls[&tcp("127.0.0.1:443")];
    assert_eq!((tls.certificates.len(), tls.acme.as_slice()), (0, [expected].as_slice()));
}

#[test]
fn the_challenge_that_can_be_answered_is_chosen() {
    let acme = |more: &str| format!("acme: {{ {DIRECTORY}, domains: a.example{more} }}");
    let on = |ports: &[u16], tls: &str| {
        let secure: Vec<String> =
            ports.iter().map(|port| format!("{{ address: '127.0.0.1:{port}', tls: {{ {tls} }} }}")).collect();
        secure.join(", ")
    };
    let (http, tls) = (AcmeChallenge::Http01, AcmeChallenge::TlsAlpn01);
    let found = |text: &str| challenges(text).into_iter().map(|(_, challenge)| challenge).collect::<Vec<_>>();
    assert_eq!(found(&format!("bind: [':80', {}]", on(&[443], &acme("")))), [http]);
    assert_eq!(found(&format!("bind: [':8080', {}]", on(&[443], &acme("")))), [tls]);
    assert_eq!(found(&format!("bind: [{}]", on(&[8443], &acme("")))), [http]);
    // Of a certificate that is shown in several places one decides.
    assert_eq!(found(&format!("bind: [{}]", on(&[443, 8443], &acme("")))), [tls, tls]);
    assert_eq!(found(&format!("bind: [':80', {}]", on(&[443], &acme(", challenge: tls-alpn-01")))), [tls]);
    let shown = format!("{}, client_auth: {{ ca: ca.pem }}", acme(""));
    assert_eq!(found(&format!("bind: [{}]", on(&[443], &shown))), [http]);
    let may_show = format!("{}, client_auth: {{ ca: ca.pem, mode: optional }}", acme(""));
    assert_eq!(found(&format!("bind: [{}]", on(&[443], &may_show))), [tls]);
}

#[test]
fn a_hmac_key_is_not_shown() {
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let account = format!("external_account: {{ key_id: kid-1, hmac_key: {key} }}");
    let web =
        listener(&format!("bind: '127.0.0.1:443', tls: {{ acme: {{ {DIRECTORY}, domains: a.example, {account} }} }}"));
    let shown = format!("{web:?}");
    assert!(shown.contains("kid-1") && !shown.contains("205, 99"), "{shown}");
    assert_eq!(sumun_config::hmac_key(&format!("{key}\n")).map(|bytes| bytes.len()), Ok(48));
    assert!(sumun_config::hmac_key("").is_err());
}

/// RFC 8738: for IP addresses as for names, one certificate for both if need be.
#[test]
fn certificates_may_be_obtained_for_addresses() {
    let asks = |domains: &str| {
        let acme = format!("{{ directory: 'https://acme.example/dir', domains: {domains} }}");
        format!("bind: [ ':80', {{ address: '127.0.0.1:443', tls: {{ acme: {acme} }} }} ]")
    };
    let web = listener(&asks("[192.0.2.7, '2001:DB8::7', www.example.com]"));
    let names: Vec<String> = web.tls[&tcp("127.0.0.1:443")].acme[0].domains.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["192.0.2.7", "2001:db8::7", "www.example.com"]);
    for wrong in ["192.0.2.0/24", "'[2001:db8::7]'", "192.0.2.300", "'*.192.0.2.7'", "'192.0.2.7:443'"] {
        let text = format!("listeners: {{ web: {{ {}, routes: [ respond: 204 ] }} }}", asks(wrong));
        assert!(check_text("test.yaml", &text).is_err(), "{wrong}");
    }
    let twice =
        format!("listeners: {{ web: {{ {}, routes: [ respond: 204 ] }} }}", asks("['2001:db8::7', '2001:DB8:0::7']"));
    assert!(check_text("test.yaml", &twice).is_err_and(|report| report.to_string().contains("stands here twice")));
}
