//! A tool of one's own, in Rust, called by an agent.
//!
//! `cargo run --example own_tool`: offline, no key. It builds a tool that counts words, hands it to
//! an agent, and prints everything that happens until the turn is done. The log is in
//! `impresario-data` below the folder for temporary files, or in the directory given as argument.

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use impresario::chunk::{Channel, Item};
use impresario::event::{EffectClass, Fact};
use impresario::model::scripted::Scripted;
use impresario::model::scripted::format::Script;
use impresario::restart::RestartPolicy;
use impresario::tool::{Invocation, Tool, ToolError, ToolSpec};
use impresario::{Agent, Impresario};
use serde_json::json;

/// Counts words.
#[derive(Debug)]
struct WordCount {
    spec: ToolSpec,
}

impl WordCount {
    fn new() -> Self {
        Self {
            spec: ToolSpec {
                definition: impresario::model::ToolDefinition {
                    name: "word_count".to_owned(),
                    description: "Counts the words of a text.".to_owned(),
                    parameters: json!({
                        "type": "object",
                        "properties": {"text": {"type": "string"}},
                        "required": ["text"],
                        "additionalProperties": false
                    }),
                },
                // It touches nothing outside: after a crash it may simply run again.
                effect: EffectClass::Pure,
                timeout: Duration::from_secs(5),
                restart: RestartPolicy::default(),
                max_output_bytes: 1024,
            },
        }
    }
}

impl Tool for WordCount {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call(&self, invocation: Invocation) -> BoxFuture<'static, Result<String, ToolError>> {
        async move {
            // The arguments were checked against the schema before.
            let text = invocation.arguments.get("text").and_then(|it| it.as_str());
            let text = text.ok_or_else(|| ToolError::Failed("`text` is missing".to_owned()))?;
            Ok(text.split_whitespace().count().to_string())
        }
        .boxed()
    }
}

/// Stands in for a language model: asks for the tool, then says what it heard.
const SCRIPT: &str = r#"{
  "chunk_chars": 6,
  "chunk_delay_ms": 20,
  "answers": [
    {"pieces": [
      {"text": "I will count. "},
      {"tool_calls": [{"tool": "word_count", "arguments": {"text": "the show must go on"}}]}
    ]},
    {"pieces": [{"text": "The sentence has five words."}]}
  ]
}"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let given = std::env::args_os().nth(1).map(PathBuf::from);
    let store = given.unwrap_or_else(|| std::env::temp_dir().join("impresario-data"));
    let company = Impresario::builder()
        .store(&store)
        .tool(WordCount::new())
        .model(
            "script",
            std::sync::Arc::new(Scripted::new(Script::parse(SCRIPT)?)),
        )
        .agent(Agent::new("counter").model("script").tools(["word_count"]))
        .start()
        .await?;

    let session = company.session("counter").create().await?;
    let mut turn = session
        .send("How many words has 'the show must go on'?")
        .await?;
    let mut out = std::io::stdout();
    while let Some(chunk) = turn.next().await {
        match chunk.item {
            Item::Delta(delta) if delta.channel == Channel::Text => {
                write!(out, "{}", delta.text)?;
                out.flush()?;
            }
            Item::Event(stored) => show(&mut out, &stored.event().fact)?,
            Item::Delta(_) | Item::Reset { .. } | Item::Gap { .. } | Item::End(_) => {}
        }
    }
    writeln!(
        out,
        "session {} is kept in {}",
        session.id(),
        store.display()
    )?;
    company.stop(Duration::from_secs(10)).await?;
    Ok(())
}

fn show(out: &mut impl Write, fact: &Fact) -> std::io::Result<()> {
    if let Fact::ToolCall(call) = fact {
        writeln!(out, "\n-> {} {}", call.tool, call.arguments)?;
    }
    if let Fact::ToolResult(result) = fact {
        writeln!(out, "<- {}", result.content)?;
    }
    if let Fact::TurnFinished { status, .. } = fact {
        writeln!(out, "\n{}", status.name())?;
    }
    Ok(())
}
