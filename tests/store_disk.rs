//! The store on disk: opening, refusing, damage, a full disk, `kill -9`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "helpers outside #[test] functions may unwrap; a skipped test says so; the child is told what to do by its environment"
)]

#[path = "store_support/crash.rs"]
mod crash;
mod store_support;

use crash::{Mount, WRITER, runtime, skipped, start_writer};

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Child;

use impresario::clock::SystemClock;
use impresario::id::Seq;
use impresario::settings::StoreSettings;
use impresario::store::{EventStore, OpenError, PageLimit, SledStore, Status, StoreError, verify};
use store_support::{append, append_as, created, dense, open, says, session, settings, whole_log};

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let facts = vec![created(), says(&"large ".repeat(100_000))];
    let begin = append_as(session(1), 0, facts, Status::Unfinished);
    let stored = store.append(begin).await.unwrap();
    store.count_recoveries(vec![session(1)]).await.unwrap();
    let reason = Some("it failed".to_owned());
    store
        .set_quarantine(session(1), reason.clone())
        .await
        .unwrap();
    store.close().await.unwrap();

    let store = open(dir.path()).unwrap();
    let log = whole_log(&store, session(1), PageLimit::default()).await;
    assert_eq!(log.unwrap(), stored);
    assert_eq!(store.unfinished().await.unwrap()[0].0.recoveries, 1);
    assert_eq!(store.quarantine(session(1)).await.unwrap(), reason);
    let next = append(session(1), 2, vec![says("on")]);
    store.append(next).await.unwrap();
    assert!(store.size_bytes() > 0);
    store.close().await.unwrap();
    assert!(verify(dir.path()).unwrap().is_sound());
}

#[tokio::test]
async fn a_store_that_was_dropped_can_be_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    for after in 0..3 {
        let store = open(dir.path()).unwrap();
        let next = append(session(1), after, vec![says("more")]);
        store.append(next).await.unwrap();
    }
    let store = open(dir.path()).unwrap();
    let log = whole_log(&store, session(1), PageLimit::default()).await;
    assert_eq!(dense(&log.unwrap()), Some(3));
}

#[test]
fn the_data_directory_is_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let _store = open(&data).unwrap();
    let mode = std::fs::metadata(&data).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_second_opening_is_refused_and_names_the_holder() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(dir.path()).unwrap();
    let refusal = open(dir.path()).unwrap_err();
    let own = std::process::id();
    assert!(
        matches!(refusal, OpenError::AlreadyOpen { pid: Some(pid), .. } if pid == own),
        "{refusal}"
    );
    assert!(refusal.to_string().contains(&own.to_string()));
    assert!(matches!(
        verify(dir.path()),
        Err(OpenError::AlreadyOpen { .. })
    ));
}

#[tokio::test]
async fn a_newer_store_is_refused_and_no_byte_of_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    store
        .append(append(session(1), 0, vec![created()]))
        .await
        .unwrap();
    store.close().await.unwrap();
    std::fs::write(dir.path().join("format"), "impresario store 3\n").unwrap();
    let before = bytes_of(dir.path());
    let refusal = open(dir.path()).unwrap_err();
    assert!(
        matches!(refusal, OpenError::NewerVersion { found: 3, .. }),
        "{refusal}"
    );
    assert_eq!(bytes_of(dir.path()), before);
}

/// Every file below the directory with its bytes.
fn bytes_of(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(bytes_of(&path));
        } else {
            files.insert(path.clone(), std::fs::read(path).unwrap());
        }
    }
    files
}

#[tokio::test]
async fn a_half_written_snapshot_does_not_stop_the_store_from_opening() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    store
        .append(append(session(1), 0, vec![created()]))
        .await
        .unwrap();
    store.close().await.unwrap();
    let half = dir
        .path()
        .join("log")
        .join("snap.0000000000FFFFFF.generating");
    std::fs::write(&half, b"half").unwrap();
    let store = open(dir.path()).unwrap();
    assert!(!half.exists());
    let log = whole_log(&store, session(1), PageLimit::default()).await;
    assert_eq!(dense(&log.unwrap()), Some(1));
}

#[test]
fn a_path_that_is_a_file_and_an_empty_path_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    assert!(matches!(open(&file), Err(OpenError::Io { .. })));
    assert!(matches!(open(Path::new("")), Err(OpenError::Io { .. })));
    assert!(matches!(verify(dir.path()), Err(OpenError::Missing { .. })));
}

#[test]
fn a_directory_that_cannot_be_written_is_refused_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let _mount = if rustix::process::geteuid().is_root() {
        // Permissions do not bind root; a read-only mount does.
        match Mount::new(&["-t", "tmpfs", "-o", "ro", "tmpfs"], &data) {
            Some(mount) => Some(mount),
            None => return skipped("cannot mount a tmpfs"),
        }
    } else {
        let read_only = std::fs::Permissions::from_mode(0o500);
        std::fs::set_permissions(&data, read_only).unwrap();
        None
    };
    let refusal = open(&data).unwrap_err();
    assert!(
        matches!(refusal, OpenError::NotWritable { .. }),
        "{refusal}"
    );
    assert!(refusal.to_string().contains("writable"), "{refusal}");
}

