use rcgen::{
    CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
    SanType, date_time_ymd,
};

use super::*;

/// PEM of a certificate and its key.
fn pair(
    algorithm: &'static rcgen::SignatureAlgorithm,
    change: impl FnOnce(&mut CertificateParams),
) -> (String, String) {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    change(&mut params);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn parse(certificate: &str, key: &str) -> Result<Identity, Problem> {
    Identity::parse(certificate.as_bytes(), key.as_bytes())
}

#[test]
fn every_kind_of_key_fits_its_certificate_and_no_other() {
    let kinds = [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519, &PKCS_RSA_SHA256];
    let pairs = kinds.map(|kind| pair(kind, |_| {}));
    for (index, (certificate, _)) in pairs.iter().enumerate() {
        for (other, (_, key)) in pairs.iter().enumerate() {
            match parse(certificate, key) {
                Ok(_) => assert_eq!(index, other),
                Err(problem) => {
                    assert_ne!(index, other);
                    assert_eq!((problem.part, problem.message.as_str()), (Part::Key, "does not fit the certificate"));
                    assert!(problem.help.contains("a.example"));
                }
            }
        }
    }
}

#[test]
fn facts_of_a_certificate() {
    let (certificate, key) = pair(&PKCS_ECDSA_P256_SHA256, |params| {
        params.subject_alt_names = vec![
            SanType::DnsName("*.A.example".try_into().unwrap()),
            SanType::IpAddress("192.0.2.1".parse().unwrap()),
            SanType::IpAddress("2001:db8::1".parse().unwrap()),
        ];
        params.distinguished_name.push(DnType::CommonName, "Zoë <a@b>, \"the\" first");
        params.distinguished_name.push(DnType::OrganizationName, "회사");
        params.not_before = date_time_ymd(2020, 1, 2);
        params.not_after = date_time_ymd(2070, 3, 4);
    });
    let leaf = parse(&certificate, &key).unwrap().leaf;
    assert_eq!((date(leaf.not_before), date(leaf.not_after)), ("2020-01-02".to_owned(), "2070-03-04".to_owned()));
    assert_eq!(leaf.dns_names, ["*.a.example"]);
    assert_eq!(leaf.addresses, ["192.0.2.1".parse::<std::net::IpAddr>().unwrap(), "2001:db8::1".parse().unwrap()]);
    // RFC 4514 section 2: the last part first, special characters and octets outside of ASCII escaped.
    assert_eq!(leaf.subject, "O=\\ED\\9A\\8C\\EC\\82\\AC,CN=Zo\\C3\\AB \\<a@b\\>\\, \\\"the\\\" first");
    assert_eq!(leaf.title(), "*.a.example");
    assert_eq!(date(u64::MAX), "9999-12-31");
    assert_eq!(moment(1_800_000_000), "2027-01-15 08:00 UTC");
    assert_eq!(leaf.authority_key, None);
}

#[test]
fn who_has_no_name_is_called_by_what_there_is() {
    let title = |change: fn(&mut CertificateParams)| {
        let (certificate, key) = pair(&PKCS_ECDSA_P256_SHA256, |params| {
            params.subject_alt_names.clear();
            params.distinguished_name = rcgen::DistinguishedName::new();
            change(params);
        });
        parse(&certificate, &key).unwrap().leaf.title()
    };
    assert_eq!(title(|_| {}), "(no name)");
    assert_eq!(title(|params| params.distinguished_name.push(DnType::CommonName, "line\nbreak")), "line break");
    assert_eq!(title(|params| params.distinguished_name.push(DnType::CountryName, "KR")), "C=KR");
    let address = |params: &mut CertificateParams| {
        params.subject_alt_names.push(SanType::IpAddress("192.0.2.1".parse().unwrap()));
    };
    assert_eq!(title(address), "192.0.2.1");
}

#[test]
fn a_subject_has_no_end_of_line_and_an_end() {
    let (certificate, key) = pair(&PKCS_ECDSA_P256_SHA256, |params| {
        params.distinguished_name.push(DnType::CommonName, format!("a\r\nX-Admin: yes{}", "é".repeat(2000)));
    });
    let Leaf { subject, subject_is_cut, .. } = parse(&certificate, &key).unwrap().leaf;
    assert!(subject_is_cut);
    assert!(subject.starts_with("CN=a\\0d\\0aX-Admin: yes\\C3"), "{subject}");
    assert!(subject.len() <= limits::SUBJECT_BYTES && subject.ends_with("\\C3\\A9"), "{subject}");
    let of = |length: usize| {
        let (certificate, key) = pair(&PKCS_ECDSA_P256_SHA256, |params| {
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, "a".repeat(length));
        });
        let leaf = parse(&certificate, &key).unwrap().leaf;
        (leaf.subject.len(), leaf.subject_is_cut)
    };
    let longest = limits::SUBJECT_BYTES - "CN=".len();
    assert_eq!(of(longest), (limits::SUBJECT_BYTES, false));
    assert_eq!(of(longest + 1), (limits::SUBJECT_BYTES, true));
}

