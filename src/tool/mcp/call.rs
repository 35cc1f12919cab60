//! One call of a server's tool: sent, listened to, cancelled when nobody waits any more.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rmcp::model::{
    CallToolRequest, CallToolRequestParams, ClientRequest, ProgressNotificationParam,
    RequestMetaObject, ServerResult,
};
use rmcp::service::{PeerRequestOptions, RequestHandle, RoleClient, ServiceError};
use serde_json::Map;
use tokio::sync::mpsc;

use super::keeper::{InUse, NoServer, Patience};
use super::listed::Listed;
use super::tap::Listener;
use super::{Server, content, link, way};
use crate::tool::{Invocation, MAX_ATTACHED, ToolError};

/// How a server ended is waited for so long, to say so.
const END: Duration = Duration::from_secs(3);
/// A notice that a call was cancelled is given so long to go out.
const NOTICE: Duration = Duration::from_secs(5);

/// Under these names a server finds which call this is a run of.
const KEY: &str = "impresario/idempotencyKey";
const ATTEMPT: &str = "impresario/attempt";

/// Runs a tool once.
pub(super) async fn call(
    server: &Arc<Server>,
    tool: &Listed,
    invocation: Invocation,
) -> Result<String, ToolError> {
    let used = use_once(server, tool, &invocation).await;
    if let Err(Fault::NotSent(_)) = used {
        // The server had ended unseen, and never heard of this call.
        return Ok(use_once(server, tool, &invocation).await?);
    }
    Ok(used?)
}

/// Why a call gave no answer.
enum Fault {
    /// The server never heard of it.
    NotSent(String),
    Tool(ToolError),
}

impl From<Fault> for ToolError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::NotSent(why) => Self::Refused(why),
            Fault::Tool(error) => error,
        }
    }
}

async fn use_once(
    server: &Server,
    tool: &Listed,
    invocation: &Invocation,
) -> Result<String, Fault> {
    let acquired = server.acquire(invocation.owner, Patience::Rest).await;
    let in_use = acquired.map_err(|none| Fault::Tool(not_made(none, tool)))?;
    if let Some(level) = in_use.link.told.sandbox() {
        invocation.output.confined(level);
    }
    match ask(server.spec.timeout, &in_use, tool, invocation).await {
        Ok(result) => read(result, invocation).map_err(Fault::Tool),
        Err(Silence::TooLong) => Err(Fault::Tool(ToolError::TimedOut(format!(
            "the server was silent for {} ms",
            server.spec.timeout.as_millis()
        )))),
        Err(Silence::Refused) => Err(Fault::NotSent(
            "the server has begun anew and does not know this company".to_owned(),
        )),
        Err(Silence::Error(error)) => Err(fault(&in_use, &error).await),
    }
}

/// What it means that there is no server: the call was surely not made. What may run again is tried
/// again when the server might be there.
fn not_made(none: NoServer, tool: &Listed) -> ToolError {
    match none {
        NoServer::NotNow(why) if tool.spec.effect.may_run_again() => ToolError::Died(why),
        NoServer::NotNow(why) | NoServer::GivenUp(why) => ToolError::Refused(why),
    }
}

/// Why no answer came.
enum Silence {
    TooLong,
    /// The server does not know us any more, and did nothing.
    Refused,
    Error(ServiceError),
}

impl From<ServiceError> for Silence {
    fn from(error: ServiceError) -> Self {
        Self::Error(error)
    }
}

/// Sends the call and waits for its answer, as long as the server is not silent for too long.
/// Progress is shown as it comes.
async fn ask(
    patience: Duration,
    in_use: &InUse,
    tool: &Listed,
    invocation: &Invocation,
) -> Result<ServerResult, Silence> {
    let (listener, mut progress) = Listener::new();
    let (request, meta) = request(tool, invocation, listener);
    let options = PeerRequestOptions::no_options().with_meta(meta);
    let handle = in_use.link.peer.send_cancellable_request(request, options);
    let mut sent = Sent(Some(handle.await?));
    let mut silence = pin!(tokio::time::sleep(patience));
    let answer = loop {
        tokio::select! {
            biased;
            Some(heard) = progress.recv() => {
                invocation.output.send(text(&heard)).await;
                silence.set(tokio::time::sleep(patience));
            }
            answer = sent.answer() => break answer?,
            () = in_use.link.ends.gone.cancelled() => return Err(gone(in_use)),
            () = &mut silence => return Err(Silence::TooLong),
        }
    };
    sent.0 = None;
    show_rest(&mut progress, invocation).await;
    Ok(answer)
}

