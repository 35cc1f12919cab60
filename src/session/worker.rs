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
use crate::cache::Found;
use crate::event::{Attachment, Outcome, Sandbox, Spent};
use crate::id::{Seq, SessionId};
use crate::metric;
use crate::model::kept::{self, KeptAnswer};
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
    pub(super) from: AnswerFrom,
    pub(super) first_piece: Option<Duration>,
    pub(super) took: Duration,
}

/// Who gave an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerFrom {
    /// The model.
    Model,
    /// It had given it before.
    Cache,
}

/// The session is gone.
struct Gone;

impl ModelWork {
    pub(super) async fn run(mut self) {
        self.agent.tools.ready(Some(self.owner)).await;
        self.request.tools = self.agent.definitions();
        let agent = Arc::clone(&self.agent);
        let Some(answers) = &agent.answers else {
            self.ask(&mut None).await;
            return;
        };
        let key = kept::key(&self.claim.tenant, &self.model.account, &self.request);
        let known = answers.get(&key).await;
        let found = known.as_ref().map_or(Found::Made, |_| Found::Kept);
        metric::answer_cache_asked(&self.model.name, found.name());
        if let Some(known) = known {
            return self.say_again(known).await;
        }
        let mut heard = Some(KeptAnswer::default());
        self.ask(&mut heard).await;
        if let Some(heard) = heard.filter(KeptAnswer::is_whole) {
            answers.put(key, heard).await;
        }
    }

    /// An earlier answer takes no place and passes no door.
    async fn say_again(&self, known: KeptAnswer) {
        let credit = Arc::new(Semaphore::new(PIECES_WAITING));
        for piece in known.pieces() {
            if self.show(piece, &credit).await.is_err() {
                return;
            }
        }
        let none = (None, Duration::ZERO);
        let answer = Answer {
            usage: None,
            ..known.answer
        };
        self.tell(Ok(answer), AnswerFrom::Cache, none);
    }

    /// Asks the model. What is heard stays in `heard` if that is wanted and the answer is whole.
    async fn ask(&self, heard: &mut Option<KeptAnswer>) {
        // First the model's own limits: whoever waits there holds up nobody who asks another.
        let door = &self.model.door;
        let tokens = door.reservation(&self.request);
        let leave = match self.enter(door, tokens).await {
            Some(Ok(leave)) => leave,
            Some(Err(error)) => {
                *heard = None;
                return self.tell(Err(error), AnswerFrom::Model, (None, Duration::ZERO));
            }
            None => {
                *heard = None;
                return;
            }
        };
        let _place = self.shared.lanes.model_calls.enter(&self.claim).await;
        let begun = self.shared.clock.elapsed();
        let since = || self.shared.clock.elapsed().saturating_sub(begun);
        let mut first_piece = None;
        let credit = Arc::new(Semaphore::new(PIECES_WAITING));
        let mut pieces = self.model.model.answer(self.request.clone());
        let result = loop {
            let piece = match pieces.next().await {
                Some(Ok(piece)) => piece,
                Some(Err(error)) => break Err(error),
                None => break Err(cut_stream()),
            };
            if let Some(heard) = heard {
                heard.hear(&piece);
            }
            if let Piece::Done(answer) = piece {
                break Ok(answer);
            }
            first_piece.get_or_insert_with(since);
            if self.show(piece, &credit).await.is_err() {
                *heard = None;
                return;
            }
        };
        match &result {
            Ok(answer) => leave.answered(answer.usage.as_ref()),
            Err(error) => {
                *heard = None;
                leave.failed(error);
            }
        }
        self.tell(result, AnswerFrom::Model, (first_piece, since()));
    }

    async fn show(&self, piece: Piece, credit: &Arc<Semaphore>) -> Result<(), Gone> {
        let credit = Arc::clone(credit).acquire_owned().await;
        let credit = credit.map_err(|_closed| Gone)?;
        let of = self.of;
        let shown = self.session.cast(Msg::Piece { of, piece, credit });
        shown.map_err(|_gone| Gone)
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
        from: AnswerFrom,
        (first_piece, took): (Option<Duration>, Duration),
    ) {
        // A session that is gone will ask again after it has recovered.
        let _gone = self.session.cast(Msg::ModelEnded(ModelEnd {
            of: self.of,
            result,
            from,
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
