//! The draft's vectors (section 5.4.2.4 and appendix B), and ids made as a server makes them.

use aes::Aes128;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use proptest::prelude::*;

use super::{BlockCipher, Config, ServerId, config_id, decode};

#[derive(Debug, Clone)]
struct Aes(Aes128);

impl Aes {
    fn of(key: [u8; 16]) -> Self {
        Self(Aes128::new(&key.into()))
    }
}

impl BlockCipher for Aes {
    fn encrypt_block(&self, block: [u8; 16]) -> [u8; 16] {
        let mut block = block.into();
        self.0.encrypt_block(&mut block);
        block.into()
    }

    fn decrypt_block(&self, block: [u8; 16]) -> [u8; 16] {
        let mut block = block.into();
        self.0.decrypt_block(&mut block);
        block.into()
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn key(text: &str) -> Aes {
    Aes::of(hex(text).try_into().unwrap())
}

/// Decodes, with and without more bytes behind the id.
fn check(config_id: u8, server_id: &str, nonce: &str, cipher: Option<&Aes>, connection_id: &str) {
    let (server_id, nonce, bytes) = (hex(server_id), hex(nonce), hex(connection_id));
    assert_eq!(bytes.len(), 1 + server_id.len() + nonce.len());
    let config = Config::new(config_id, server_id.len(), nonce.len(), cipher.cloned()).unwrap();
    assert_eq!(decode(&bytes, &config), ServerId::new(&server_id), "{connection_id}");
    assert_eq!(decode(&[&bytes[..], b"more"].concat(), &config), ServerId::new(&server_id));
    assert_eq!(decode(&bytes[..bytes.len() - 1], &config), None, "too short");
    let made = make(bytes[0], &server_id, &nonce, cipher);
    assert_eq!(made, bytes, "the servers of these tests follow the draft");
}

#[test]
fn published_ids() {
    check(0, "c4605e", "4504cc4f", None, "07c4605e4504cc4f");
    // The draft prints one digit of this nonce too few.
    check(1, "350d28b420", "3487d970b0", None, "2a350d28b4203487d970b0");
    let cipher = key("8f95f09245765f80256934e50c66207f");
    for (config_id, server_id, nonce, connection_id) in [
        (0, "ed793a", "ee080dbf", "0720b1d07b359d3c"),
        (1, "ed793a51d49b8f5fab65", "ee080dbf48", "2fcc381bc74cb4fbad2823a3d1f8fed2"),
        (2, "ed793a51d49b8f5f", "ee080dbf48c0d1e5", "504dd2d05a7b0de9b2b9907afb5ecf8cc3"),
        // The draft lists it under configuration 3, which its first octet does not say.
        (0, "ed793a51d49b8f5fab", "ee080dbf48c0d1e55d", "125779c9cc86beb3a3a4a3ca96fce4bfe0cdbc"),
    ] {
        check(config_id, server_id, nonce, Some(&cipher), connection_id);
    }
    // The worked example of section 5.4.2.4.
    let cipher = key("fdf726a9893ec05c0632d3956680baf0");
    check(0, "31441a", "9c69c275", Some(&cipher), "0767947d29be054a");
}

#[test]
fn ids_that_lead_nowhere() {
    let config = Config::<Aes>::new(2, 3, 4, None).unwrap();
    let bytes = hex("47c4605e4504cc4f");
    assert_eq!(decode(&bytes, &config), ServerId::new(&hex("c4605e")));
    assert_eq!(config_id(&bytes), Some(2));
    // Of another configuration, of none at all, and none.
    assert_eq!(decode(&hex("27c4605e4504cc4f"), &config), None);
    assert_eq!(decode(&hex("e7c4605e4504cc4f"), &config), None);
    assert_eq!(config_id(&hex("e7c4605e4504cc4f")), None);
    assert_eq!((decode(b"", &config), config_id(b"")), (None, None));
}

#[test]
fn what_a_configuration_may_be() {
    let fits = |config_id, server, nonce| Config::<Aes>::new(config_id, server, nonce, None).is_some();
    assert!(fits(0, 1, 4) && fits(6, 15, 4) && fits(6, 1, 18));
    assert!(!fits(7, 1, 4) && !fits(0, 0, 4) && !fits(0, 1, 3) && !fits(0, 16, 4) && !fits(0, 1, 19));
    assert!(!fits(0, 15, 5) && !fits(0, 2, 18));
    assert_eq!((ServerId::new(b""), ServerId::new(&[0; 16])), (None, None));
    assert_eq!(format!("{:?}", ServerId::new(&[0xab; 15]).unwrap()), "ab".repeat(15));
}

/// What a server does, written after section 5.4 with bytes instead of numbers.
fn make(first: u8, server_id: &[u8], nonce: &[u8], cipher: Option<&Aes>) -> Vec<u8> {
    let mut plain = [server_id, nonce].concat();
    let length = plain.len();
    let Some(cipher) = cipher else { return [&[first][..], &plain].concat() };
    if let Ok(block) = <[u8; 16]>::try_from(&plain[..]) {
        return [&[first][..], &cipher.encrypt_block(block)].concat();
    }
    let half = length.div_ceil(2);
    let odd = length % 2 == 1;
    let mut left = plain[..half].to_vec();
    let mut right = plain[length - half..].to_vec();
    let clear = |left: &mut [u8], right: &mut [u8]| {
        if odd {
            left[half - 1] &= 0xf0;
            right[0] &= 0x0f;
        }
    };
    clear(&mut left, &mut right);
    for pass in 1..=4 {
        let (from, to) = if pass % 2 == 1 { (&left, &mut right) } else { (&right, &mut left) };
        let mut block = [0; 16];
        block[..half].copy_from_slice(from);
        block[14] = length as u8;
        block[15] = pass;
        to.iter_mut().zip(cipher.encrypt_block(block)).for_each(|(to, byte)| *to ^= byte);
        clear(&mut left, &mut right);
    }
    plain[..half].copy_from_slice(&left);
    plain[length - half..].iter_mut().zip(&right).enumerate().for_each(|(index, (to, from))| {
        *to = if odd && index == 0 { *to | from } else { *from };
    });
    [&[first][..], &plain].concat()
}

proptest! {
    #[test]
    fn what_servers_make_leads_to_them(
        key: [u8; 16], is_encrypted: bool, first in 0u8..0xe0, server in prop::collection::vec(any::<u8>(), 1..16), nonce in prop::collection::vec(any::<u8>(), 18)
    ) {
        for nonce_bytes in 4..=19 - server.len() {
            let cipher = Some(Aes::of(key)).filter(|_| is_encrypted);
            let made = make(first, &server, &nonce[..nonce_bytes], cipher.as_ref());
            let config = Config::new(first >> 5, server.len(), nonce_bytes, cipher).unwrap();
            prop_assert_eq!(decode(&made, &config), ServerId::new(&server));
        }
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..30), server in 1usize..16, nonce in 4usize..19) {
        let Some(config) = Config::new(0, server, nonce, Some(Aes::of([1; 16]))) else { return Ok(()) };
        let is_ours = bytes.first().is_some_and(|first| first >> 5 == 0);
        prop_assert_eq!(decode(&bytes, &config).is_some(), is_ours && bytes.len() > server + nonce);
    }
}
