//! Large texts are kept once, whoever has them, and go with the last event that has them.
#![expect(
    clippy::unwrap_used,
    reason = "helpers outside #[test] functions may unwrap too"
)]

#[path = "store_support/mod.rs"]
mod store_support;

use std::collections::BTreeSet;
use std::path::Path;

use impresario::clock::SystemClock;
use impresario::event::{
    Attachment, AttachmentKind, Event, Fact, LlmResponse, Outcome, Timestamp, ToolResult,
};
use impresario::id::{Seq, SessionId};
use impresario::store::{
    DETACH_BYTES, Damaged, EventStore, PageLimit, Status, compact, restore, verify,
};
use store_support::{append, created, open, says, session, stores, summary, whole_log};

/// Larger than one value may be.
fn large(letter: &str) -> String {
    letter.repeat(100_000)
}

async fn facts_of(store: &dyn EventStore, session: SessionId) -> Vec<Fact> {
    let log = whole_log(store, session, PageLimit::default()).await;
    let facts = log.unwrap();
    facts.iter().map(|it| it.event().fact.clone()).collect()
}

fn sled_in(dir: &Path) -> sled::Db {
    let config = sled::Config::new().path(dir.join("log"));
    config.segment_size(8 << 20).open().unwrap()
}

/// Payloads and references in a closed store.
fn kept(dir: &Path) -> (usize, usize) {
    let db = sled_in(dir);
    let keys = |kind: &[u8]| -> Vec<Vec<u8>> {
        let records = db.scan_prefix(kind);
        records.map(|it| it.unwrap().0.to_vec()).collect()
    };
    let payloads = keys(b"P");
    let hashes: BTreeSet<_> = payloads.iter().map(|key| key.get(..33)).collect();
    (hashes.len(), keys(b"R").len())
}

