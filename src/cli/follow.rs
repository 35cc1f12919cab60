//! Follows one session's stream through lost connections: comes back with the last cursor.
//!
//! Used by `run`, `chat`, `attach` and `log --follow`.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::control::client::{Client, ClientError, Items};
use crate::control::wire::{Method, SendInput, Sent, StreamItem, Subscribe};
use crate::daemon::{Starter, ensure};

/// Between two tries to come back.
const PAUSE: Duration = Duration::from_millis(200);

/// Tries to come back; with the pause, about half a minute.
const TRIES: u32 = 150;

/// How a command reaches its daemon.
#[derive(Clone, Debug)]
pub(super) enum Access {
    /// It has to be there.
    Connect(PathBuf),
    /// It is started when it is not.
    Ensure(Box<Starter>),
}

impl Access {
    fn socket(&self) -> &Path {
        match self {
            Self::Connect(socket) => socket,
            Self::Ensure(starter) => &starter.settings.control.socket,
        }
    }

    /// A connection.
    pub(super) async fn client(&self) -> Result<Client> {
        match self {
            Self::Connect(socket) => Ok(Client::connect(socket).await?),
            Self::Ensure(starter) => ensure(starter).await,
        }
    }
}

/// A stream that survives its connection.
#[derive(Debug)]
pub(super) struct Follow {
    access: Access,
    socket: PathBuf,
    subscribe: Subscribe,
    client: Client,
    items: Items,
    /// Read while a call was waiting for its answer.
    pending: VecDeque<StreamItem>,
    /// Where to come back to.
    pub(super) cursor: String,
}

impl Follow {
    /// Subscribes.
    pub(super) async fn begin(
        access: Access,
        client: Client,
        subscribe: Subscribe,
    ) -> Result<Self> {
        let items = client.subscribe(subscribe.clone()).await?;
        Ok(Self {
            socket: access.socket().to_owned(),
            access,
            subscribe,
            client,
            cursor: items.cursor.clone(),
            items,
            pending: VecDeque::new(),
        })
    }

    /// The next item; `None` after the end of the stream. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<StreamItem>> {
        loop {
            let item = match self.pending.pop_front() {
                Some(item) => Some(item),
                None => self.items.next().await,
            };
            match item {
                Some(StreamItem::End { reason, .. }) if reason == "slow" || reason == "lost" => {
                    self.come_back().await?;
                }
                Some(item @ StreamItem::End { .. }) => {
                    if !self.is_taken_over(&item).await {
                        return Ok(Some(self.passed(item)));
                    }
                    self.come_back().await?;
                }
                Some(item) => return Ok(Some(self.passed(item))),
                None => self.come_back().await?,
            }
        }
    }

    /// Calls a method; items that come meanwhile are kept for [`Follow::next`].
    pub(super) async fn call<R: DeserializeOwned>(
        &mut self,
        method: Method,
        params: impl Serialize,
    ) -> Result<R> {
        let client = self.client.clone();
        let call = client.call(method, params);
        tokio::pin!(call);
        let mut is_open = true;
        loop {
            tokio::select! {
                answer = &mut call => return Ok(answer?),
                item = self.items.next(), if is_open => match item {
                    Some(item) => self.pending.push_back(item),
                    None => is_open = false,
                },
            }
        }
    }

    /// Sends an input that has a key. When the connection is lost before the answer came, it is
    /// sent again: the same key is the same input.
    pub(super) async fn send(&mut self, input: &SendInput) -> Result<Sent> {
        loop {
            match self.call(Method::SessionSend, input).await {
                Err(error) if was_lost(&error) => self.come_back().await?,
                outcome => return outcome,
            }
        }
    }

    /// Whether the stream ended because the daemon stops, and its socket is still there: then
    /// another one takes its place. Calls wait in the socket's queue until it does.
    async fn is_taken_over(&mut self, end: &StreamItem) -> bool {
        let StreamItem::End { reason, .. } = end else {
            return false;
        };
        if reason != "stopping" || Client::connect(&self.socket).await.is_err() {
            return false;
        }
        end.cursor().clone_into(&mut self.cursor);
        true
    }

    fn passed(&mut self, item: StreamItem) -> StreamItem {
        item.cursor().clone_into(&mut self.cursor);
        item
    }

    async fn come_back(&mut self) -> Result<()> {
        let subscribe = Subscribe {
            cursor: Some(self.cursor.clone()),
            ..self.subscribe.clone()
        };
        let mut tries = 0;
        loop {
            tries += 1;
            match self.subscribe_again(subscribe.clone()).await {
                Err(error) if tries < TRIES && may_pass(&error) => {
                    tokio::time::sleep(PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn subscribe_again(&mut self, subscribe: Subscribe) -> Result<()> {
        let client = self.access.client().await?;
        self.items = client.subscribe(subscribe).await?;
        // What was read and not passed comes again.
        self.pending.clear();
        self.client = client;
        Ok(())
    }
}

fn was_lost(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ClientError::Lost(_)))
}

/// Whether it may help to try again: nobody was there, or nobody had the time.
fn may_pass(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Refused(refusal)) => {
            refusal.data.as_ref().is_some_and(|data| data.retryable)
        }
        Some(_) => true,
        None => false,
    }
}
