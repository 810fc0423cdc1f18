//! Another implementation as the client: `openssl s_client`, where it is installed.

use std::future::poll_fn;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::super::*;
use super::certificates::{self, Kind};
use super::support::*;

/// Says hello and gives back what was printed; `None` where there is no openssl.
async fn s_client(listener: &TlsListener, arguments: &[&str]) -> Option<(bool, String)> {
    let (socket, address) = bind().await;
    let started = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string(), "-servername", "a.example", "-ign_eof"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => panic!("openssl: {error}"),
    };
    child.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    let mut stream = accept(&socket, listener).await;
    let session = handshake(&mut stream).await.unwrap();
    let mut buffer = [0; 100];
    let count = read(&mut stream, &mut buffer).await.unwrap();
    assert_eq!(&buffer[..count], b"hello\n");
    write_all(&mut stream, b"and the same to you\n").await.unwrap();
    poll_fn(|context| stream.poll_shutdown(context)).await.unwrap();
    drop(stream);
    let output = child.wait_with_output().unwrap();
    Some((session.resumed, String::from_utf8_lossy(&output.stdout).into_owned()))
}

#[test]
fn openssl_opens_connections_and_resumes_them() {
    let authority = certificates::authority("Authority");
    let pair = authority.pair(&["a.example"], Kind::Ecdsa);
    let config = config("{ certs: { cert: /a.pem, key: /a.key } }");
    let listener: Arc<TlsListener> = listener(&tls(&config, &material(&[("a", &pair)])), &config);
    let folder = std::env::temp_dir().join(format!("sumun-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (ca, session) = (folder.join("ca.pem"), folder.join("session.pem"));
    std::fs::write(&ca, &authority.pem).unwrap();
    let (ca, session) = (ca.to_str().unwrap(), session.to_str().unwrap());
    for version in ["-tls1_2", "-tls1_3"] {
        let arguments = ["-CAfile", ca, "-verify_return_error", "-alpn", "http/1.1", version];
        let first = run(s_client(&listener, &[&arguments[..], &["-sess_out", session]].concat()));
        let Some((resumed, text)) = first else {
            eprintln!("skipped: there is no openssl on this host");
            break;
        };
        assert!(!resumed && text.contains("and the same to you"), "{text}");
        assert!(text.contains("Verify return code: 0 (ok)"), "{text}");
        assert!(text.contains("ALPN protocol: http/1.1"), "{text}");
        let again = run(s_client(&listener, &[&arguments[..], &["-sess_in", session]].concat()));
        assert!(again.is_some_and(|(resumed, text)| resumed && text.contains("and the same to you")), "{version}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
