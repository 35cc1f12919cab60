//! The actors that carry out effects: one per model call, one per tool call, linked to their
//! session. A worker does its one piece of work in one message, tells the session, and ends.
//!
//! Killing it drops the work at its await: the HTTP stream is closed, the process group is ended.
//! A panic reaches the session as the failure of a linked actor.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{BoxFuture, Either};
use futures_util::{FutureExt, StreamExt};
use ractor::rpc::CallResult;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::sync::{Semaphore, mpsc};

use super::Msg;
use super::errands::CallChildren;
use super::shared::{Agent, ModelEntry, Shared};
use crate::admission::Claim;
use crate::event::{Attachment, Outcome, Sandbox, Spent};
use crate::id::{Seq, SessionId};
use crate::model::limits::{Door, Leave};
use crate::model::{Answer, ModelError, ModelErrorKind, Piece, Request};
use crate::store::MAX_EVENT_BYTES;
use crate::tool::host::cut;
use crate::tool::{Call, OutputSink, RunEnd, Toolbox};
use crate::turn::OpenCall;

/// So many pieces of one effect may wait in the session's mailbox; then the effect waits.
const PIECES_WAITING: usize = 64;
/// So many pieces of a tool's output may wait in its worker.
const OUTPUT_WAITING: usize = 16;

/// A result has at most so many bytes, whatever the tool's limit is: it has to fit into an event.
const RESULT_KEPT: usize = MAX_EVENT_BYTES - (64 << 10);

/// Work for a worker.
pub(super) type Work = BoxFuture<'static, ()>;

/// Starts a worker below its session.
pub(super) async fn start(work: Work, session: ActorCell) -> Result<ActorCell, SpawnErr> {
    let (actor, _task) = Actor::spawn_linked(None, Worker, work, session).await?;
    Ok(actor.get_cell())
}

struct Worker;

impl Actor for Worker {
    type Msg = ();
    type State = Option<Work>;
    type Arguments = Work;

    async fn pre_start(
        &self,
        myself: ActorRef<()>,
        work: Work,
    ) -> Result<Option<Work>, ActorProcessingErr> {
        myself.cast(())?;
        Ok(Some(work))
    }

