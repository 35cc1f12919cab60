//! What every store keeps: in memory, in memory with threads, and on disk.
#![expect(
    clippy::unwrap_used,
    reason = "helpers outside #[test] functions may unwrap too"
)]

mod store_support;

use std::sync::Arc;

use futures_util::FutureExt;
use impresario::event::{Event, Timestamp};
use impresario::id::Seq;
use impresario::store::{
    Blame, EventStore, FailPoint, MAX_EVENT_BYTES, MemoryStore, PageLimit, Snapshot, Status,
    StoreError, Summary, Unfinished,
};
use store_support::{append, append_as, created, dense, says, session, stores, summary, whole_log};

#[tokio::test]
async fn what_was_appended_is_read_back() {
    let (_dir, stores) = stores();
    for store in stores {
        let facts = vec![created(), says("hello")];
        let stored = store.append(append(session(1), 0, facts)).await.unwrap();
        let expected = Event {
            seq: Seq::new(2),
            at: Timestamp(1_000),
            fact: says("hello"),
        };
        assert_eq!(stored[1].event(), &expected);
        let read = store.read(session(1), Seq::START, PageLimit::default());
        assert_eq!(read.await.unwrap(), stored);
        let mut kept = summary(Status::Idle);
        kept.head = Seq::new(2);
        assert_eq!(store.summary(session(1)).await.unwrap(), Some(kept));
    }
}

#[tokio::test]
async fn a_log_is_read_in_pages_by_number_and_by_size() {
    let (_dir, stores) = stores();
    for store in stores {
        let facts = (0..10).map(|n| says(&format!("{n}").repeat(100))).collect();
        store.append(append(session(1), 0, facts)).await.unwrap();
        let three = PageLimit {
            events: 3,
            bytes: usize::MAX,
        };
        let page = store.read(session(1), Seq::new(4), three).await.unwrap();
        let numbers: Vec<_> = page.iter().map(|stored| stored.event().seq.get()).collect();
        assert_eq!(numbers, [5, 6, 7]);
        let tiny = PageLimit {
            events: 100,
            bytes: 1,
        };
        let page = store.read(session(1), Seq::START, tiny).await.unwrap();
        assert_eq!(page.len(), 1);
        let all = whole_log(&*store, session(1), three).await.unwrap();
        assert_eq!(dense(&all), Some(10));
    }
}

#[tokio::test]
async fn a_large_event_survives_being_cut_into_parts() {
    let (_dir, stores) = stores();
    for store in stores {
        let words = "0123456789".repeat(100_000);
        let facts = vec![says("before"), says(&words), says("after")];
        let stored = store.append(append(session(1), 0, facts)).await.unwrap();
        let read = whole_log(&*store, session(1), PageLimit::default());
        assert_eq!(read.await.unwrap(), stored);
    }
}

