//! Public keys that signatures are verified with.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;

use crate::problem::{Part, Problem};

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyingKey {
    /// Of 2048 to 8192 bits, with SHA-256 and the padding of PKCS #1.
    Rsa,
    P256,
    Ed25519,
}

/// The first public key of a PEM file (RFC 7468 section 13), as SubjectPublicKeyInfo in DER.
///
/// # Errors
/// There is none in it, or it is one of another kind.
pub fn verifying_key(pem: &[u8], kind: VerifyingKey) -> Result<Vec<u8>, Problem> {
    let Ok(key) = SubjectPublicKeyInfoDer::from_pem_slice(pem) else {
        let help = "it has to have a part -----BEGIN PUBLIC KEY-----; openssl pkey -in KEY -pubout takes it out of a private key";
        return Err(Problem::new(Part::Key, "holds no public key", help));
    };
    let (algorithm, name): (&'static dyn VerificationAlgorithm, &str) = match kind {
        VerifyingKey::Rsa => (&RSA_PKCS1_2048_8192_SHA256, "RSA with 2048 to 8192 bits"),
        VerifyingKey::P256 => (&ECDSA_P256_SHA256_FIXED, "ECDSA on the curve P-256"),
        VerifyingKey::Ed25519 => (&ED25519, "Ed25519"),
    };
    if ParsedPublicKey::new(algorithm, key.as_ref()).is_err() {
        let message = format!("holds a public key that is not one of {name}");
        return Err(Problem::new(Part::Key, message, "name another file, or the algorithm that the key is for"));
    }
    Ok(key.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_for_one_algorithm() {
        let kinds = [VerifyingKey::Rsa, VerifyingKey::P256, VerifyingKey::Ed25519];
        for (algorithm, kind) in
            [(&rcgen::PKCS_ECDSA_P256_SHA256, VerifyingKey::P256), (&rcgen::PKCS_ED25519, VerifyingKey::Ed25519)]
        {
            let pem = rcgen::KeyPair::generate_for(algorithm).unwrap().public_key_pem();
            for other in kinds {
                assert_eq!(verifying_key(pem.as_bytes(), other).is_ok(), other == kind, "{other:?}");
            }
        }
        assert!(verifying_key(b"", VerifyingKey::P256).is_err());
    }
}