/// Every kind of text that lies apart, as large as it need be, and just not.
fn facts() -> Vec<Fact> {
    let attachment = |data: String| Attachment {
        kind: AttachmentKind::Image,
        mime: None,
        uri: None,
        bytes: 3,
        data: Some(data),
    };
    let nothing = Attachment {
        data: None,
        ..attachment(String::new())
    };
    vec![
        created(),
        says(&"é".repeat(DETACH_BYTES)),
        says(&"a".repeat(DETACH_BYTES)),
        Fact::LlmResponse(LlmResponse {
            of: Seq::new(1),
            content: large("b"),
            reasoning: Some(large("c")),
            ..LlmResponse::default()
        }),
        Fact::ToolResult(ToolResult {
            of: Seq::new(1),
            outcome: Outcome::Ok,
            content: large("d"),
            attempts: 1,
            duration_ms: 3,
            sandbox: None,
            attachments: vec![
                nothing,
                attachment(large("e")),
                attachment("small".to_owned()),
                attachment(large("e")),
            ],
            cause: None,
            spent: None,
        }),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_large_text_is_read_back_as_it_was() {
    let (_dir, stores) = stores();
    for store in stores {
        store.append(append(session(1), 0, facts())).await.unwrap();
        let events = facts().into_iter().zip(1..).map(|(fact, seq)| Event {
            seq: Seq::new(seq),
            at: Timestamp(1),
            fact,
        });
        let events = events.collect();
        store.stage(session(2), events).await.unwrap();
        let summary = impresario::store::Summary {
            head: Seq::new(5),
            ..summary(Status::Idle)
        };
        store.publish(session(2), summary).await.unwrap();
        for number in [1, 2] {
            assert_eq!(facts_of(store.as_ref(), session(number)).await, facts());
        }
        // Too large is too large, wherever it would lie.
        let huge = append(session(1), 5, vec![says(&"x".repeat(5 << 20))]);
        assert!(store.append(huge).await.is_err());
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_text_is_kept_once_and_goes_with_the_last_that_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let twice = vec![created(), says(&large("a")), says(&large("a"))];
    let store = open(dir.path()).unwrap();
    store
        .append(append(session(1), 0, twice.clone()))
        .await
        .unwrap();
    store
        .append(append(session(2), 0, twice.clone()))
        .await
        .unwrap();
    let other = vec![created(), says(&large("b"))];
    store.append(append(session(3), 0, other)).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    assert_eq!(kept(dir.path()), (2, 5));

    let store = open(dir.path()).unwrap();
    store.delete(session(1)).await.unwrap();
    store.delete(session(3)).await.unwrap();
    assert_eq!(facts_of(&store, session(2)).await, twice);
    store.close().await.unwrap();
    drop(store);
    assert_eq!(kept(dir.path()), (1, 2));
    assert!(verify(dir.path()).unwrap().is_sound());

    let store = open(dir.path()).unwrap();
    store.delete(session(2)).await.unwrap();
    // What is gone may come back.
    store
        .append(append(session(4), 0, twice.clone()))
        .await
        .unwrap();
    assert_eq!(facts_of(&store, session(4)).await, twice);
    store.delete(session(4)).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    assert_eq!(kept(dir.path()), (0, 0));
    assert!(verify(dir.path()).unwrap().is_sound());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_that_was_broken_off_takes_no_text_that_somebody_has() {
    let dir = tempfile::tempdir().unwrap();
    let facts = vec![created(), says(&large("a"))];
    let store = open(dir.path()).unwrap();
    store
        .append(append(session(1), 0, facts.clone()))
        .await
        .unwrap();
    // What is staged and not published goes at the next opening as what is half deleted does.
    let half = [created(), says(&large("a")), says(&large("b"))];
    let events = half.into_iter().zip(1..).map(|(fact, seq)| Event {
        seq: Seq::new(seq),
        at: Timestamp(1),
        fact,
    });
    store.stage(session(2), events.collect()).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    assert_eq!(kept(dir.path()), (2, 3));
    assert!(verify(dir.path()).unwrap().is_sound());
    let store = open(dir.path()).unwrap();
    // Behind what the opening does.
    store
        .append(append(session(3), 0, vec![created()]))
        .await
        .unwrap();
    assert_eq!(facts_of(&store, session(1)).await, facts);
    store.close().await.unwrap();
    drop(store);
    assert_eq!(kept(dir.path()), (1, 1));
    assert!(verify(dir.path()).unwrap().is_sound());
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_have_every_text_once_and_none_that_nobody_has() {
    let dir = tempfile::tempdir().unwrap();
    let (data, copy, restored) = (
        dir.path().join("data"),
        dir.path().join("copy"),
        dir.path().join("restored"),
    );
    let store = open(&data).unwrap();
    for number in [1, 2, 3] {
        store
            .append(append(session(number), 0, facts()))
            .await
            .unwrap();
    }
    store.delete(session(3)).await.unwrap();
    let copied = store.backup(copy.clone(), Timestamp(7)).await.unwrap();
    assert_eq!(copied.report.heads.len(), 2);
    store.close().await.unwrap();
    drop(store);
    restore(&copy, &restored, Damaged::Taken, &SystemClock::new()).unwrap();
    compact(&data, &SystemClock::new()).unwrap();
    for place in [&data, &copy, &restored] {
        // é, b, c, d, e; the last twice in one event.
        assert_eq!(kept(place), (5, 10), "{}", place.display());
        let store = open(place).unwrap();
        for number in [1, 2] {
            assert_eq!(facts_of(&store, session(number)).await, facts());
        }
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_is_lost_or_left_over_is_never_silent() {
    for (kind, says_what) in [
        (&b"P"[..], "payload is damaged or missing"),
        (b"R", "the reference is missing"),
        (b"E", "nothing refers to the payload"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        let facts = vec![created(), says(&large("a"))];
        store.append(append(session(1), 0, facts)).await.unwrap();
        store.close().await.unwrap();
        drop(store);
        {
            let db = sled_in(dir.path());
            let lost = if kind == b"E" {
                &[&b"E"[..], b"R"][..]
            } else {
                &[kind][..]
            };
            for kind in lost {
                for record in db.scan_prefix(kind) {
                    db.remove(record.unwrap().0).unwrap();
                }
            }
            db.flush().unwrap();
        }
        let problems = verify(dir.path()).unwrap().problems;
        let said: Vec<_> = problems.iter().map(|it| it.what.as_str()).collect();
        assert!(said.iter().any(|it| it.contains(says_what)), "{said:?}");
        if kind == b"P" {
            let store = open(dir.path()).unwrap();
            let read = whole_log(&store, session(1), PageLimit::default()).await;
            let refusal = read.unwrap_err().to_string();
            assert!(refusal.contains("is missing"), "{refusal}");
            store.close().await.unwrap();
        }
    }
}
