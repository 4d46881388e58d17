//! Connections for the gateway's own questions, kept from one to the next.

use std::{
    future::pending,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use hyper_util::rt::TokioIo;

use super::BackendError;
use crate::link::{Connected, Link};

/// Connections that wait for the next question. Who has one need not hope for another: a backend
/// that is full still hears them.
pub(super) struct Lines {
    idle: Mutex<Vec<Line>>,
    /// How many are kept.
    most: usize,
}

/// One connection. It is driven while something is asked and not in between, so that no task has
/// to live beside it.
struct Line {
    sender: SendRequest<Full<Bytes>>,
    /// `None` once it has ended. Kept any longer, it would leave its sender waiting.
    connection: Option<Connection<TokioIo<Connected>, Full<Bytes>>>,
}

impl Lines {
    /// Keeps at most `most`.
    pub(super) fn new(most: usize) -> Self {
        Self { idle: Mutex::default(), most }
    }

    /// Asks by a connection that is there, or by a new one over `link`.
    ///
    /// One that waited may have been closed meanwhile, so what it fails at is asked once more:
    /// nothing of what we say by ourselves does harm twice.
    pub(super) async fn ask(
        &self,
        request: Request<Full<Bytes>>,
        link: &Link,
    ) -> Result<(StatusCode, Bytes), BackendError> {
        let waiting = self.idle().pop();
        if let Some(line) = waiting {
            match self.ask_by(line, request.clone()).await {
                Err(BackendError::Cut(_)) => {}
                answered => return answered,
            }
        }
        let stream = link.connect().await.map_err(BackendError::Unreachable)?;
        self.ask_by(Line::over(stream).await?, request).await
    }

    async fn ask_by(
        &self,
        mut line: Line,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), BackendError> {
        let answer = line.ask(request).await?;
        let mut idle = self.idle();
        if line.connection.is_some() && idle.len() < self.most {
            idle.push(line);
        }
        Ok(answer)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Line>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    async fn over(stream: Connected) -> Result<Self, BackendError> {
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(BackendError::Cut)?;
        Ok(Self { sender, connection: Some(connection) })
    }

    async fn ask(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), BackendError> {
        let Self { sender, connection } = self;
        let answer = async {
            sender.ready().await.map_err(BackendError::Cut)?;
            let answer = sender.send_request(request).await.map_err(BackendError::Cut)?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, LONGEST_ANSWER).collect().await;
            Ok((head.status, body.map_err(|_| BackendError::Unusable)?.to_bytes()))
        };
        let drive = async {
            if let Some(connection) = connection.as_mut() {
                let _ = connection.await;
            }
            *connection = None;
            pending().await
        };
        tokio::select! {
            biased;
            answer = answer => answer,
            // It may end before its answer has been read; the answer tells how that went.
            never = drive => never,
        }
    }
}

/// Bytes: a hundred thousand revocations.
const LONGEST_ANSWER: usize = 16 * 1024 * 1024;
