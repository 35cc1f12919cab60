//! Stands between the SDK and the wire, and sees each message as it passes.
//!
//! Called by the SDK. It hands progress to the call that it belongs to, in the order of the wire and
//! before the call's answer: the SDK gives each notification to a task of its own, and tells a call
//! its token only when the request may be out. And it tells when the server is gone.

use std::collections::HashMap;
use std::future::Future;

use rmcp::model::{
    ClientRequest, JsonRpcMessage, ProgressNotificationParam, ProgressToken, RequestMetaObject,
    ServerNotification,
};
use rmcp::service::{RoleClient, RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// So much progress of one call may wait; what comes beyond that is passed over, because the next
/// says more.
const WAITING: usize = 64;

/// Takes the progress of one call. Travels in the request.
#[derive(Clone, Debug)]
pub(super) struct Listener(mpsc::Sender<ProgressNotificationParam>);

impl Listener {
    /// A listener, and where it puts what it hears.
    pub(super) fn new() -> (Self, mpsc::Receiver<ProgressNotificationParam>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), receiver)
    }
}

/// The wire of one server.
#[derive(Debug)]
pub(super) struct Tap<T> {
    wire: T,
    listeners: HashMap<ProgressToken, Listener>,
    nameless: Nameless,
    ends: Ends,
}

/// How a wire ends.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends {
    /// Nothing more will come.
    pub(super) gone: CancellationToken,
    /// Some request was refused, and not said which: the server does not know us any more.
    pub(super) refused: CancellationToken,
}

/// What an error means that names no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nameless {
    /// Over HTTP: the server has begun anew and does not know the session.
    Refusal,
    /// Over pipes: it could not read something.
    Nothing,
}

impl<T> Tap<T> {
    /// Around this wire; `ends` is told how it ends.
    pub(super) fn new(wire: T, ends: Ends, nameless: Nameless) -> Self {
        Self {
            wire,
            listeners: HashMap::new(),
            ends,
            nameless,
        }
    }

    /// A call that wants to hear of its progress is about to go out.
    fn passes_out(&mut self, message: &TxJsonRpcMessage<RoleClient>) {
        let JsonRpcMessage::Request(request) = message else {
            return;
        };
        let ClientRequest::CallToolRequest(call) = &request.request else {
            return;
        };
        let token = call
            .extensions
            .get::<RequestMetaObject>()
            .and_then(RequestMetaObject::get_progress_token);
        if let (Some(token), Some(listener)) = (token, call.extensions.get::<Listener>()) {
            self.listeners.retain(|_, it| !it.0.is_closed());
            self.listeners.insert(token, listener.clone());
        }
    }

    fn passes_in(&self, message: &RxJsonRpcMessage<RoleClient>) {
        if let JsonRpcMessage::Error(error) = message
            && error.id.is_none()
            && self.nameless == Nameless::Refusal
        {
            self.ends.refused.cancel();
            self.ends.gone.cancel();
        }
        let JsonRpcMessage::Notification(notification) = message else {
            return;
        };
        let ServerNotification::ProgressNotification(progress) = &notification.notification else {
            return;
        };
        if let Some(listener) = self.listeners.get(&progress.params.progress_token) {
            // Full: the next says more. Closed: the call is over.
            let _passed_over = listener.0.try_send(progress.params.clone());
        }
    }
}

impl<T: Transport<RoleClient>> Transport<RoleClient> for Tap<T> {
    type Error = T::Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleClient>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        self.passes_out(&message);
        self.wire.send(message)
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
        let message = self.wire.receive().await;
        match &message {
            Some(message) => self.passes_in(message),
            None => self.ends.gone.cancel(),
        }
        message
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        let closed = self.wire.close().await;
        self.ends.gone.cancel();
        closed
    }
}