/// The wire has ended. When a request was refused, and this is the only one, it was this.
fn gone(in_use: &InUse) -> Silence {
    if in_use.link.ends.refused.is_cancelled() && in_use.link.calls() == 1 {
        return Silence::Refused;
    }
    ServiceError::TransportClosed.into()
}

/// What came before the answer is shown before it.
async fn show_rest(
    progress: &mut mpsc::Receiver<ProgressNotificationParam>,
    invocation: &Invocation,
) {
    while let Ok(heard) = progress.try_recv() {
        invocation.output.send(text(&heard)).await;
    }
}

fn request(
    tool: &Listed,
    invocation: &Invocation,
    listener: Listener,
) -> (ClientRequest, RequestMetaObject) {
    // Checked before: arguments are an object.
    let arguments = invocation.arguments.as_object();
    let arguments = arguments.cloned().unwrap_or_default();
    let params = CallToolRequestParams::new(tool.own.clone()).with_arguments(arguments);
    let mut request = CallToolRequest::new(params);
    request.extensions.insert(listener);
    let mut meta = Map::new();
    meta.insert(KEY.to_owned(), invocation.idempotency_key.clone().into());
    meta.insert(ATTEMPT.to_owned(), invocation.attempt.into());
    (
        ClientRequest::CallToolRequest(request),
        RequestMetaObject::from(meta),
    )
}

/// A call that is out. When it is dropped without an answer, the server is told that nobody waits.
struct Sent(Option<RequestHandle<RoleClient>>);

impl Sent {
    fn answer(&mut self) -> impl Future<Output = Result<ServerResult, ServiceError>> + '_ {
        let handle = self.0.as_mut();
        async move {
            match handle {
                Some(handle) => (&mut handle.rx)
                    .await
                    .unwrap_or(Err(ServiceError::TransportClosed)),
                None => std::future::pending().await,
            }
        }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        let Some(handle) = self.0.take() else {
            return;
        };
        // Outside a runtime everything ends, and the server with it.
        if tokio::runtime::Handle::try_current().is_ok() {
            crate::clock::spawn(async move {
                let notice = handle.cancel(Some("nobody waits for the answer".to_owned()));
                let _unheard = tokio::time::timeout(NOTICE, notice).await;
            });
        }
    }
}

/// Progress as a line for whoever follows.
fn text(heard: &ProgressNotificationParam) -> String {
    let amount = match heard.total {
        Some(total) => format!("{}/{total}", heard.progress),
        None => heard.progress.to_string(),
    };
    match &heard.message {
        Some(message) => format!("{amount} {message}\n"),
        None => format!("{amount}\n"),
    }
}

/// What the server answered.
fn read(result: ServerResult, invocation: &Invocation) -> Result<String, ToolError> {
    let ServerResult::CallToolResult(result) = result else {
        let says = "the server answered with something else than a result: it asks for input, or puts the call off, which is not supported";
        return Err(ToolError::Failed(says.to_owned()));
    };
    let is_error = result.is_error == Some(true);
    let answer = content::answer(result, MAX_ATTACHED);
    if is_error {
        return Err(ToolError::Failed(answer.text));
    }
    invocation.output.attach(answer.attachments);
    Ok(answer.text)
}

/// What no answer means. Whoever broke the connection is not called again.
async fn fault(in_use: &InUse, error: &ServiceError) -> Fault {
    let is_broken = matches!(
        error,
        ServiceError::TransportSend(_) | ServiceError::TransportClosed
    );
    if !is_broken {
        return Fault::Tool(ToolError::Failed(link::says(error)));
    }
    in_use.link.ends.gone.cancel();
    let why = format!("the server cannot be reached: {}", link::says(error));
    if way::was_not_sent(error) {
        return Fault::NotSent(why);
    }
    let over = tokio::time::timeout(END, in_use.link.over.cancelled()).await;
    let end = in_use.link.end.get().filter(|_| over.is_ok());
    let end = end.map_or(why, |end| {
        format!("the server ended during the call: {end}")
    });
    Fault::Tool(ToolError::Died(end))
}

#[cfg(test)]
mod tests {
    use rmcp::model::{NumberOrString, ProgressToken};

    use super::*;

    #[test]
    fn progress_is_a_line_with_what_the_server_says() {
        let token = || ProgressToken(NumberOrString::Number(1));
        let mut heard = ProgressNotificationParam::new(token(), 2.0);
        assert_eq!(text(&heard), "2\n");
        heard.total = Some(5.0);
        assert_eq!(text(&heard), "2/5\n");
        heard.message = Some("copying".to_owned());
        heard.progress = 2.5;
        assert_eq!(text(&heard), "2.5/5 copying\n");
    }
}
