//! A company from the outside: the embedding interface, a store in memory, models and tools that
//! are real.
#![expect(
    clippy::unwrap_used,
    reason = "helpers outside #[test] functions may unwrap too"
)]

use std::sync::Arc;
use std::time::Duration;

use impresario::chunk::{Chunk, Item};
use impresario::event::{Fact, TurnStatus};
use impresario::model::offline::Offline;
use impresario::store::MemoryStore;
use impresario::{Agent, Impresario, Turn};

async fn company() -> Impresario {
    let offline = Offline::with_word_delay(Duration::ZERO);
    Impresario::builder()
        .event_store(Arc::new(MemoryStore::new()))
        .model("offline", Arc::new(offline))
        .agent(Agent::new("assistant").tools(["calc", "time", "wait"]))
        .start()
        .await
        .unwrap()
}

async fn all(turn: &mut Turn) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    while let Some(chunk) = turn.next().await {
        chunks.push(chunk);
    }
    chunks
}

fn facts(chunks: &[Chunk]) -> Vec<&'static str> {
    chunks
        .iter()
        .filter_map(|chunk| match &chunk.item {
            Item::Event(stored) => Some(stored.event().fact.name()),
            Item::Delta(_) | Item::Reset { .. } | Item::Gap { .. } | Item::End(_) => None,
        })
        .collect()
}

#[tokio::test]
async fn a_turn_uses_two_tools_at_once_and_streams_its_answer() {
    let company = company().await;
    let session = company.session("assistant").create().await.unwrap();
    let mut turn = session
        .send("What is 17 * 23, and what time is it in Tokyo?")
        .await
        .unwrap();
    let chunks = all(&mut turn).await;
    assert_eq!(
        facts(&chunks),
        [
            "user_input",
            "turn_started",
            "llm_request",
            "llm_response",
            "tool_call",
            "tool_call",
            "tool_result",
            "tool_result",
            "llm_request",
            "llm_response",
            "turn_finished",
        ]
    );
    let streamed: String = chunks
        .iter()
        .filter_map(|chunk| match &chunk.item {
            Item::Delta(delta) => Some(delta.text.to_string()),
            Item::Event(_) | Item::Reset { .. } | Item::Gap { .. } | Item::End(_) => None,
        })
        .collect();
    let recorded: String = session
        .events(impresario::id::Seq::START, 100)
        .await
        .unwrap()
        .iter()
        .filter_map(|stored| match &stored.event().fact {
            Fact::LlmResponse(response) => Some(response.content.clone()),
            Fact::TurnFinished { status, .. } => {
                assert_eq!(*status, TurnStatus::Completed);
                None
            }
            _other => None,
        })
        .collect();
    assert!(recorded.contains("391"), "{recorded}");
    assert_eq!(streamed, recorded);
    company.stop(Duration::from_secs(10)).await.unwrap();
}