    async fn handle(
        &self,
        myself: ActorRef<()>,
        (): (),
        work: &mut Option<Work>,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(work) = work.take() {
            work.await;
        }
        myself.stop(None);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<()>,
        _event: SupervisionEvent,
        _work: &mut Option<Work>,
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

/// A model call.
pub(super) struct ModelWork {
    pub(super) of: Seq,
    /// Who wants the places.
    pub(super) claim: Claim,
    pub(super) model: Arc<ModelEntry>,
    /// Without the tools, which are known when the agent's servers are.
    pub(super) request: Request,
    pub(super) owner: SessionId,
    pub(super) agent: Arc<Agent>,
    pub(super) shared: Arc<Shared>,
    pub(super) session: ActorRef<Msg>,
}

/// How a model call ended.
#[derive(Debug)]
pub(super) struct ModelEnd {
    pub(super) of: Seq,
    pub(super) result: Result<Answer, ModelError>,
    pub(super) first_piece: Option<Duration>,
    pub(super) took: Duration,
}

impl ModelWork {
    pub(super) async fn run(mut self) {
        self.agent.tools.ready(Some(self.owner)).await;
        self.request.tools = self.agent.definitions();
        // First the model's own limits: whoever waits there holds up nobody who asks another.
        let door = &self.model.door;
        let tokens = door.reservation(&self.request);
        let leave = match self.enter(door, tokens).await {
            Some(Ok(leave)) => leave,
            Some(Err(error)) => return self.tell(Err(error), (None, Duration::ZERO)),
            None => return,
        };
        let _place = self.shared.lanes.model_calls.enter(&self.claim).await;
        let begun = self.shared.clock.elapsed();
        let since = || self.shared.clock.elapsed().saturating_sub(begun);
        let mut first_piece = None;
        let credit = Arc::new(Semaphore::new(PIECES_WAITING));
        let mut pieces = self.model.model.answer(self.request.clone());
        let result = loop {
            let piece = match pieces.next().await {
                Some(Ok(Piece::Done(answer))) => break Ok(answer),
                Some(Ok(piece)) => piece,
                Some(Err(error)) => break Err(error),
                None => break Err(cut_stream()),
            };
            first_piece.get_or_insert_with(since);
            let Ok(credit) = Arc::clone(&credit).acquire_owned().await else {
                return;
            };
            let of = self.of;
            if self.session.cast(Msg::Piece { of, piece, credit }).is_err() {
                return;
            }
        };
        match &result {
            Ok(answer) => leave.answered(answer.usage.as_ref()),
            Err(error) => leave.failed(error),
        }
        self.tell(result, (first_piece, since()));
    }

    /// Leave for the call; `None` when its session is gone. While it waits, others may have the
    /// turn's place, so that a provider that lets nobody in holds up nobody who asks another.
    async fn enter(&self, door: &Arc<Door>, tokens: u32) -> Option<Result<Leave, ModelError>> {
        let mut entering = std::pin::pin!(door.enter(&self.claim, tokens));
        if let Poll::Ready(entered) = futures_util::poll!(&mut entering) {
            return Some(entered);
        }
        self.session.cast(Msg::AtDoor(self.of)).ok()?;
        let entered = entering.await;
        if entered.is_ok() {
            let through = |begin| Msg::ThroughDoor(self.of, begin);
            match self.session.call(through, None).await {
                Ok(CallResult::Success(())) => {}
                Ok(CallResult::Timeout | CallResult::SenderError) | Err(_) => return None,
            }
        }
        Some(entered)
    }

    fn tell(
        &self,
        result: Result<Answer, ModelError>,
        (first_piece, took): (Option<Duration>, Duration),
    ) {
        // A session that is gone will ask again after it has recovered.
        let _gone = self.session.cast(Msg::ModelEnded(ModelEnd {
            of: self.of,
            result,
            first_piece,
            took,
        }));
    }
}

fn cut_stream() -> ModelError {
    ModelError {
        kind: ModelErrorKind::CutStream,
        message: "the answer ended without an end".to_owned(),
        retry_after: None,
    }
}

/// A tool call.
pub(super) struct ToolWork {
    pub(super) id: SessionId,
    /// Who wants the places.
    pub(super) claim: Claim,
    pub(super) open: OpenCall,
    pub(super) tools: Toolbox,
    /// No run follows; how the last one ended, if something can stand in for the tool.
    pub(super) fallen: Option<(Outcome, String)>,
    /// The sessions that it begins.
    pub(super) children: CallChildren,
    /// Wait so long before the run begins.
    pub(super) backoff: Duration,
    /// Places among the calls of one step.
    pub(super) step: Arc<Semaphore>,
    pub(super) shared: Arc<Shared>,
    pub(super) session: ActorRef<Msg>,
}

/// How a run of a tool ended.
#[derive(Debug)]
pub(super) struct ToolEnd {
    pub(super) of: Seq,
    pub(super) attempt: u32,
    pub(super) how: RunEnd,
    /// How the run was confined, where it was a program's.
    pub(super) sandbox: Option<Sandbox>,
    /// What came with its text.
    pub(super) attachments: Vec<Attachment>,
    /// What the sessions that it began spent, if it began any.
    pub(super) spent: Option<Spent>,
}

impl ToolWork {
    pub(super) async fn run(self) {
        if !self.backoff.is_zero() {
            tokio::time::sleep(self.backoff).await;
        }
        let Ok(_step) = Arc::clone(&self.step).acquire_owned().await else {
            return;
        };
        // One that waits for an agent holds no place that the agent's own tools may need.
        let _place = if self.tools.waits_for_agents(&self.open.tool) {
            None
        } else {
            Some(self.shared.lanes.tool_workers.enter(&self.claim).await)
        };
        let (sender, output) = mpsc::channel(OUTPUT_WAITING);
        let sink = OutputSink::new(sender);
        let told = sink.listen();
        let how = self.call(sink, output).await;
        let attachments = told.attachments();
        let how = match how {
            RunEnd::Done(outcome, text, cause) => {
                let room =
                    RESULT_KEPT.saturating_sub(attachments.iter().map(Attachment::held).sum());
                RunEnd::Done(outcome, cut(text, room), cause)
            }
            died @ RunEnd::Died(..) => died,
        };
        // A session that is gone will find the call open when it recovers.
        let _gone = self.session.cast(Msg::ToolEnded(ToolEnd {
            of: self.open.of,
            attempt: self.open.attempt,
            how,
            sandbox: told.sandbox(),
            attachments,
            spent: self.children.spent(),
        }));
    }

    async fn call(&self, sink: OutputSink, output: mpsc::Receiver<String>) -> RunEnd {
        let call = Call {
            tool: self.open.tool.clone(),
            arguments: self.open.arguments.clone(),
            idempotency_key: format!("{}:{}", self.id, self.open.of),
            attempt: self.open.attempt,
            owner: Some(self.id),
            output: sink,
            agents: Some(Arc::new(self.children.clone())),
        };
        // The run's last words are shown before its end is told; one that left its sink with
        // somebody else is not waited for.
        let (mut run, show) = (
            std::pin::pin!(self.run_or_stand_in(call)),
            std::pin::pin!(self.show(output)),
        );
        match futures_util::future::select(&mut run, show).await {
            Either::Left((ended, show)) => {
                // What waits is taken at once; the rest of what may come is not.
                let _shown = show.now_or_never();
                ended
            }
            Either::Right(((), run)) => run.await,
        }
    }

    /// The sink goes with the call, when it has ended.
    async fn run_or_stand_in(&self, call: Call) -> RunEnd {
        match &self.fallen {
            None => self.tools.run(&call).await,
            Some((outcome, reason)) => {
                let died = RunEnd::Died(*outcome, reason.clone());
                self.tools.stand_in(&call, died).await
            }
        }
    }

    /// Shows the tool's output as it comes; ends when there will be no more, or nobody to show it.
    async fn show(&self, mut output: mpsc::Receiver<String>) {
        let credit = Arc::new(Semaphore::new(PIECES_WAITING));
        while let Some(text) = output.recv().await {
            let Ok(credit) = Arc::clone(&credit).acquire_owned().await else {
                return;
            };
            let of = self.open.of;
            let attempt = self.open.attempt;
            let shown = self.session.cast(Msg::Output {
                of,
                attempt,
                text,
                credit,
            });
            if shown.is_err() {
                return;
            }
        }
    }
}
