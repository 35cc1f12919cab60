//! Commands that talk: `run`, `chat`, `new`, `send`, `attach`.

use std::io::Read;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::args::{NewSession, Saying};
use crate::cli::asking::Asking;
use crate::cli::follow::{Access, Follow};
use crate::cli::printer::{Inputs, Printer};
use crate::cli::remark;
use crate::cli::screen::{Screen, Style};
use crate::cli::whole;
use crate::clock::{Clock, SystemClock};
use crate::control::client::Client;
use crate::control::wire::{
    Cancelled, CreateSession, Done, Event, LlmRequest, Method, OneSession, SendInput, Sent,
    Session, Start, StreamItem, Subscribe, TurnFinished, TurnStarted,
};
use crate::daemon::Exit;

/// Where somebody talks, and who that is.
#[derive(Debug)]
pub(super) struct At {
    pub(super) access: Access,
    pub(super) person: Option<String>,
    /// A session that is there already.
    pub(super) session: Option<String>,
}

/// `run`: one turn.
pub(super) async fn run(
    at: At,
    screen: &mut Screen,
    text: String,
    key: Option<String>,
    new: NewSession,
) -> Result<Exit> {
    let content = words(text)?;
    let client = at.access.client().await?;
    // A key may be that of an earlier turn: its answer is in the log.
    let start = match (&at.session, &key) {
        (Some(_), None) => Start::Now,
        (None, _) | (Some(_), Some(_)) => Start::First,
    };
    let session = find_or_create(&client, at.session.clone(), new).await?;
    screen.note(&format!("session {session}"))?;
    let mut conversation = Conversation::begin((at, client), session, start, screen).await?;
    let input = SendInput {
        content,
        key,
        ..SendInput::default()
    };
    conversation.turn(screen, input).await
}

/// `chat`: turn after turn, until the input ends.
pub(super) async fn chat(at: At, screen: &mut Screen, new: NewSession) -> Result<Exit> {
    let client = at.access.client().await?;
    let session = find_or_create(&client, at.session.clone(), new).await?;
    screen.note(&format!("session {session}; Ctrl-D or Ctrl-C leaves"))?;
    let mut conversation = Conversation::begin((at, client), session, Start::Now, screen).await?;
    loop {
        screen.prompt()?;
        let line = tokio::select! {
            line = conversation.asking.line() => line?,
            _ = conversation.interrupt.recv() => None,
        };
        let Some(line) = line else { break };
        if line.trim().is_empty() {
            continue;
        }
        let input = SendInput {
            content: line,
            ..SendInput::default()
        };
        if let Err(error) = conversation.turn(screen, input).await {
            screen.failure("turn", &whole(&error))?;
        }
    }
    screen.note(&format!(
        "the session stays; `impresario chat --session {}` goes on",
        conversation.session
    ))?;
    Ok(Exit::Ok)
}

/// `new`: prints the id of a new session.
pub(super) async fn new(client: &Client, screen: &mut Screen, new: NewSession) -> Result<Exit> {
    let session = create(client, new).await?;
    match screen.style {
        Style::Json => screen.value(&session)?,
        Style::Text => screen.line(&session.session)?,
    }
    Ok(Exit::Ok)
}

/// `send`: returns when the input is on disk, or with the end of the turn that takes it in.
pub(super) async fn send(at: At, screen: &mut Screen, send: Saying) -> Result<Exit> {
    let input = SendInput {
        session: send.session.clone(),
        content: words(send.text)?,
        key: send.key,
        mode: send.mode.into(),
        by: None,
    };
    let client = at.access.client().await?;
    if !send.wait {
        return only_send(&client, screen, input).await;
    }
    let start = match &input.key {
        None => Start::Now,
        Some(_) => Start::First,
    };
    let mut conversation = Conversation::begin((at, client), send.session, start, screen).await?;
    conversation.turn(screen, input).await
}

async fn only_send(client: &Client, screen: &mut Screen, input: SendInput) -> Result<Exit> {
    let sent: Sent = client.call(Method::SessionSend, &input).await?;
    match (screen.style, sent.duplicate) {
        (Style::Json, _) => screen.value(&sent)?,
        (Style::Text, false) => screen.line(&format!("{}:{}", input.session, sent.seq))?,
        (Style::Text, true) => {
            screen.line(&format!("{}:{}", input.session, sent.seq))?;
            screen.note("the key was sent before; nothing new was recorded")?;
        }
    }
    Ok(Exit::Ok)
}

