//! Readers: what they get, how they come back, and what happens to those that are slow.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers outside #[test] functions may unwrap too"
)]

#[path = "support/company.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use impresario::Session;
use impresario::chunk::{Channel, Chunk, Cursor, EndReason, Item};
use impresario::event::{EffectClass, Fact, TurnStatus};
use impresario::fault::Code;
use impresario::id::Seq;
use impresario::model::ModelErrorKind;
use impresario::runtime::{ChunkStream, OnSlow, Subscription};
use support::{
    Act, Gate, Prop, Puppet, Stage, all, call, event, events, is_end, log, reader, say, status,
    turn, until, within,
};

/// What a reader has on its page. Fails when anything is missing or comes twice.
#[derive(Clone, Debug, Default)]
struct Page {
    last: u64,
    texts: BTreeMap<(Seq, Channel), String>,
    gaps: BTreeSet<Seq>,
    answers: Vec<String>,
}

impl Page {
    fn take(&mut self, chunk: &Chunk) {
        match &chunk.item {
            Item::Event(_) => {}
            Item::Delta(delta) => {
                let text = self.texts.entry((delta.of, delta.channel)).or_default();
                if !self.gaps.contains(&delta.of) {
                    assert_eq!(delta.offset, text.len() as u64, "{delta:?} after {text:?}");
                }
                text.push_str(&delta.text);
            }
            Item::Reset { of } => self.texts.retain(|(shown, _), _| shown != of),
            Item::Gap { of } => {
                self.gaps.insert(*of);
            }
            Item::End(_) => {}
        }
        if let Some(event) = event(chunk) {
            assert_eq!(event.seq.get(), self.last + 1);
            self.last += 1;
            if let Fact::LlmResponse(response) = &event.fact {
                let shown = self.texts.remove(&(response.of, Channel::Text));
                let shown = shown.unwrap_or_default();
                assert!(
                    response.content.starts_with(&shown) || self.gaps.contains(&response.of),
                    "{shown:?} is not the beginning of {:?}",
                    response.content
                );
                self.answers.push(response.content.clone());
            }
        }
    }

    fn shown(&self, channel: Channel) -> usize {
        let texts = self.texts.iter().filter(|((_, of), _)| *of == channel);
        texts.map(|(_, text)| text.len()).sum()
    }

    /// Reads to the end of a turn.
    async fn finish(&mut self, stream: &mut ChunkStream) {
        for chunk in until(stream, is_end).await {
            self.take(&chunk);
        }
    }
}

async fn subscribe(session: &Session, cursor: &Cursor) -> ChunkStream {
    // As a client does it: through the cursor's text.
    let cursor = cursor.to_string().parse().unwrap();
    let subscription = Subscription {
        cursor,
        ..Subscription::default()
    };
    session.subscribe(subscription).await.unwrap()
}

async fn slow_reader(session: &Session, on_slow: OnSlow) -> ChunkStream {
    let subscription = Subscription {
        on_slow,
        buffer_bytes: 10_000,
        ..Subscription::default()
    };
    session.subscribe(subscription).await.unwrap()
}

