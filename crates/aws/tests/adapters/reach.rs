//! Servers that not everybody reaches: of a private authority, and on IPv6.

use std::sync::Arc;

use image_tasks_domain::FailureCode;
use image_tasks_domain::source::SourceLocation;
use image_tasks_flows::ports::Sources as _;
use image_tasks_local::{Source as Served, SourceServer, pattern};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::sources::{all, content, sources};

/// An authority made for this test, and a server's certificate of it, for `localhost` and 127.0.0.1.
const CA: &str = include_str!("tls/ca.pem");
const SERVER: &[u8] = include_bytes!("tls/server.pem");
const KEY: &[u8] = include_bytes!("tls/key.pem");

/// A server with that certificate, which answers each connection once with a body of three bytes.
async fn private() -> SourceLocation {
    let chain = vec![CertificateDer::from_pem_slice(SERVER).unwrap()];
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(chain, PrivateKeyDer::from_pem_slice(KEY).unwrap()).unwrap();
    let (acceptor, listener) =
        (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that doesn't trust it leaves.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc";
            stream.write_all(answer).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    SourceLocation::parse(&format!("https://localhost:{port}/x.img")).unwrap()
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_the_operator_says_so() {
    let location = private().await;
    let strangers = sources(&["127.0.0.0/8"]);
    let failure = strangers.open(&location, None, None).await.err().unwrap();
    assert_eq!(failure.code, FailureCode::SourceInvalid);
    assert_eq!(
        failure.message,
        format!("{location}: its certificate is of an authority that is not trusted here")
    );
    let on_one_line = CA.replace('\n', " ");
    for pem in [CA, &on_one_line] {
        let friends = sources(&["127.0.0.0/8"]).with_ca(pem).unwrap();
        let source = friends.open(&location, None, None).await.unwrap();
        assert_eq!(all(source.stream().await).await.unwrap(), b"abc");
    }
    for bad in ["x", "-----BEGIN CERTIFICATE----- AAAA -----END CERTIFICATE-----", &CA[..200]] {
        let refused = sources(&[]).with_ca(bad).err().unwrap().to_string();
        assert!(refused.contains("SOURCE_CA_PEM") && refused.contains("BEGIN CERTIFICATE"), "{refused}");
    }
    assert!(sources(&[]).with_ca("").is_ok());
}

#[tokio::test]
async fn a_server_on_ipv6_is_read() {
    let server = SourceServer::at("[::1]:0".parse().unwrap()).await.unwrap();
    let location = SourceLocation::parse(&server.serve("/x.img", Served::new(content(1)))).unwrap();
    let source = sources(&["::1/128"]).open(&location, None, None).await.unwrap();
    assert_eq!(all(source.stream().await).await.unwrap(), pattern::bytes(1, 0, 300_000));
    let refused = sources(&["127.0.0.0/8"]).open(&location, None, None).await.err().unwrap();
    assert_eq!(refused.code, FailureCode::SourceForbidden);
}
