//! What the crash tests share: a child that writes until it is killed, and mounts.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use impresario::clock::spawn;
use impresario::store::EventStore;

use crate::store_support::{append, open, says, session};

/// Tells a copy of the test that it is the writer, and where it writes.
pub(crate) const WRITER: &str = "STORE_TEST_WRITER";

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap()
}

/// What the child does: eight sessions write as fast as they are acknowledged.
pub(crate) fn write_until_killed(dir: &Path) {
    runtime().block_on(async {
        let store: Arc<dyn EventStore> = Arc::new(open(dir).unwrap());
        let writers: Vec<_> = (1..=8)
            .map(|number| spawn(write_for_ever(Arc::clone(&store), number)))
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

/// Prints `ack <session> <seq>` after each acknowledgement.
async fn write_for_ever(store: Arc<dyn EventStore>, number: u128) {
    let head = store.summary(session(number)).await.unwrap();
    let mut after = head.map_or(0, |summary| summary.head.get());
    loop {
        let large = "x".repeat(if after % 64 == 63 { 100_000 } else { 100 });
        let facts = vec![says("word"), says(&large)];
        store
            .append(append(session(number), after, facts))
            .await
            .unwrap();
        after += 2;
        let line = format!("ack {number} {after}\n");
        std::io::stdout().write_all(line.as_bytes()).unwrap();
    }
}

/// Remembers the acknowledgement that this line is, if it is one.
pub(crate) fn take_ack(line: &str, acked: &mut HashMap<u128, u64>) {
    let mut words = line.split(' ');
    if words.next() != Some("ack") {
        return;
    }
    let number = words.next().and_then(|word| word.parse().ok());
    let seq = words.next().and_then(|word| word.parse().ok());
    if let (Some(number), Some(seq)) = (number, seq) {
        acked.insert(number, seq);
    }
}

/// Starts the test `writer` of this same binary.
pub(crate) fn start_writer(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["writer", "--exact", "--ignored", "--nocapture"])
        .env(WRITER, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

pub(crate) fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// A mounted file system; unmounted when dropped, also by a panic.
pub(crate) struct Mount(PathBuf);

impl Mount {
    pub(crate) fn new(arguments: &[&str], at: &Path) -> Option<Self> {
        let status = Command::new("mount")
            .args(arguments)
            .arg(at)
            .status()
            .ok()?;
        status.success().then(|| Self(at.to_owned()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(done.unwrap().success(), "umount {}", self.0.display());
    }
}
