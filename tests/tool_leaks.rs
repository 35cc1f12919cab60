//! Many runs of a command tool leave nothing behind. Alone in its process, because it counts.
#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

#[path = "support/programs.rs"]
mod programs;

use programs::{LONG, children, descriptors, invocation, made, script};

#[tokio::test]
async fn two_hundred_runs_and_fifty_dropped_calls_leave_no_process_and_no_descriptor() {
    let data = tempfile::tempdir().unwrap();
    let tool = made(data.path(), &script("sleep 0 & echo done"));
    let hanging = made(data.path(), &script("sleep 1000"));
    tool.call(invocation(json!({}))).await.unwrap();
    all_children_gone().await;
    let before = descriptors();

    for _ in 0..25 {
        let runs = (0..8).map(|_| tool.call(invocation(json!({}))));
        for result in join_all(runs).await {
            assert_eq!(result, Ok("done\n".to_owned()));
        }
        let soon = Duration::from_millis(1);
        let calls = (0..2).map(|_| hanging.call(invocation(json!({}))));
        let dropped = tokio::time::timeout(soon, join_all(calls)).await;
        assert!(dropped.is_err());
    }
    all_children_gone().await;
    let let_go = async {
        // What watched the last one may be open a moment longer.
        while descriptors() > before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let let_go = tokio::time::timeout(LONG, let_go).await;
    assert!(let_go.is_ok(), "{} of {before} left", descriptors());
}

/// They are reaped by another thread: look until it has.
async fn all_children_gone() {
    let gone = async {
        while children() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, gone)
        .await
        .expect("children are left");
}
