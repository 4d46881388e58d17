//! HTTP/2 in a client's own hands, frame by frame.

use std::{net::SocketAddr, path::Path, sync::Arc};

use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{Request, StatusCode};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A connection that speaks HTTP/2.
pub struct Http2(SendRequest<Bytes>);

/// A body that is being sent.
pub struct Body(SendStream<Bytes>);

impl Http2 {
    /// Connects to `address`, which has to show `certificate`.
    pub async fn connect(address: SocketAddr, certificate: &Path) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificate).expect("PEM")).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = TcpStream::connect(address).await.expect("somebody listens");
        let name = ServerName::try_from("localhost").expect("a name");
        let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.expect("TLS");
        let (sender, connection) = h2::client::handshake(tls).await.expect("HTTP/2");
        tokio::spawn(async { drop(connection.await) });
        Self(sender)
    }

    /// Posts JSON to `path`, of which `length` bytes are promised, or as many as will come. Returns
    /// the body, still to be sent, and the answer: its status and its body.
    pub async fn post(
        &mut self,
        path: &str,
        token: &str,
        length: Option<usize>,
    ) -> (Body, impl Future<Output = Result<(StatusCode, String), h2::Error>> + use<>) {
        let mut request = Request::post(format!("https://localhost{path}"))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json");
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        let mut sender = self.0.clone().ready().await.expect("the connection lives");
        let request = request.body(()).expect("a request");
        let (answer, body) = sender.send_request(request, false).expect("a stream");
        (Body(body), read(answer))
    }
}

impl Body {
    /// Sends `bytes`, which end the body if `is_last`.
    pub fn send(&mut self, bytes: &'static [u8], is_last: bool) -> Result<(), h2::Error> {
        self.0.send_data(Bytes::from_static(bytes), is_last)
    }
}

async fn read(answer: ResponseFuture) -> Result<(StatusCode, String), h2::Error> {
    let (head, body) = answer.await?.into_parts();
    Ok((head.status, text(body).await?))
}

async fn text(mut body: RecvStream) -> Result<String, h2::Error> {
    let mut text = Vec::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        text.extend_from_slice(&part);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}
