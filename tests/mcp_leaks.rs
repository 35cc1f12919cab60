//! Servers that are started, killed and stopped again and again leave nothing. Alone in its file,
//! because it counts what the process has.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

#[path = "support/programs.rs"]
mod programs;

use std::sync::Arc;
use std::time::Duration;

use impresario::clock::{Clock, SystemClock};
use impresario::settings::{ToolKind, ToolSettings};
use impresario::tool::mcp::server;
use impresario::tool::{Call, OutputSink, Toolbox};
use serde_json::json;

use programs::{LONG, children, descriptors, environment};

const ROUNDS: usize = 15;

fn calling(tool: &str) -> Call {
    Call {
        tool: format!("fake__{tool}"),
        arguments: json!({}).to_string(),
        idempotency_key: "session:7".to_owned(),
        attempt: 1,
        owner: None,
        output: OutputSink::none(),
        agents: None,
    }
}

async fn round(folder: &std::path::Path) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/mcp_server.py");
    let settings = ToolSettings {
        kind: ToolKind::Mcp,
        command: ["python3", script, folder.to_str().unwrap()]
            .map(str::to_owned)
            .to_vec(),
        backoff_first_ms: 1,
        ..ToolSettings::default()
    };
    let server = server("fake", &settings, &environment(&folder.join("data"))).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let tools = Toolbox::with_servers([], [server], &clock).unwrap();
    for tool in ["echo", "die", "echo"] {
        tokio::time::timeout(LONG, tools.run(&calling(tool)))
            .await
            .unwrap();
    }
    // One that nobody waits for.
    let waits = calling("wait");
    let cut = tokio::time::timeout(Duration::from_millis(50), tools.run(&waits)).await;
    assert!(cut.is_err());
    tools.close().await;
}

#[tokio::test]
async fn servers_that_die_and_stop_leave_no_process_and_no_descriptor() {
    let folder = tempfile::tempdir().unwrap();
    round(folder.path()).await;
    let before = descriptors();
    for _ in 0..ROUNDS {
        round(folder.path()).await;
    }
    let settled = async {
        while children() > 0 || descriptors() > before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let settled = tokio::time::timeout(LONG, settled).await;
    assert!(
        settled.is_ok(),
        "{} processes, {} descriptors (before: {before})",
        children(),
        descriptors()
    );
}
