//! Care of the store: a backup while it is written, a restore that never starts empty, room given
//! back, old sessions deleted; by the real program and a real disk.
#![expect(
    clippy::unwrap_used,
    reason = "helpers outside #[test] functions may unwrap too"
)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/program.rs"]
mod program;
#[path = "store_support/mod.rs"]
mod store_support;

use std::sync::Arc;

use impresario::clock::SystemClock;
use impresario::event::Timestamp;
use impresario::id::{Seq, SessionId};
use impresario::store::{
    Append, CopyError, Damaged, EventStore, PageLimit, Status, compact, restore, verify,
};
use program::{run, says_well, serve};
use store_support::{append_as, created, open, says, stores, whole_log};

fn id(number: u128) -> SessionId {
    SessionId::from_u128(number)
}

/// A session with so many inputs after its beginning.
async fn fill(store: &dyn EventStore, session: SessionId, inputs: u64, status: Status) {
    let facts = vec![created()];
    store
        .append(append_as(session, 0, facts, status))
        .await
        .unwrap();
    for number in 1..=inputs {
        let facts = vec![says(&format!("{number} {}", "x".repeat(200)))];
        store
            .append(append_as(session, number, facts, status))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_store_in_use_holds_a_whole_beginning_of_every_session() {
    let (_dir, stores) = stores();
    for store in stores {
        for number in 1..=20 {
            fill(store.as_ref(), id(number), 5, Status::Unfinished).await;
        }
        store
            .set_quarantine(id(3), Some("it kept failing".to_owned()))
            .await
            .unwrap();
        store.count_recoveries(vec![id(4)]).await.unwrap();
        // Somebody writes all the time, and deletes.
        let writer = {
            let store = Arc::clone(&store);
            impresario::clock::spawn(async move {
                for number in 6..400 {
                    for session in [1, 2] {
                        let facts = vec![says(&number.to_string())];
                        let append = append_as(id(session), number, facts, Status::Unfinished);
                        store.append(append).await.unwrap();
                    }
                }
                store.delete(id(5)).await.unwrap();
            })
        };
        let place = tempfile::tempdir().unwrap();
        let into = place.path().join("backup");
        let copied = store.backup(into.clone(), Timestamp(7)).await.unwrap();
        writer.await.unwrap();
        assert_eq!(copied.report.problems, []);
        assert!((19..=20).contains(&copied.sessions), "{}", copied.sessions);

        let copy = open(&into).unwrap();
        for number in [1, 2, 3, 4, 20] {
            let kept = whole_log(&copy, id(number), PageLimit::default())
                .await
                .unwrap();
            let head = copy.summary(id(number)).await.unwrap().unwrap().head;
            assert_eq!(kept.last().unwrap().event().seq, head);
            assert!(head >= Seq::new(6));
            let here = whole_log(store.as_ref(), id(number), PageLimit::default())
                .await
                .unwrap();
            assert_eq!(kept[..], here[..kept.len()]);
        }
        assert_eq!(
            copy.quarantine(id(3)).await.unwrap().as_deref(),
            Some("it kept failing")
        );
        let unfinished = copy.unfinished().await.unwrap();
        let counted = unfinished.iter().find(|(it, _)| it.session == id(4));
        let (counted, _) = counted.unwrap();
        assert_eq!(counted.recoveries, 1);
        assert!(unfinished.len() >= 19);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn room_that_deleted_sessions_took_is_given_back_and_nothing_else_changes() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let store = open(&data).unwrap();
    for number in 1..=60 {
        fill(&store, id(number), 200, Status::Idle).await;
    }
    for number in 4..=60 {
        store.delete(id(number)).await.unwrap();
    }
    let before = whole_log(&store, id(2), PageLimit::default())
        .await
        .unwrap();
    store.close().await.unwrap();
    drop(store);
    let copied = compact(&data, &SystemClock::new()).unwrap();
    assert_eq!((copied.sessions, copied.report.events), (3, 3 * 201));
    assert!(
        copied.bytes_after < copied.bytes_before / 2,
        "{} bytes became {}",
        copied.bytes_before,
        copied.bytes_after
    );
    assert!(!data.join("compact").exists());
    assert!(verify(&data).unwrap().is_sound());
    let store = open(&data).unwrap();
    let after = whole_log(&store, id(2), PageLimit::default())
        .await
        .unwrap();
    assert_eq!(before, after);
    // It goes on where it was.
    let facts = vec![says("more")];
    store
        .append(append_as(id(2), 201, facts, Status::Idle))
        .await
        .unwrap();
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_compaction_that_was_broken_off_left_is_never_taken_for_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let store = open(&data).unwrap();
    fill(&store, id(1), 3, Status::Idle).await;
    store.close().await.unwrap();
    drop(store);
    let half = open(&data.join("compact")).unwrap();
    fill(&half, id(9), 1, Status::Idle).await;
    half.close().await.unwrap();
    drop(half);
    let store = open(&data).unwrap();
    assert_eq!(store.list(None, 10).await.unwrap().len(), 1);
    store.close().await.unwrap();
    drop(store);
    assert_eq!(compact(&data, &SystemClock::new()).unwrap().sessions, 1);
    assert!(verify(&data).unwrap().heads.contains_key(&id(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_somebody_has_open_is_neither_compacted_nor_restored() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let store = open(&data).unwrap();
    fill(&store, id(1), 1, Status::Idle).await;
    let refusals = [
        compact(&data, &SystemClock::new()).unwrap_err(),
        restore(
            &data,
            &dir.path().join("new"),
            Damaged::Refused,
            &SystemClock::new(),
        )
        .unwrap_err(),
    ];
    for refusal in refusals {
        assert!(refusal.to_string().contains("has it open"), "{refusal}");
    }
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_backup_is_refused_and_never_becomes_an_empty_store() {
    let dir = tempfile::tempdir().unwrap();
    let backup = dir.path().join("backup");
    let store = open(&backup).unwrap();
    for number in 1..=50 {
        fill(&store, id(number), 20, Status::Idle).await;
    }
    store.close().await.unwrap();
    drop(store);
    // The end of the log is gone.
    let db = backup.join("log/db");
    let bytes = std::fs::read(&db).unwrap();
    std::fs::write(&db, &bytes[..bytes.len() / 2]).unwrap();
    let into = dir.path().join("new");
    let refusal = restore(&backup, &into, Damaged::Refused, &SystemClock::new()).unwrap_err();
    let said = refusal.to_string();
    assert!(
        matches!(refusal, CopyError::Open(_) | CopyError::Unsound { .. }),
        "{said}"
    );
    assert!(said.contains("damaged"), "{said}");
    assert!(!into.join("log/db").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_sessions_are_all_gone_is_compacted_too() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let store = open(&data).unwrap();
    fill(&store, id(1), 50, Status::Idle).await;
    store.delete(id(1)).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    assert_eq!(compact(&data, &SystemClock::new()).unwrap().sessions, 0);
    assert!(verify(&data).unwrap().is_sound());
    let store = open(&data).unwrap();
    fill(&store, id(2), 1, Status::Idle).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_stays_so_in_every_copy_and_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let store = open(&data).unwrap();
    for number in [1, 2] {
        fill(&store, id(number), 9, Status::Idle).await;
    }
    store.close().await.unwrap();
    drop(store);
    // The summary of the first is lost.
    {
        let db = sled::Config::new()
            .path(data.join("log"))
            .segment_size(8 << 20)
            .open()
            .unwrap();
        let key = [&b"M"[..], &1_u128.to_be_bytes()].concat();
        assert!(db.remove(key).unwrap().is_some());
        db.flush().unwrap();
    }
    let before = verify(&data).unwrap();
    assert_eq!((before.problems.len(), before.events), (1, 20));
    let new = dir.path().join("new");
    let refusal = restore(&data, &new, Damaged::Refused, &SystemClock::new()).unwrap_err();
    assert!(
        matches!(refusal, CopyError::Unsound { problems: 1, .. }),
        "{refusal}"
    );
    assert!(!new.exists());
    let copied = restore(&data, &new, Damaged::Taken, &SystemClock::new()).unwrap();
    assert_eq!(copied.report.problems, before.problems);
    let compacted = compact(&data, &SystemClock::new()).unwrap();
    assert_eq!(compacted.report.problems, before.problems);
    for place in [&data, &new] {
        let after = verify(place).unwrap();
        assert_eq!(
            (after.problems, after.events),
            (before.problems.clone(), 20)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_copy_that_was_broken_off_left_is_named_and_never_taken_for_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let store = open(&data).unwrap();
    fill(&store, id(1), 3, Status::Idle).await;
    let half = dir.path().join("backup.partial");
    let half_store = open(&half).unwrap();
    half_store.close().await.unwrap();
    drop(half_store);
    let into = dir.path().join("backup");
    let refusal = store.backup(into.clone(), Timestamp(7)).await.unwrap_err();
    assert!(refusal.to_string().contains("backup.partial"), "{refusal}");
    assert!(!into.exists());
    std::fs::remove_dir_all(&half).unwrap();
    std::fs::create_dir(&into).unwrap();
    store.backup(into.clone(), Timestamp(7)).await.unwrap();
    assert!(!half.exists());
    assert!(verify(&into).unwrap().is_sound());
    store.close().await.unwrap();
}

#[test]
fn a_backup_of_nothing_says_where_it_looked() {
    let dir = tempfile::Builder::new().prefix("imp").tempdir().unwrap();
    let into = dir.path().join("backup");
    let words = ["backup", into.to_str().unwrap()];
    let nobody = run(&dir.path().join("nothing"), &words);
    let refusal = String::from_utf8_lossy(&nobody.stderr);
    assert!(
        refusal.contains("no store in") && refusal.contains("--data"),
        "{refusal}"
    );
    assert!(!into.exists());
}

#[test]
fn a_backup_by_a_running_daemon_is_restored_and_goes_on_elsewhere() {
    let dir = tempfile::Builder::new().prefix("imp").tempdir().unwrap();
    let data = dir.path().join("data");
    let daemon = serve(&data);
    says_well(&data, &["run", "What is 6 * 7?"]);
    let session = says_well(&data, &["new"]).trim().to_owned();
    says_well(&data, &["close", &session]);
    let backup = dir.path().join("backup");
    let said = says_well(&data, &["backup", backup.to_str().unwrap()]);
    assert!(said.starts_with("2 sessions, "), "{said}");
    assert!(said.contains("no problem was found"), "{said}");
    // The directory has something in it now.
    let again = run(&data, &["backup", backup.to_str().unwrap()]);
    assert_eq!(again.status.code(), Some(1));
    // The store is in use.
    for words in [&["verify"][..], &["compact"]] {
        let refused = run(&data, words);
        assert_eq!(refused.status.code(), Some(3), "{words:?}");
    }
    let there = says_well(&data, &["ls", "--json"]);
    drop(daemon);

    let elsewhere = dir.path().join("elsewhere");
    says_well(&elsewhere, &["restore", backup.to_str().unwrap()]);
    let daemon = serve(&elsewhere);
    let restored = says_well(&elsewhere, &["ls", "--json"]);
    let names = |text: &str| -> Vec<serde_json::Value> {
        let sessions = text.lines().map(|line| {
            let session: serde_json::Value = serde_json::from_str(line).unwrap();
            serde_json::json!([session["session"], session["status"], session["head"]])
        });
        sessions.collect()
    };
    assert_eq!(names(&restored), names(&there));
    drop(daemon);
    let said = says_well(&elsewhere, &["verify"]);
    assert!(said.starts_with("2 sessions, "), "{said}");
    says_well(&elsewhere, &["compact"]);
    // Without a daemon the command copies by itself.
    let second = dir.path().join("second");
    says_well(&elsewhere, &["backup", second.to_str().unwrap()]);
    let full = run(&elsewhere, &["restore", second.to_str().unwrap()]);
    assert_eq!(full.status.code(), Some(1));
    let said = String::from_utf8(full.stderr).unwrap();
    assert!(said.contains("is not empty"), "{said}");
    let none = run(&dir.path().join("none"), &["verify"]);
    assert_eq!(none.status.code(), Some(1));
    // Nothing to restore, and a rule that says nothing: each is told what to say instead.
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let third = dir.path().join("third");
    for (words, hint) in [
        (&["restore", empty.to_str().unwrap()][..], "no backup in"),
        (&["gc"], "say which sessions go"),
    ] {
        let refused = run(&third, words);
        assert_eq!(refused.status.code(), Some(1), "{words:?}");
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(said.contains(hint), "{said}");
    }
}

#[test]
fn sessions_that_nobody_needs_are_deleted_by_rule_and_no_others() {
    let dir = tempfile::Builder::new().prefix("imp").tempdir().unwrap();
    let data = dir.path().join("data");
    let _daemon = serve(&data);
    let new = |words: &[&str]| {
        let words = [&["new"], words].concat();
        says_well(&data, &words).trim().to_owned()
    };
    let first = new(&["--tenant", "acme"]);
    let second = new(&[]);
    let third = new(&[]);
    says_well(&data, &["close", &first]);
    says_well(&data, &["close", &second]);
    let gone = |words: &[&str]| {
        let words = [&["gc"], words].concat();
        says_well(&data, &words)
    };
    let lines = |ids: &[&String]| ids.iter().map(|id| format!("{id}\n")).collect::<String>();
    assert_eq!(run(&data, &["gc"]).status.code(), Some(1));
    assert_eq!(gone(&["--older-than", "1h"]), "");
    assert_eq!(
        gone(&["--status", "closed", "--dry-run"]),
        lines(&[&second, &first])
    );
    assert_eq!(gone(&["--keep", "2", "--dry-run"]), lines(&[&first]));
    assert_eq!(
        gone(&["--tenant", "acme", "--status", "closed"]),
        lines(&[&first])
    );
    assert_eq!(
        gone(&["--older-than", "0s", "--status", "closed"]),
        lines(&[&second])
    );
    let left = says_well(&data, &["ls", "--json"]);
    assert_eq!(left.lines().count(), 1);
    assert!(left.contains(&third), "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_spent_stays_in_every_copy_also_that_of_deleted_sessions() {
    let spent = impresario::budget::Spending {
        nano_usd: 12_500,
        tokens: 70,
        steps: 1,
        millis: 900,
    };
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let store = open(&at("data")).unwrap();
    for number in 1..=3 {
        let append = append_as(id(number), 0, vec![created()], Status::Idle);
        store.append(Append { spent, ..append }).await.unwrap();
    }
    store.delete(id(2)).await.unwrap();
    let ledger = store.ledger().await.unwrap();
    assert_eq!(ledger.len(), 1);
    assert_eq!(ledger[0].spent, spent.plus(spent).plus(spent));
    store.backup(at("backup"), Timestamp(7)).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let clock = SystemClock::new();
    compact(&at("data"), &clock).unwrap();
    restore(&at("backup"), &at("new"), Damaged::Refused, &clock).unwrap();
    for name in ["data", "new"] {
        let dir = at(name);
        assert!(verify(&dir).unwrap().is_sound(), "{name}");
        let store = open(&dir).unwrap();
        assert_eq!(store.ledger().await.unwrap(), ledger, "{name}");
        store.close().await.unwrap();
    }
}