#[tokio::test]
async fn an_event_over_the_limit_is_refused_and_the_session_goes_on() {
    let (_dir, stores) = stores();
    for store in stores {
        let words = "x".repeat(MAX_EVENT_BYTES + 1);
        let refusal = store.append(append(session(1), 0, vec![says(&words)]));
        let refusal = refusal.await.unwrap_err();
        assert!(matches!(refusal, StoreError::TooLarge { .. }), "{refusal}");
        assert_eq!(refusal.blame(), Blame::Passing);
        store
            .append(append(session(1), 0, vec![says("short")]))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn an_append_after_the_wrong_event_is_a_conflict_and_changes_nothing() {
    let (_dir, stores) = stores();
    for store in stores {
        store
            .append(append(session(1), 0, vec![created()]))
            .await
            .unwrap();
        for wrong in [0, 2] {
            let refusal = store.append(append(session(1), wrong, vec![says("x")]));
            let StoreError::Conflict {
                expected, actual, ..
            } = refusal.await.unwrap_err()
            else {
                panic!("not a conflict")
            };
            assert_eq!((expected, actual), (Seq::new(wrong), Seq::new(1)));
        }
        let log = whole_log(&*store, session(1), PageLimit::default()).await;
        assert_eq!(dense(&log.unwrap()), Some(1));
    }
}

#[tokio::test]
async fn an_unknown_session_is_not_found() {
    let (_dir, stores) = stores();
    for store in stores {
        let read = store.read(session(9), Seq::START, PageLimit::default());
        assert!(matches!(
            read.await.unwrap_err(),
            StoreError::NotFound(id) if id == session(9)
        ));
        assert_eq!(store.summary(session(9)).await.unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_at_once_have_dense_logs() {
    let (_dir, stores) = stores();
    for store in stores {
        let writers: Vec<_> = (0..64)
            .map(|n| impresario::clock::spawn(write_ten(Arc::clone(&store), n)))
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        for number in 0..64 {
            let log = whole_log(&*store, session(number), PageLimit::default()).await;
            assert_eq!(dense(&log.unwrap()), Some(10));
        }
    }
}

async fn write_ten(store: Arc<dyn EventStore>, number: u128) {
    for after in 0..10 {
        let append = append(session(number), after, vec![says("more")]);
        store.append(append).await.unwrap();
    }
}

#[tokio::test]
async fn appends_of_one_session_may_follow_each_other_without_waiting() {
    let (_dir, stores) = stores();
    for store in stores {
        let acks: Vec<_> = (0..50)
            .map(|after| store.append(append(session(1), after, vec![says("more")])))
            .collect();
        for ack in acks {
            ack.await.unwrap();
        }
        let log = whole_log(&*store, session(1), PageLimit::default()).await;
        assert_eq!(dense(&log.unwrap()), Some(50));
    }
}

#[tokio::test]
async fn a_snapshot_is_kept_in_the_place_of_an_earlier_one_and_goes_with_its_session() {
    let (_dir, stores) = stores();
    for store in stores {
        let facts = (0..3).map(|_| says("word")).collect();
        let append = append_as(session(1), 0, facts, Status::Idle);
        store.append(append).await.unwrap();
        assert_eq!(store.snapshot(session(1)).await.unwrap(), None);
        let kept = |head, bytes: usize| Snapshot {
            head: Seq::new(head),
            bytes: vec![7; bytes],
        };
        let keep = async |snapshot: &Snapshot| {
            store
                .keep_snapshot(session(1), snapshot.clone())
                .await
                .unwrap();
            store.snapshot(session(1)).await.unwrap()
        };
        let large = kept(2, 200_000);
        assert_eq!(keep(&large).await, Some(large));
        let small = kept(3, 10);
        assert_eq!(keep(&small).await.as_ref(), Some(&small));
        let ahead = kept(4, 10);
        assert_eq!(keep(&ahead).await.as_ref(), Some(&small));
        let too_large = kept(3, MAX_EVENT_BYTES);
        assert_eq!(keep(&too_large).await, Some(small));
        store.delete(session(1)).await.unwrap();
        assert_eq!(store.snapshot(session(1)).await.unwrap(), None);
        let append = append_as(session(1), 0, vec![says("again")], Status::Idle);
        store.append(append).await.unwrap();
        assert_eq!(store.snapshot(session(1)).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_deleted_session_is_gone_and_its_neighbours_stay() {
    let (_dir, stores) = stores();
    for store in stores {
        for number in 1..=3 {
            let facts = (0..1_500).map(|_| says("word")).collect();
            let append = append_as(session(number), 0, facts, Status::Unfinished);
            store.append(append).await.unwrap();
        }
        let reason = Some("it failed".to_owned());
        store.set_quarantine(session(2), reason).await.unwrap();
        store.delete(session(2)).await.unwrap();
        assert_eq!(store.summary(session(2)).await.unwrap(), None);
        assert_eq!(store.quarantine(session(2)).await.unwrap(), None);
        let left = store.list(None, 10).await.unwrap();
        let left: Vec<_> = left.into_iter().map(|(id, _)| id).collect();
        assert_eq!(left, [session(3), session(1)]);
        assert_eq!(store.unfinished().await.unwrap().len(), 2);
        let log = whole_log(&*store, session(3), PageLimit::default()).await;
        assert_eq!(dense(&log.unwrap()), Some(1_500));
    }
}

#[tokio::test]
async fn sessions_are_listed_newest_first_in_pages() {
    let (_dir, stores) = stores();
    for store in stores {
        for number in 1..=5 {
            store
                .append(append(session(number), 0, vec![created()]))
                .await
                .unwrap();
        }
        let first = store.list(None, 2).await.unwrap();
        let then = store.list(Some(session(4)), 2).await.unwrap();
        let ids = |page: Vec<(_, _)>| page.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        assert_eq!(ids(first), [session(5), session(4)]);
        assert_eq!(ids(then), [session(3), session(2)]);
    }
}

#[tokio::test]
async fn recoveries_are_counted_until_the_session_makes_progress_or_is_done() {
    let (_dir, stores) = stores();
    for store in stores {
        let begin = append_as(session(1), 0, vec![created()], Status::Unfinished);
        store.append(begin).await.unwrap();
        let idle = append(session(2), 0, vec![created()]);
        store.append(idle).await.unwrap();
        for count in 1..=2 {
            let counted = store.count_recoveries(vec![session(1)]).await.unwrap();
            assert_eq!(counted, [unfinished(count)]);
        }
        let more = append_as(session(1), 1, vec![says("x")], Status::Unfinished);
        store.append(more).await.unwrap();
        assert_eq!(found(&store).await, [unfinished(2)]);
        store.forget_recoveries(session(1)).await.unwrap();
        assert_eq!(found(&store).await, [unfinished(0)]);
        store
            .append(append(session(1), 2, vec![says("x")]))
            .await
            .unwrap();
        assert_eq!(found(&store).await, []);
        let counted = store.count_recoveries(vec![session(1)]).await.unwrap();
        assert_eq!(counted, [unfinished(0)]);
        assert_eq!(found(&store).await, []);
    }
}

async fn found(store: &Arc<dyn EventStore>) -> Vec<Unfinished> {
    let found = store.unfinished().await.unwrap().into_iter();
    found.map(|(unfinished, _)| unfinished).collect()
}

fn unfinished(recoveries: u32) -> Unfinished {
    Unfinished {
        session: session(1),
        recoveries,
    }
}

#[tokio::test]
async fn a_quarantine_is_kept_apart_from_the_log_and_taken_back() {
    let (_dir, stores) = stores();
    for store in stores {
        let reason = Some("it kept failing".to_owned());
        store
            .set_quarantine(session(1), reason.clone())
            .await
            .unwrap();
        assert_eq!(store.quarantine(session(1)).await.unwrap(), reason);
        assert_eq!(store.summary(session(1)).await.unwrap(), None);
        store.set_quarantine(session(1), None).await.unwrap();
        assert_eq!(store.quarantine(session(1)).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_closed_store_refuses_appends() {
    let (_dir, stores) = stores();
    for store in stores {
        let ack = store.append(append(session(1), 0, vec![created()]));
        store.close().await.unwrap();
        ack.await.unwrap();
        let refusal = store.append(append(session(1), 1, vec![says("x")])).await;
        assert!(matches!(refusal, Err(StoreError::Closed)));
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn nothing_is_shown_before_it_is_durable() {
    for store in [MemoryStore::new(), MemoryStore::threaded().unwrap()] {
        store
            .append(append(session(1), 0, vec![created()]))
            .await
            .unwrap();
        store.hold_sync();
        let ack = store.append(append(session(1), 1, vec![says("x")]));
        let new = store.append(append(session(2), 0, vec![created()]));
        let log = whole_log(&store, session(1), PageLimit::default()).await;
        assert_eq!(dense(&log.unwrap()), Some(1));
        let head = store.summary(session(1)).await.unwrap().unwrap().head;
        assert_eq!(head, Seq::new(1));
        assert_eq!(store.summary(session(2)).await.unwrap(), None);
        assert_eq!(store.list(None, 10).await.unwrap().len(), 1);
        store.release_sync();
        ack.await.unwrap();
        new.await.unwrap();
        let log = whole_log(&store, session(1), PageLimit::default()).await;
        assert_eq!(dense(&log.unwrap()), Some(2));
        assert_eq!(store.list(None, 10).await.unwrap().len(), 2);
    }
}

#[tokio::test]
async fn after_a_failed_sync_nothing_more_is_acknowledged() {
    for store in [MemoryStore::new(), MemoryStore::threaded().unwrap()] {
        let poisoned = store.poisoned();
        store
            .append(append(session(1), 0, vec![created()]))
            .await
            .unwrap();
        store.fail(FailPoint::Sync { after: 0 });
        let refusal = store.append(append(session(1), 1, vec![says("x")])).await;
        let refusal = refusal.unwrap_err();
        assert_eq!(refusal.blame(), Blame::Store, "{refusal}");
        assert!(poisoned.await.contains("injected"));
        let later = store.append(append(session(2), 0, vec![created()])).await;
        assert!(matches!(later, Err(StoreError::Poisoned(_))));
        let log = whole_log(&store, session(1), PageLimit::default()).await;
        assert_eq!(dense(&log.unwrap()), Some(1));
        let survivor = store.after_power_cut();
        let log = whole_log(&survivor, session(1), PageLimit::default()).await;
        assert_eq!(dense(&log.unwrap()), Some(1));
    }
}

#[tokio::test]
async fn after_a_failed_write_everything_that_waits_fails() {
    for store in [MemoryStore::new(), MemoryStore::threaded().unwrap()] {
        store.fail(FailPoint::Apply { after: 0 });
        let acks: Vec<_> = (0..8)
            .map(|number| store.append(append(session(number), 0, vec![created()])))
            .collect();
        for ack in acks {
            let refusal = ack.await.unwrap_err();
            assert_eq!(refusal.blame(), Blame::Store, "{refusal}");
        }
        let counted = store.count_recoveries(vec![session(1)]).await;
        assert!(matches!(counted, Err(StoreError::Poisoned(_))));
    }
}

#[tokio::test]
async fn without_room_appends_are_refused_and_go_on_when_room_is_made() {
    for store in [MemoryStore::new(), MemoryStore::threaded().unwrap()] {
        store.fail(FailPoint::Full);
        let refusal = store.append(append(session(1), 0, vec![created()])).await;
        let refusal = refusal.unwrap_err();
        assert!(matches!(refusal, StoreError::Full { .. }), "{refusal}");
        assert_eq!(refusal.blame(), Blame::Passing);
        // It is alive all the same: nobody has to end the process for it.
        store.answers().await.unwrap();
        store.make_room();
        store
            .append(append(session(1), 0, vec![created()]))
            .await
            .unwrap();
    }
}

fn at_head(seq: u64) -> Summary {
    Summary {
        head: Seq::new(seq),
        ..summary(Status::Idle)
    }
}

#[tokio::test]
async fn what_was_staged_is_taken_back_and_what_was_there_stays() {
    let store = MemoryStore::new();
    let event = |fact| Event {
        seq: Seq::new(1),
        at: Timestamp(1),
        fact,
    };
    store
        .append(append(session(1), 0, vec![created()]))
        .await
        .unwrap();
    // As an import that is dropped while it waits to hear that the session exists.
    let refused = store.stage(session(1), vec![event(created())]).await;
    assert!(matches!(refused, Err(StoreError::Exists(_))));
    store.unstage(session(1)).await.unwrap();
    assert!(store.summary(session(1)).await.unwrap().is_some());
    store
        .stage(session(2), vec![event(created())])
        .await
        .unwrap();
    store.unstage(session(2)).await.unwrap();
    store
        .stage(session(2), vec![event(created())])
        .await
        .unwrap();
    store.publish(session(2), at_head(1)).await.unwrap();
    store.unstage(session(2)).await.unwrap();
    assert!(store.summary(session(2)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_session_from_elsewhere_is_seen_only_when_it_is_durable() {
    let store = MemoryStore::new();
    let event = Event {
        seq: Seq::new(1),
        at: Timestamp(1),
        fact: created(),
    };
    store.stage(session(1), vec![event]).await.unwrap();
    store.hold_sync();
    let published = store.publish(session(1), at_head(1));
    assert_eq!(store.summary(session(1)).await.unwrap(), None);
    store.release_sync();
    published.await.unwrap();
    assert!(store.summary(session(1)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_full_queue_is_answered_at_once_and_what_was_taken_in_is_stored() {
    let store = MemoryStore::threaded().unwrap();
    store.hold_sync();
    let mut acks = Vec::new();
    let refusal = loop {
        let after = u64::try_from(acks.len()).unwrap();
        let mut ack = store.append(append(session(1), after, vec![says("more")]));
        match (&mut ack).now_or_never() {
            Some(Err(refusal)) => break refusal,
            Some(Ok(_)) => panic!("acknowledged without a sync"),
            None => acks.push(ack),
        }
        assert!(acks.len() < 100_000, "the queue has no end");
    };
    assert!(matches!(refusal, StoreError::Busy { .. }), "{refusal}");
    assert_eq!(refusal.blame(), Blame::Passing);
    store.release_sync();
    let taken_in = acks.len();
    for ack in acks {
        ack.await.unwrap();
    }
    let head = store.summary(session(1)).await.unwrap().unwrap().head;
    assert_eq!(usize::try_from(head.get()), Ok(taken_in));
}

#[tokio::test]
async fn a_damaged_or_missing_event_is_seen_and_the_events_before_it_are_readable() {
    for store in [MemoryStore::new(), MemoryStore::threaded().unwrap()] {
        for number in 1..=3 {
            let facts = (0..3).map(|_| says("word")).collect();
            let append = append(session(number), 0, facts);
            store.append(append).await.unwrap();
        }
        assert!(store.verify().is_sound());
        assert!(store.damage(session(1), Seq::new(2)));
        assert!(store.lose(session(2), Seq::new(2)));
        assert!(store.lose(session(3), Seq::new(3)));
        for (number, at) in [(1, 2_u64), (2, 2), (3, 3)] {
            let refusal = store.read(session(number), Seq::START, PageLimit::default());
            let refusal = refusal.await.unwrap_err();
            assert_eq!(refusal.blame(), Blame::Session, "{refusal}");
            assert!(
                matches!(refusal, StoreError::Corrupt { seq, .. } if seq == Seq::new(at)),
                "{refusal}"
            );
            let readable = usize::try_from(at - 1).unwrap();
            let before = PageLimit {
                events: readable,
                bytes: usize::MAX,
            };
            let page = store.read(session(number), Seq::START, before);
            assert_eq!(page.await.unwrap().len(), readable);
        }
        let report = store.verify();
        let sick: Vec<_> = report.problems.iter().map(|p| p.session).collect();
        assert_eq!(sick, [1, 2, 3].map(|number| Some(session(number))));
    }
}
