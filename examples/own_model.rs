//! A model of one's own, in Rust, behind an agent with a builtin tool.
//!
//! `cargo run --example own_model`: offline, no key. The model below has the tool `calc` work out
//! a sum, and says the result. A real one would ask a server in [`Model::answer`]. Everything is
//! kept in memory here; say `.store(DIRECTORY)` to keep it on disk.

use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use impresario::chunk::Item;
use impresario::event::{Fact, FinishReason, RequestedCall, Usage};
use impresario::id::CallId;
use impresario::model::watch::{Watchdogs, Watched};
use impresario::model::{Answer, Message, Model, Piece, PieceStream, Request};
use impresario::settings::ModelSettings;
use impresario::store::MemoryStore;
use impresario::{Agent, Impresario};
use serde_json::json;

/// Has every question worked out by `calc`.
#[derive(Debug)]
struct Accountant;

impl Model for Accountant {
    fn answer(&self, request: Request) -> PieceStream {
        let pieces = match request.messages.last() {
            Some(Message::ToolResult { content, .. }) => says(&format!("It is {content}.")),
            Some(Message::User(sum)) => asks_for(sum),
            Some(Message::Assistant { .. }) | None => says("What shall I work out?"),
        };
        stream::iter(pieces).map(Ok).boxed()
    }

    fn provider(&self) -> &str {
        "accountant"
    }
}

/// Words, one piece each, and the end, which is the only sign that the answer is whole.
fn says(words: &str) -> Vec<Piece> {
    let mut pieces: Vec<_> = words
        .split_inclusive(' ')
        .map(|word| Piece::Text(word.to_owned()))
        .collect();
    pieces.push(Piece::Done(Answer {
        finish_reason: FinishReason::Stop,
        usage: Some(Usage {
            input: 10,
            output: 5,
            ..Usage::default()
        }),
        ..Answer::default()
    }));
    pieces
}

/// Asks for a tool; the model is asked again when the result is there.
fn asks_for(sum: &str) -> Vec<Piece> {
    vec![Piece::Done(Answer {
        tool_calls: vec![RequestedCall {
            id: CallId("call-1".to_owned()),
            tool: "calc".to_owned(),
            arguments: json!({ "expression": sum }).to_string(),
            signature: None,
        }],
        finish_reason: FinishReason::ToolCalls,
        usage: None,
    })]
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Watchdogs for a model that hangs: first piece, next piece, whole call.
    let watchdogs = Watchdogs::from(&ModelSettings::default());
    let company = Impresario::builder()
        .event_store(Arc::new(MemoryStore::new()))
        .model(
            "own",
            Arc::new(Watched::new(Arc::new(Accountant), watchdogs)),
        )
        .agent(Agent::new("accountant").model("own").tools(["calc"]))
        .start()
        .await?;

    let session = company.session("accountant").create().await?;
    let mut turn = session.send("17 * 23").await?;
    let mut out = std::io::stdout();
    while let Some(chunk) = turn.next().await {
        match chunk.item {
            Item::Delta(delta) => write!(out, "{}", delta.text)?,
            Item::Event(stored) => {
                if let Fact::TurnFinished { usage, .. } = &stored.event().fact {
                    writeln!(out, "\n{} tokens in, {} out", usage.input, usage.output)?;
                }
            }
            Item::Reset { .. } | Item::Gap { .. } | Item::End(_) => {}
        }
    }
    company.stop(Duration::from_secs(10)).await?;
    Ok(())
}