/// Fails once, thinks, calls a tool that writes, and says two words with a gate between them.
fn long_play(gates: &[Gate; 3]) -> Stage {
    let [failing, tool_gate, answer] = gates.clone();
    let model = Puppet::new(move |asked| match (asked.before, asked.results.len()) {
        (0, _) => vec![
            say("wröng"),
            Act::Wait(failing.clone()),
            Act::Fail(ModelErrorKind::Overloaded, None),
        ],
        (_, 0) => vec![
            Act::Think("hm ".into()),
            Act::Think("…".into()),
            call("tool"),
        ],
        _ => vec![
            say("grü"),
            say("n"),
            Act::Wait(answer.clone()),
            say(" und blau"),
        ],
    });
    let tool = Prop::new("tool", EffectClass::Pure, move |invocation| {
        let gate = tool_gate.clone();
        async move {
            invocation.output.send("line one\n".to_owned()).await;
            invocation.output.send("line two\n".to_owned()).await;
            assert!(invocation.attempt > 1, "on purpose");
            gate.passed().await;
            invocation.output.send("line three\n".to_owned()).await;
            Ok("done".to_owned())
        }
    });
    Stage::new(&model, &[&tool])
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_comes_back_with_any_cursor_it_ever_saw_ends_with_the_text_of_the_log() {
    for open_late in 0..3 {
        let gates: [Gate; 3] = Default::default();
        let stage = long_play(&gates);
        let (_company, session) = stage.open().await;
        let mut stream = reader(&session).await;
        for (number, gate) in gates.iter().enumerate() {
            if number != open_late {
                gate.open();
            }
        }
        session.say("go").await.unwrap();
        // Everything up to the gate, and a copy of the page at every cursor.
        let mut page = Page::default();
        let mut saved = vec![(Cursor::default(), page.clone())];
        while let Ok(chunk) = tokio::time::timeout(Duration::from_secs(5), stream.next()).await {
            let chunk = chunk.unwrap();
            page.take(&chunk);
            saved.push((chunk.cursor, page.clone()));
        }
        assert!(saved.len() > 5, "{saved:?}");
        let mut back = Vec::new();
        for (cursor, page) in &saved {
            back.push((subscribe(&session, cursor).await, page.clone()));
        }
        gates[open_late].open();
        page.finish(&mut stream).await;
        for (mut stream, mut again) in back {
            again.finish(&mut stream).await;
            assert_eq!((&again.answers, again.last), (&page.answers, page.last));
        }
        // And when everything is over.
        for (cursor, mut again) in saved {
            let mut stream = subscribe(&session, &cursor).await;
            again.finish(&mut stream).await;
            assert_eq!((&again.answers, again.last), (&page.answers, page.last));
        }
        assert_eq!(page.answers, ["", "grün und blau"]);
    }
}

#[tokio::test(start_paused = true)]
async fn two_readers_get_the_same_items() {
    let gates: [Gate; 3] = Default::default();
    gates.iter().for_each(Gate::open);
    let (_company, session) = long_play(&gates).open().await;
    let (mut one, mut two) = (reader(&session).await, reader(&session).await);
    session.say("go").await.unwrap();
    let (one, two) = (until(&mut one, is_end).await, until(&mut two, is_end).await);
    assert_eq!(one, two);
    let deltas = one
        .iter()
        .filter(|chunk| matches!(chunk.item, Item::Delta(_)));
    assert!(deltas.count() > 5, "{one:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_left_in_mid_answer_of_a_daemon_that_died_is_told_what_is_void() {
    let gate = Gate::default();
    let held = gate.clone();
    let model = Puppet::new(move |asked| match asked.before {
        0 => vec![say("half of"), Act::Wait(held.clone())],
        _ => vec![say("something else")],
    });
    let mut stage = Stage::new(&model, &[]);
    let (company, session) = stage.open().await;
    let id = session.id();
    let mut stream = reader(&session).await;
    session.say("go").await.unwrap();
    let mut page = Page::default();
    let cursor = loop {
        let chunk = within(stream.next()).await.unwrap();
        page.take(&chunk);
        if matches!(chunk.item, Item::Delta(_)) {
            break chunk.cursor;
        }
    };
    stage.store = std::sync::Arc::new(stage.store.after_power_cut());
    drop((company, session, stream));
    let company = stage.start().await;
    let mut stream = subscribe(&company.open(id), &cursor).await;
    page.finish(&mut stream).await;
    assert_eq!(page.answers, ["something else"]);
}

const PIECES: usize = 200;
const PIECE: usize = 1_000;

/// A model that says a lot, then waits for the gate before its last word.
fn flood(gate: &Gate) -> Stage {
    let gate = gate.clone();
    let model = Puppet::new(move |_| {
        let mut acts = vec![say(&"x".repeat(PIECE)); PIECES];
        acts.extend([Act::Wait(gate.clone()), say("end")]);
        acts
    });
    Stage::new(&model, &[])
}

/// Lets the flood happen while nobody reads it.
async fn flooded(session: &Session) {
    let mut fast = reader(session).await;
    session.say("go").await.unwrap();
    let mut page = Page::default();
    while page.shown(Channel::Text) < PIECES * PIECE {
        page.take(&within(fast.next()).await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_merged_deltas_and_loses_nothing() {
    let gate = Gate::default();
    let (_company, session) = flood(&gate).open().await;
    let mut slow = slow_reader(&session, OnSlow::Coalesce).await;
    flooded(&session).await;
    let mut page = Page::default();
    let mut items = 0;
    while page.shown(Channel::Text) < PIECES * PIECE {
        page.take(&within(slow.next()).await.unwrap());
        items += 1;
    }
    assert!(items < PIECES, "{items} items");
    gate.open();
    page.finish(&mut slow).await;
    assert_eq!(page.answers[0].len(), PIECES * PIECE + 3);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_of_boundaries_gets_every_event_and_is_told_of_the_gap() {
    let gate = Gate::default();
    let stage = flood(&gate);
    let (_company, session) = stage.open().await;
    let mut slow = slow_reader(&session, OnSlow::Boundaries).await;
    flooded(&session).await;
    let mut page = Page::default();
    while page.gaps.is_empty() {
        page.take(&within(slow.next()).await.unwrap());
    }
    assert!(page.shown(Channel::Text) < PIECES * PIECE / 2);
    gate.open();
    page.finish(&mut slow).await;
    let whole = log(stage.store.as_ref(), session.id()).await;
    assert_eq!(page.last, whole.last().unwrap().seq.get());
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_that_asked_for_it_is_disconnected_with_a_cursor_to_come_back_to() {
    let gate = Gate::default();
    let (_company, session) = flood(&gate).open().await;
    let mut slow = slow_reader(&session, OnSlow::Disconnect).await;
    flooded(&session).await;
    let mut page = Page::default();
    let mut waiting = 0;
    let mut last = None;
    while let Some(chunk) = within(slow.next()).await {
        page.take(&chunk);
        waiting += chunk.item.weight();
        last = Some(chunk);
    }
    let last = last.unwrap();
    assert_eq!(last.item, Item::End(EndReason::Slow));
    // What its buffer takes, and a few items on their way.
    assert!(
        waiting < 10_000 + 20 * (PIECE + 200),
        "{waiting} bytes waited"
    );
    let mut stream = subscribe(&session, &last.cursor).await;
    gate.open();
    page.finish(&mut stream).await;
    assert_eq!(page.answers[0].len(), PIECES * PIECE + 3);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_stopped_readers_hold_up_nobody() {
    let gate = Gate::default();
    gate.open();
    let (_company, session) = flood(&gate).open().await;
    let mut stopped = Vec::new();
    for _ in 0..100 {
        stopped.push(slow_reader(&session, OnSlow::Coalesce).await);
    }
    let mut reading = session.send("go").await.unwrap();
    let events = events(&all(&mut reading).await);
    assert_eq!(status(&events), Some(TurnStatus::Completed));
    drop(stopped);
    support::eventually(async || session.info().await.unwrap().readers <= 1).await;
}

#[tokio::test(start_paused = true)]
async fn large_events_count_for_what_they_hold() {
    let model = Puppet::new(|_| vec![say("short")]);
    let (_company, session) = Stage::new(&model, &[]).open().await;
    let mut slow = slow_reader(&session, OnSlow::Disconnect).await;
    for _ in 0..40 {
        turn(&session, &"x".repeat(5_000)).await;
    }
    let mut waiting = 0;
    while let Some(chunk) = within(slow.next()).await {
        waiting += chunk.item.weight();
    }
    assert!(waiting < 60_000, "{waiting} bytes waited");
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_a_session_set_aside_gets_its_log_and_the_reason_to_end() {
    let stage = Stage::new(&Puppet::new(|_| vec![say("fine")]), &[])
        .with(|settings| settings.sessions.max_recoveries = 0);
    let (_company, session) = stage.open().await;
    turn(&session, "one").await;
    let summary = session.info().await.unwrap().summary;
    let append = impresario::store::Append {
        session: session.id(),
        after: summary.head,
        at: summary.updated_at,
        facts: vec![Fact::Released { by: None }],
        summary,
        spent: impresario::budget::Spending::NOTHING,
    };
    impresario::store::EventStore::append(stage.store.as_ref(), append)
        .await
        .unwrap();
    session.say("two").await.unwrap_err();
    for _ in 0..2 {
        let mut stream = reader(&session).await;
        let mut items = Vec::new();
        while let Some(chunk) = within(stream.next()).await {
            items.push(chunk);
        }
        assert_eq!(items.pop().unwrap().item, Item::End(EndReason::Quarantined));
        let last = event(items.last().unwrap()).unwrap();
        assert_eq!(last.fact.name(), "quarantined");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cursor_beyond_the_log_is_refused() {
    let (_company, session) = Stage::new(&Puppet::calling(&[]), &[]).open().await;
    let subscription = Subscription {
        cursor: Cursor::after(Seq::new(100)),
        ..Subscription::default()
    };
    let fault = session.subscribe(subscription).await.unwrap_err();
    assert_eq!(fault.code, Code::InvalidParams);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_in_little_room_on_real_threads_show_whole_turns_in_order() {
    let model = Puppet::new(|asked| match asked.results.len() {
        0 => vec![say("let "), say("me see"), call("tool"), call("tool")],
        _ => vec![say("so "), say("it is")],
    });
    let tool = Prop::saying("tool", EffectClass::Idempotent, "done");
    let mut stage = Stage::new(&model, &[&tool]).with(|settings| {
        settings.limits.live_sessions = 8;
        settings.limits.running_turns = 3;
    });
    stage.store = std::sync::Arc::new(impresario::store::MemoryStore::threaded().unwrap());
    let company = stage.start().await;
    let talks = (0..16).map(|_| {
        let company = company.clone();
        impresario::clock::spawn(async move {
            let session = company.session("actor").create().await.unwrap();
            let mut page = Page::default();
            let mut cursor = Cursor::default();
            for _ in 0..3 {
                let mut stream = subscribe(&session, &cursor).await;
                session.say("go").await.unwrap();
                for chunk in until(&mut stream, is_end).await {
                    page.take(&chunk);
                    cursor = chunk.cursor;
                }
            }
            assert_eq!(page.answers, ["let me see", "so it is"].repeat(3));
        })
    });
    for talk in talks.collect::<Vec<_>>() {
        within(talk).await.unwrap();
    }
    support::eventually(async || support::is_at_rest(&company)).await;
    company.stop(Duration::from_secs(10)).await.unwrap();
}
