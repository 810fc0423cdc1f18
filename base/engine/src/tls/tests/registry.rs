//! What is in force, and what it is made of.

use std::sync::Arc;

use super::super::*;
use super::certificates::{self, Kind};
use super::support::*;

/// What a listener has in force, and the certificates of it.
fn in_force(listener: &TlsListener) -> (Arc<server::Built>, Vec<Arc<pairs::Pair>>) {
    let built = listener.current();
    let pairs = built.pairs().to_vec();
    (built, pairs)
}

#[test]
fn what_did_not_change_is_not_parsed_again() {
    let authority = certificates::authority("Authority");
    let pair = |name: &str| authority.pair(&[name], Kind::Ecdsa);
    let (a, b, renewed) = (pair("a.example"), pair("b.example"), pair("b.example"));
    let both = "certs: [{ cert: /a.pem, key: /a.key }, { cert: /b.pem, key: /b.key }]";
    let config_before = config(&format!("{{ {both} }}"));
    let mut material_before = material(&[("a", &a), ("b", &b)]);
    let tls = tls(&config_before, &material_before);
    let listener = listener(&tls, &config_before);
    let (built, pairs) = in_force(&listener);

    // Other keys for tickets, and the same files read anew.
    material_before.tickets = material_before.tickets.rotated(DAY + 1, &[2; KEY_RANDOM_BYTES]);
    let text = serde_json::to_string(&material_before).unwrap();
    tls.apply(&config_before, &serde_json::from_str(&text).unwrap()).unwrap();
    assert!(Arc::ptr_eq(&in_force(&listener).0, &built));

    // What could not be used leaves all as it was.
    let broken = certificates::Pair { certificate: b.certificate.clone(), key: a.key.clone() };
    assert!(tls.apply(&config_before, &material(&[("a", &a), ("b", &broken)])).is_err());
    tls.apply(&config_before, &material_before).unwrap();
    assert!(Arc::ptr_eq(&in_force(&listener).0, &built));

    tls.apply(&config_before, &material(&[("a", &a), ("b", &renewed)])).unwrap();
    let (other_built, other_pairs) = in_force(&listener);
    assert!(!Arc::ptr_eq(&other_built, &built));
    assert!(Arc::ptr_eq(&other_pairs[0], &pairs[0]) && !Arc::ptr_eq(&other_pairs[1], &pairs[1]));

    // Another config with the same files, another response with the same certificate.
    let config_after = config(&format!("{{ {both}, tickets: off }}"));
    tls.apply(&config_after, &material(&[("a", &a), ("b", &renewed)])).unwrap();
    let (last_built, last_pairs) = in_force(&listener);
    assert!(!Arc::ptr_eq(&last_built, &other_built));
    assert!(last_pairs.iter().zip(&other_pairs).all(|(one, other)| Arc::ptr_eq(one, other)));
    let mut stapled = material(&[("a", &a), ("b", &renewed)]);
    stapled.identities[0].staple = Some(Blob::new(b"good".to_vec()));
    tls.apply(&config_after, &stapled).unwrap();
    let (_, pairs) = in_force(&listener);
    assert!(!Arc::ptr_eq(&pairs[0], &last_pairs[0]) && Arc::ptr_eq(&pairs[1], &last_pairs[1]));
    assert_eq!(pairs[0].certified.ocsp.as_deref(), Some(&b"good"[..]));
}
