//! OpenAI's chat completions, as streams of server-sent events.
//!
//! Called by [`crate::model::provider`]. Never retries and follows no redirect; the key stands in
//! one header alone, which is marked as secret.

mod body;
mod chunk;
mod sse;

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::stream::{self, Stream};
use futures_util::{StreamExt, TryStreamExt};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Response, Url};

use crate::clock::{Clock, SystemClock};
use crate::model::provider::openai::body::Body;
use crate::model::provider::openai::chunk::Collected;
use crate::model::provider::openai::sse::Events;
use crate::model::provider::{NoClient, convert, cut, errors};
use crate::model::{ModelError, Piece, PieceStream, Request};

/// So much is read of the body of an error; what says why is far shorter.
const MAX_REFUSAL_BYTES: usize = 64 << 10;

/// A model at an address that speaks chat completions.
pub(super) struct Openai {
    client: reqwest::Client,
    url: Url,
    headers: HeaderMap,
    model: String,
}

impl Openai {
    /// `base_url` ends with a slash; its query, if any, is kept.
    pub(super) fn new(
        client: reqwest::Client,
        base_url: &str,
        model: &str,
        key: &str,
    ) -> Result<Self, NoClient> {
        let base =
            Url::parse(base_url).map_err(|_error| NoClient::new("base_url is no address"))?;
        let mut url = base
            .join("chat/completions")
            .map_err(|_error| NoClient::new("nothing can follow base_url"))?;
        url.set_query(base.query());
        let mut bearer = HeaderValue::try_from(format!("Bearer {key}"))
            .map_err(|_error| NoClient::new("the key cannot stand in a header"))?;
        bearer.set_sensitive(true);
        let json = HeaderValue::from_static("application/json");
        let headers = HeaderMap::from_iter([(AUTHORIZATION, bearer), (CONTENT_TYPE, json)]);
        Ok(Self {
            client,
            url,
            headers,
            model: model.to_owned(),
        })
    }

    /// Nothing is sent before the stream is read. Dropping the stream closes the connection.
    pub(super) fn answer(self: &Arc<Self>, request: Request) -> PieceStream {
        let openai = Arc::clone(self);
        let reading = async move { openai.ask(request).await.map(Reading::pieces) };
        stream::once(reading).try_flatten().boxed()
    }

    async fn ask(&self, request: Request) -> Result<Reading, ModelError> {
        let sent = self.to_http(&request)?;
        // The conversation may be long, and the answer may take minutes.
        drop(request);
        let response = self.client.execute(sent).await;
        let response = response.map_err(|error| errors::of_transport(&error))?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        Ok(Reading {
            response,
            decoder: Decoder::default(),
        })
    }

    fn to_http(&self, request: &Request) -> Result<reqwest::Request, ModelError> {
        let body = serde_json::to_vec(&Body::new(&self.model, request))
            .map_err(|_error| errors::not_to_be_sent())?;
        let mut sent = reqwest::Request::new(Method::POST, self.url.clone());
        let headers = sent.headers_mut();
        headers.clone_from(&self.headers);
        let key = convert::idempotency_key(&request.key);
        if let Some(key) = key.and_then(|key| HeaderValue::from_str(key).ok()) {
            headers.insert(convert::IDEMPOTENCY_KEY, key);
        }
        *sent.body_mut() = Some(body.into());
        Ok(sent)
    }
}

/// What the provider answered instead of a stream.
async fn refusal(mut response: Response) -> ModelError {
    let status = response.status();
    let headers = std::mem::take(response.headers_mut());
    let mut body = Vec::new();
    // A body that breaks changes nothing: the status is known.
    while body.len() < MAX_REFUSAL_BYTES
        && let Ok(Some(bytes)) = response.chunk().await
    {
        body.extend_from_slice(&bytes);
    }
    errors::of_status(status, &headers, &body, SystemClock::new().now())
}

/// An answer being read.
struct Reading {
    response: Response,
    decoder: Decoder,
}

impl Reading {
    fn pieces(self) -> impl Stream<Item = Result<Piece, ModelError>> {
        stream::try_unfold(Some(Box::new(self)), |reading| async {
            let Some(mut reading) = reading else {
                return Ok(None);
            };
            let piece = reading.next().await?;
            let is_last = matches!(piece, Piece::Done(_));
            Ok(Some((piece, (!is_last).then_some(reading))))
        })
    }

    async fn next(&mut self) -> Result<Piece, ModelError> {
        loop {
            if let Some(piece) = self.decoder.next() {
                return piece;
            }
            match self.response.chunk().await {
                Ok(Some(bytes)) => self.decoder.push(&bytes),
                Ok(None) => self.decoder.close(),
                Err(error) => return Err(errors::of_transport(&error)),
            }
        }
    }
}

/// From the bytes of a stream to the pieces of an answer. Pure.
///
/// What came before an error is given before it; after the end, or an error, nothing is.
#[derive(Default)]
struct Decoder {
    events: Events,
    collected: Collected,
    pieces: VecDeque<Result<Piece, ModelError>>,
    is_over: bool,
}

impl Decoder {
    /// Takes in what came, cut anywhere.
    fn push(&mut self, bytes: &[u8]) {
        let Self {
            events,
            collected,
            pieces,
            is_over,
        } = self;
        let taken = events.push(bytes, |data| {
            if !*is_over {
                collected.take_in(data, |piece| {
                    *is_over = matches!(piece, Piece::Done(_));
                    pieces.push_back(Ok(piece));
                })?;
            }
            Ok(())
        });
        if let Err(error) = taken {
            self.fail(error);
        }
    }

    /// Nothing will come any more. The last event may lack the empty line after it.
    fn close(&mut self) {
        self.push(b"\n\n");
        self.fail(cut("the stream ended before the answer did"));
    }

    fn next(&mut self) -> Option<Result<Piece, ModelError>> {
        self.pieces.pop_front()
    }

    fn fail(&mut self, error: ModelError) {
        if !self.is_over {
            self.is_over = true;
            self.pieces.push_back(Err(error));
        }
    }
}

#[cfg(test)]
mod tests;
