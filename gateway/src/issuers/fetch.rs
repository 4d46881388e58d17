//! The keys of an issuer, asked for once.

use std::{io, time::Duration};

use bytes::Bytes;
use http::{
    Request, StatusCode,
    header::{ACCEPT, HOST},
};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    select,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::config::Place;

/// Why there are no keys.
#[derive(Debug, Error)]
pub(super) enum FetchError {
    #[error("nobody is there: {0}")]
    Unreachable(#[from] io::Error),
    #[error("the answer was cut off: {0}")]
    Cut(#[from] hyper::Error),
    #[error("the answer came too late")]
    Late,
    /// A redirection with the others: who may send us elsewhere may say anything.
    #[error("the status is {0}")]
    Refused(StatusCode),
    #[error("the answer is too long, or no set of keys with one that can be used")]
    Unusable,
}

/// What is at `place`, within bounds of size and time.
pub(super) async fn fetch(place: &Place) -> Result<Bytes, FetchError> {
    timeout(PATIENCE, open(place)).await.map_err(|_| FetchError::Late)?
}

async fn open(place: &Place) -> Result<Bytes, FetchError> {
    let stream = TcpStream::connect((place.host.as_str(), place.port)).await?;
    match &place.tls {
        None => ask(stream, place).await,
        Some((config, name)) => {
            let connector = TlsConnector::from(config.clone());
            ask(connector.connect(name.clone(), stream).await?, place).await
        }
    }
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    place: &Place,
) -> Result<Bytes, FetchError> {
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let request = Request::get(&place.path)
        .header(HOST, &place.authority)
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::Unusable)?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Refused(answer.status()));
        }
        let body = Limited::new(answer.into_body(), LONGEST).collect().await;
        Ok(body.map_err(|_| FetchError::Unusable)?.to_bytes())
    };
    let drive = async {
        // It may end before its answer has been read; the answer tells how that went.
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    select! {
        biased;
        answer = answer => answer,
        () = drive => Err(FetchError::Unusable),
    }
}

/// How long a set of keys may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of a set of keys.
const LONGEST: usize = 256 * 1024;