/// `attach`: shows a session until it ends or the reader leaves.
pub(super) async fn attach(
    access: Access,
    screen: &mut Screen,
    session: String,
    from: Option<String>,
) -> Result<Exit> {
    let client = access.client().await?;
    let subscribe = Subscribe {
        session: session.clone(),
        cursor: from,
        ..Subscribe::default()
    };
    let mut follow = Follow::begin(access, client, subscribe).await?;
    let mut printer = Printer::new(Inputs::Shown);
    let mut interrupt = interrupts()?;
    loop {
        let item = tokio::select! {
            item = follow.next() => item?,
            _ = interrupt.recv() => break,
        };
        let Some(item) = item else { break };
        printer.show(&item, screen)?;
        if matches!(item, StreamItem::End { .. }) {
            break;
        }
    }
    screen.end_line()?;
    screen.note(&format!(
        "come back with `impresario attach {session} --from '{}'`",
        follow.cursor
    ))?;
    Ok(Exit::Ok)
}

/// One reader who also talks.
struct Conversation {
    session: String,
    follow: Follow,
    printer: Printer,
    asking: Asking,
    interrupt: Signal,
}

/// How far a turn has come.
struct Progress {
    input: u64,
    turn: Option<u32>,
    asked_to_cancel: bool,
}

impl Conversation {
    async fn begin(
        (at, client): (At, Client),
        session: String,
        start: Start,
        screen: &mut Screen,
    ) -> Result<Self> {
        if at.session.is_some() {
            say_if_paused(&client, &session, screen).await?;
        }
        let subscribe = Subscribe {
            session: session.clone(),
            start,
            ..Subscribe::default()
        };
        Ok(Self {
            asking: Asking::new(session.clone(), at.person, screen.style),
            session,
            follow: Follow::begin(at.access, client, subscribe).await?,
            printer: Printer::new(Inputs::Hidden),
            interrupt: interrupts()?,
        })
    }

    /// Says something and shows the turn that answers it. The first Ctrl-C cancels the turn, the
    /// second leaves.
    async fn turn(&mut self, screen: &mut Screen, input: SendInput) -> Result<Exit> {
        let input = SendInput {
            session: self.session.clone(),
            key: Some(input.key.unwrap_or_else(new_key)),
            ..input
        };
        let sent = self.follow.send(&input).await?;
        let mut progress = Progress {
            input: sent.seq,
            turn: None,
            asked_to_cancel: false,
        };
        loop {
            tokio::select! {
                item = self.follow.next() => {
                    let Some(item) = item? else {
                        bail!("the stream ended before the turn did");
                    };
                    if let Some(exit) = self.take(&item, &mut progress, screen)? {
                        return Ok(exit);
                    }
                }
                line = self.asking.line(), if self.asking.is_asking() => {
                    self.answer(line?, screen).await?;
                }
                _ = self.interrupt.recv() => {
                    if progress.asked_to_cancel {
                        screen.end_line()?;
                        screen.note(&self.how_to_come_back())?;
                        return Ok(Exit::Interrupted);
                    }
                    progress.asked_to_cancel = true;
                    self.cancel(screen).await?;
                }
            }
        }
    }

    /// What a person typed, as an answer to what was asked.
    async fn answer(&mut self, line: Option<String>, screen: &mut Screen) -> Result<()> {
        let Some(approve) = self.asking.answer(line.as_deref(), screen)? else {
            return Ok(());
        };
        let answered: Result<Done> = self.follow.call(Method::SessionApprove, approve).await;
        // Somebody else may have been first; what was decided comes as an event.
        match answered {
            Ok(Done {}) => Ok(()),
            Err(error) => Ok(screen.note(&whole(&error))?),
        }
    }

    async fn cancel(&mut self, screen: &mut Screen) -> Result<()> {
        let params = OneSession {
            session: self.session.clone(),
        };
        let answer: Cancelled = self.follow.call(Method::SessionCancel, params).await?;
        screen.end_line()?;
        let note = if answer.cancelled {
            "cancelling; Ctrl-C again leaves at once"
        } else {
            "nothing was running yet; Ctrl-C again leaves, and the turn goes on"
        };
        Ok(screen.note(note)?)
    }