#[test]
fn files_that_cannot_be_used_say_why() {
    let (certificate, key) = pair(&PKCS_ECDSA_P256_SHA256, |_| {});
    let (other, _) = pair(&PKCS_ECDSA_P256_SHA256, |_| {});
    let what = |certificate: &str, key: &str| {
        let problem = parse(certificate, key).unwrap_err();
        assert!(!problem.help.is_empty());
        (problem.part, problem.message)
    };
    let says = |part: Part, message: &str| (part, message.to_owned());
    assert_eq!(what("", &key), says(Part::Certificate, "holds no certificate"));
    assert_eq!(what(&certificate, ""), says(Part::Key, "holds no private key"));
    assert_eq!(what(&certificate, &certificate), says(Part::Key, "holds no private key"));
    assert_eq!(
        what(&format!("{other}{certificate}"), &key),
        says(Part::Certificate, "begins with another certificate than the key's, which is number 2")
    );
    let cut = certificate.split_at(certificate.len() / 2).0;
    assert_eq!(what(cut, &key), says(Part::Certificate, "ends within a part: its -----END line is missing"));
    let rubbish = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(what(rubbish, &key).1.starts_with("holds something else in the place of certificate 1: "));
    assert!(what(&format!("{certificate}{rubbish}"), &key).1.contains("of certificate 2: "));
    let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert_eq!(what(&certificate, no_key), says(Part::Key, "holds a key that cannot be used"));
    let sealed = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    assert_eq!(what(&certificate, sealed), says(Part::Key, "is protected by a passphrase"));
    let many = certificate.repeat(limits::CHAIN_CERTIFICATES + 1);
    assert_eq!(what(&many, &key), says(Part::Certificate, "holds more than 16 certificates"));
    // Both in one file, with words of the operator's around them.
    assert!(parse(&format!("Our site\n{key}\n{certificate}"), &format!("{certificate}{key}")).is_ok());
    assert!(authorities(key.as_bytes()).is_err());
    assert_eq!(authorities(certificate.repeat(100).as_bytes()).unwrap().len(), 100);
}

/// Made by `openssl ocsp` for the certificate beside it; see `base/config/tests`.
const OF_SITE: &[u8] = include_bytes!("../../config/tests/good/parts/site.ocsp");
const REVOKED: &[u8] = include_bytes!("../../config/tests/warned/parts/revoked.ocsp");
const STALE: &[u8] = include_bytes!("../../config/tests/warned/parts/stale.ocsp");
const SITE: &[u8] = include_bytes!("../../config/tests/good/parts/site.pem");
const SITE_KEY: &[u8] = include_bytes!("../../config/tests/good/parts/site.key");

#[test]
fn ocsp_responses() {
    let leaf = Identity::parse(SITE, SITE_KEY).unwrap().leaf;
    let good = Staple::parse(OF_SITE, &leaf).unwrap();
    assert_eq!((good.status, good.bytes.as_slice()), (Status::Good, OF_SITE));
    let until = good.next_update.unwrap();
    assert!(good.is_fresh(until - 1) && !good.is_fresh(until));
    assert_eq!(Staple::parse(REVOKED, &leaf).unwrap().status, Status::Revoked);
    assert_eq!(Staple::parse(STALE, &leaf).unwrap().next_update.map(date).as_deref(), Some("2026-11-23"));

    let (certificate, key) = pair(&PKCS_ECDSA_P256_SHA256, |_| {});
    let other = parse(&certificate, &key).unwrap().leaf;
    let why = |bytes: &[u8]| Staple::parse(bytes, &other).unwrap_err().message;
    assert!(why(OF_SITE).contains("another certificate"));
    // tryLater (RFC 6960 section 4.2.1).
    assert!(why(&[0x30, 3, 0x0a, 1, 3]).contains("status 3"));
    assert!(why(SITE).contains("PEM"));
    assert!(why(b"hello").contains("no OCSP response"));
    assert!(why(&vec![0; limits::STAPLE_BYTES + 1]).contains("too large"));
}

proptest::proptest! {
    #[test]
    fn no_bytes_hurt(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200), at in 0..900_usize) {
        let leaf = Identity::parse(SITE, SITE_KEY).unwrap().leaf;
        Staple::parse(&bytes, &leaf).unwrap_err();
        let mut damaged = OF_SITE.to_vec();
        for (index, byte) in bytes.iter().take(4).enumerate() {
            if let Some(there) = damaged.get_mut(at + index) {
                *there = *byte;
            }
        }
        // Many bytes of a response mean nothing to us; none may end in a panic.
        Staple::parse(&damaged, &leaf).ok();
        let mut pem = SITE.to_vec();
        if let Some(there) = pem.get_mut(at) {
            *there = bytes.first().copied().unwrap_or_default();
        }
        Identity::parse(&pem, SITE_KEY).ok();
        authorities(&bytes).unwrap_err();
    }
}
