//! The examples of RFC 7541 appendix C.

use super::{Decoder, Encoder};

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits: Vec<u32> = hexadecimal.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

/// Decodes block after block, and compares the lines and whether each was never to be indexed.
fn blocks(decoder: &mut Decoder, cases: &[(&str, &[&str])]) {
    for (block, lines) in cases {
        let mut text = Vec::new();
        let block = bytes(block);
        let mut reader = decoder.read(&block);
        while let Some(line) = reader.next(&mut text).unwrap() {
            assert_eq!(line.flaw, None);
        }
        let wanted: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        assert_eq!(String::from_utf8(text).unwrap(), wanted);
    }
}

/// Sizes of the entries, the newest first: by indexing each until there is none.
fn table(decoder: &mut Decoder) -> Vec<String> {
    (62_u8..127)
        .map_while(|index| {
            let mut text = Vec::new();
            decoder.read(&[0x80 | index]).next(&mut text).ok()??;
            Some(String::from_utf8(text).unwrap().trim_end().to_owned())
        })
        .collect()
}

#[test]
fn c2_single_fields() {
    let mut decoder = Decoder::default();
    blocks(
        &mut decoder,
        &[("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", &["custom-key: custom-header"])],
    );
    assert_eq!(table(&mut decoder), ["custom-key: custom-header"]);
    let mut decoder = Decoder::default();
    blocks(
        &mut decoder,
        &[
            ("040c 2f73 616d 706c 652f 7061 7468", &[":path: /sample/path"]),
            ("1008 7061 7373 776f 7264 0673 6563 7265 74", &["password: secret"]),
            ("82", &[":method: GET"]),
        ],
    );
    assert_eq!(table(&mut decoder), [""; 0]);
}

const REQUESTS: [&[&str]; 3] = [
    &[":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"],
    &[":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com", "cache-control: no-cache"],
    &[
        ":method: GET",
        ":scheme: https",
        ":path: /index.html",
        ":authority: www.example.com",
        "custom-key: custom-value",
    ],
];

#[test]
fn c3_requests_plain() {
    let mut decoder = Decoder::default();
    blocks(
        &mut decoder,
        &[
            ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", REQUESTS[0]),
            ("8286 84be 5808 6e6f 2d63 6163 6865", REQUESTS[1]),
            ("8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65", REQUESTS[2]),
        ],
    );
    assert_eq!(
        table(&mut decoder),
        ["custom-key: custom-value", "cache-control: no-cache", ":authority: www.example.com"]
    );
}

#[test]
fn c4_requests_huffman() {
    blocks(
        &mut Decoder::default(),
        &[
            ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", REQUESTS[0]),
            ("8286 84be 5886 a8eb 1064 9cbf", REQUESTS[1]),
            ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", REQUESTS[2]),
        ],
    );
}

const RESPONSES: [&[&str]; 3] = [
    &[
        ":status: 302",
        "cache-control: private",
        "date: Mon, 21 Oct 2013 20:13:21 GMT",
        "location: https://www.example.com",
    ],
    &[
        ":status: 307",
        "cache-control: private",
        "date: Mon, 21 Oct 2013 20:13:21 GMT",
        "location: https://www.example.com",
    ],
    &[
        ":status: 200",
        "cache-control: private",
        "date: Mon, 21 Oct 2013 20:13:22 GMT",
        "location: https://www.example.com",
        "content-encoding: gzip",
        "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
    ],
];

const LAST_TABLE: [&str; 3] = [
    "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
    "content-encoding: gzip",
    "date: Mon, 21 Oct 2013 20:13:22 GMT",
];

#[test]
fn c5_responses_plain_with_evictions() {
    let mut decoder = Decoder::default();
    // The examples are of a table of 256 bytes, set by other means.
    blocks(&mut decoder, &[("3fe1 01", &[])]);
    blocks(
        &mut decoder,
        &[
            (
                "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133
                 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70
                 6c65 2e63 6f6d",
                RESPONSES[0],
            ),
            ("4803 3330 37c1 c0bf", RESPONSES[1]),
            (
                "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d
                 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049
                 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e
                 3d31",
                RESPONSES[2],
            ),
        ],
    );
    assert_eq!(table(&mut decoder), LAST_TABLE);
}

#[test]
fn c6_responses_huffman_with_evictions() {
    let mut decoder = Decoder::default();
    blocks(&mut decoder, &[("3fe1 01", &[])]);
    blocks(
        &mut decoder,
        &[
            (
                "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6
                 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
                RESPONSES[0],
            ),
            ("4883 640e ffc1 c0bf", RESPONSES[1]),
            (
                "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab
                 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f
                 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
                RESPONSES[2],
            ),
        ],
    );
    assert_eq!(table(&mut decoder), LAST_TABLE);
}

/// Our encoder takes the same codes: its literals are those of the examples.
#[test]
fn literals_are_coded_as_in_c4_and_c6() {
    let mut block = Vec::new();
    let mut encoder = Encoder::default();
    encoder.field(&mut block, b":authority", b"www.example.com");
    assert_eq!(block, bytes("018c f1e3 c2e5 f23a 6ba0 ab90 f4ff"));
    block.clear();
    encoder.field(&mut block, b"custom-key", b"custom-value");
    assert_eq!(block, bytes("0088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf"));
    block.clear();
    encoder.never_indexed(&mut block, b"date", b"Mon, 21 Oct 2013 20:13:21 GMT");
    assert_eq!(block, bytes("1f12 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff"));
}