    /// Shows an item of our turn; gives the exit when it was the last one.
    fn take(
        &mut self,
        item: &StreamItem,
        progress: &mut Progress,
        screen: &mut Screen,
    ) -> Result<Option<Exit>> {
        if let StreamItem::End { reason, .. } = item {
            self.printer.show(item, screen)?;
            bail!(
                "the stream ended before the turn did ({reason}); {}",
                self.how_to_come_back()
            );
        }
        let event = match item {
            StreamItem::Event { event, .. } => Some(event),
            StreamItem::Delta { .. }
            | StreamItem::Reset { .. }
            | StreamItem::Gap { .. }
            | StreamItem::End { .. } => None,
        };
        if let Some(event) = event {
            progress.begin(event);
        }
        if progress.turn.is_some() {
            self.printer.show(item, screen)?;
            if let Some(event) = event {
                self.asking.see(event, screen)?;
            }
        }
        match event {
            Some(event) => self.exit_of(event, progress),
            None => Ok(None),
        }
    }

    fn exit_of(&self, event: &Event, progress: &Progress) -> Result<Option<Exit>> {
        match event.kind.as_str() {
            "turn_finished" => {
                let finished: Option<TurnFinished> = event.read();
                let ours = finished.filter(|finished| Some(finished.turn) == progress.turn);
                Ok(ours.map(|finished| match finished.status.as_str() {
                    "completed" => Exit::Ok,
                    "cancelled" => Exit::Interrupted,
                    _ => Exit::Failed,
                }))
            }
            "quarantined" if event.seq > progress.input => bail!(
                "the session was set aside; `impresario show {}` says why",
                self.session
            ),
            "session_closed" if event.seq > progress.input => {
                bail!("the session was closed before the turn was done")
            }
            _ => Ok(None),
        }
    }

    fn how_to_come_back(&self) -> String {
        format!(
            "the turn goes on without you; `impresario attach {} --from '{}'` shows the rest",
            self.session, self.follow.cursor
        )
    }
}

impl Progress {
    fn begin(&mut self, event: &Event) {
        let taken_in = match event.kind.as_str() {
            "turn_started" => event
                .read::<TurnStarted>()
                .map(|started| (started.turn, started.inputs)),
            "llm_request" => event
                .read::<LlmRequest>()
                .map(|request| (request.turn, request.inputs)),
            _ => None,
        };
        if let Some((turn, inputs)) = taken_in
            && inputs.contains(&self.input)
        {
            self.turn = Some(turn);
        }
    }
}

async fn find_or_create(
    client: &Client,
    session: Option<String>,
    new: NewSession,
) -> Result<String> {
    match session {
        Some(session) => Ok(session),
        None => Ok(create(client, new).await?.session),
    }
}

async fn create(client: &Client, new: NewSession) -> Result<Session> {
    let params = CreateSession {
        agent: new.agent,
        tenant: new.tenant,
        labels: new.labels.into_iter().collect(),
    };
    Ok(client.call(Method::SessionCreate, params).await?)
}

/// Nothing would be shown for as long as it is, and nobody would know why.
async fn say_if_paused(client: &Client, session: &str, screen: &mut Screen) -> Result<()> {
    let params = OneSession {
        session: session.to_owned(),
    };
    let found: Session = client.call(Method::SessionGet, params).await?;
    if let Some(pause) = &found.paused {
        screen.note(&format!(
            "the session is {}; `impresario resume {session}` lets it go on",
            remark::how(pause)
        ))?;
    }
    Ok(())
}

/// A key that nobody else has.
fn new_key() -> String {
    format!("cli-{}", SystemClock::new().session_id())
}

/// The words themselves; `-` stands for stdin. Nothing at all is refused before a session begins.
fn words(text: String) -> Result<String> {
    let mut words = text;
    if words == "-" {
        words.clear();
        std::io::stdin()
            .read_to_string(&mut words)
            .context("failed to read the words from stdin")?;
    }
    if words.trim().is_empty() {
        anyhow::bail!("there are no words to say; give them as TEXT, or `-` and on stdin");
    }
    Ok(words)
}

fn interrupts() -> Result<Signal> {
    signal(SignalKind::interrupt()).context("failed to listen to Ctrl-C")
}