#[tokio::test]
async fn a_full_disk_refuses_appends_and_takes_them_again_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let arguments = ["-t", "tmpfs", "-o", "size=96m", "tmpfs"];
    let Some(mount) = rustix::process::geteuid()
        .is_root()
        .then(|| Mount::new(&arguments, &disk))
        .flatten()
    else {
        return skipped("a small tmpfs needs root");
    };
    let with_reserve = StoreSettings {
        reserve_mb: 32,
        ..settings(&disk.join("data"))
    };
    let store = SledStore::open(&with_reserve, &SystemClock::new()).unwrap();
    let filler = mount.path().join("filler");
    std::fs::write(&filler, vec![1; 56 << 20]).unwrap();
    let words = "word".repeat(10_000);
    let mut stored = 0;
    let refusal = loop {
        let next = append(session(1), stored, vec![says(&words)]);
        match store.append(next).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refusal, StoreError::Full { .. }), "{refusal}");
    std::fs::remove_file(filler).unwrap();
    let next = append(session(1), stored, vec![says("room again")]);
    store.append(next).await.unwrap();
    let log = whole_log(&store, session(1), PageLimit::default()).await;
    assert_eq!(dense(&log.unwrap()), usize::try_from(stored + 1).ok());
    store.close().await.unwrap();
}

#[test]
fn a_log_put_back_to_an_older_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime();
    runtime.block_on(fill(dir.path()));
    let log = dir.path().join("log");
    let older = bytes_of(&log);
    runtime.block_on(async {
        let store = open(dir.path()).unwrap();
        let next = append(session(1), 20, vec![says("acknowledged")]);
        store.append(next).await.unwrap();
        store.close().await.unwrap();
    });
    std::fs::remove_dir_all(&log).unwrap();
    for (path, bytes) in older {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let refusal = open(dir.path()).unwrap_err();
    assert!(matches!(refusal, OpenError::Damaged { .. }), "{refusal}");
    assert!(refusal.to_string().contains("made durable"), "{refusal}");
}

#[test]
fn a_cut_log_is_never_silent() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime();
    runtime.block_on(fill(dir.path()));
    let log = dir.path().join("log");
    let sound = std::fs::read(log.join("db")).unwrap();
    let written = sound.iter().rposition(|byte| *byte != 0).unwrap();
    for round in 1..=12 {
        remove_snapshots(&log);
        std::fs::write(log.join("db"), &sound[..written * round / 13]).unwrap();
        check_damaged(&runtime, dir.path(), &format!("cut, round {round}"));
    }
}

#[test]
fn a_flipped_bit_is_never_silent() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime();
    runtime.block_on(fill(dir.path()));
    let log = dir.path().join("log");
    let sound = std::fs::read(log.join("db")).unwrap();
    let written = sound.iter().rposition(|byte| *byte != 0).unwrap();
    for round in 0..24 {
        // Snapshots would hide damage in the log.
        remove_snapshots(&log);
        let mut bad = sound.clone();
        let at = (round * 2 + 1) * written / 48;
        bad[at] ^= 1 << (round % 8);
        std::fs::write(log.join("db"), &bad).unwrap();
        check_damaged(&runtime, dir.path(), &format!("bit flipped at byte {at}"));
    }
}

/// Refused at opening, or every session is whole, or it says that it is not.
fn check_damaged(runtime: &tokio::runtime::Runtime, dir: &Path, damage: &str) {
    let Ok(store) = open(dir) else { return };
    runtime.block_on(async {
        for number in 1..=20 {
            match whole_log(&store, session(number), PageLimit::default()).await {
                Ok(events) => {
                    assert_eq!(dense(&events), Some(20), "{damage}");
                    let mut facts = events.iter().map(|stored| &stored.event().fact);
                    assert!(facts.all(|fact| *fact == says("some words")), "{damage}");
                }
                Err(error) => assert!(
                    matches!(error, StoreError::Corrupt { .. }),
                    "{damage}: {error}"
                ),
            }
        }
        // The last sync may fail on what is damaged.
        drop(store.close().await);
    });
}

fn remove_snapshots(log: &Path) {
    for entry in std::fs::read_dir(log).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("snap.") {
            std::fs::remove_file(path).unwrap();
        }
    }
}

async fn fill(dir: &Path) {
    let store = open(dir).unwrap();
    for number in 1..=20 {
        let facts = (0..20).map(|_| says("some words")).collect();
        store
            .append(append(session(number), 0, facts))
            .await
            .unwrap();
    }
    store.close().await.unwrap();
}

#[test]
#[ignore = "the writer that the test below starts as a child"]
fn writer() {
    let dir = std::env::var(WRITER).unwrap();
    crash::write_until_killed(Path::new(&dir));
}

/// Reads acknowledgements until so many were seen, ends the child, and reads what is left.
fn kill_after(mut child: Child, count: usize, acked: &mut HashMap<u128, u64>) {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut take = |line: String| crash::take_ack(&line, acked);
    lines
        .by_ref()
        .take(count)
        .for_each(|line| take(line.unwrap()));
    child.kill().unwrap();
    lines.map_while(Result::ok).for_each(take);
    child.wait().unwrap();
}

#[test]
fn kill_9_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut acked = HashMap::new();
    for round in 0..10 {
        kill_after(start_writer(dir.path()), 50 + round * 37, &mut acked);
        let report = verify(dir.path()).unwrap();
        assert_eq!(report.problems, [], "round {round}");
        assert_eq!(acked.len(), 8, "every session was acknowledged");
        for (&number, &seq) in &acked {
            let head = report.heads.get(&session(number)).copied();
            assert!(head >= Some(Seq::new(seq)), "lost: {head:?} < {seq}");
        }
    }
    println!(
        "acknowledged and kept: {} events",
        acked.values().sum::<u64>()
    );
}
