//! `agent`: an agent with a session of its own, called like a tool.
//!
//! A tool knows no sessions: whoever calls for a session brings [`Agents`] with the call. Outside a
//! session there are none, and the call is an error.

use std::fmt;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use crate::context::ToolDefinition;
use crate::event::EffectClass;
use crate::restart::RestartPolicy;
use crate::tool::{Invocation, OutputSink, Tool, ToolError, ToolSpec};

/// An agent may work so long, when nothing else is said.
pub const TIMEOUT: Duration = Duration::from_secs(600);

/// Begins sessions for the calls of a session, or finds those that it began before.
pub trait Agents: Send + Sync + fmt::Debug {
    /// Has an agent do something, and waits for its answer. The same key is the same session and
    /// the same turn, however often it is asked for.
    /// Cancellation: dropping the future cancels nothing.
    ///
    /// # Errors
    /// [`ToolError::NotNow`] when there may be no such session now, [`ToolError::Failed`] when
    /// its turn came to no good end.
    fn ask(&self, task: Task) -> BoxFuture<'static, Result<String, ToolError>>;

    /// So long, in all, agents that were asked have waited for people. It does not count against
    /// the timeout of whoever waits for them.
    fn waited(&self) -> Duration;
}

/// What an agent is to do.
#[derive(Clone, Debug)]
pub struct Task {
    /// The agent's name.
    pub agent: String,
    /// The words that it gets.
    pub input: String,
    /// Names the task: the call's idempotency key.
    pub key: String,
    /// Where its progress goes.
    pub output: OutputSink,
}

/// An agent as a tool. Its answer is the result.
///
/// ```
/// use impresario::tool::agent::AgentTool;
/// use impresario::{Agent, Impresario};
///
/// let builder = Impresario::builder()
///     .agent(Agent::new("calculator").tools(["calc"]))
///     .tool(AgentTool::new("ask_calculator", "calculator", "Answers questions about numbers."))
///     .agent(Agent::new("assistant").tools(["ask_calculator"]));
/// # drop(builder);
/// ```
#[derive(Clone, Debug)]
pub struct AgentTool {
    spec: ToolSpec,
    agent: String,
}

impl AgentTool {
    /// The agent `agent` as a tool of this name. The model reads the description; it gives the
    /// agent's input as `{"input": "…"}`.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        agent: impl Into<String>,
        description: impl Into<String>,
    ) -> Self {
        let spec = ToolSpec {
            definition: ToolDefinition {
                name: name.into(),
                description: description.into(),
                parameters: Self::parameters(),
            },
            effect: EffectClass::Idempotent,
            timeout: TIMEOUT,
            restart: RestartPolicy::default(),
            max_output_bytes: 256 * 1024,
        };
        Self::with(spec, agent)
    }

    /// The agent `agent` as a tool with this specification. A call is never `pure`: it has a
    /// session, which a later call could not share. A call that took too long does not run again:
    /// it would only wait for the same session.
    #[must_use]
    pub fn with(mut spec: ToolSpec, agent: impl Into<String>) -> Self {
        spec.effect = spec.effect.max(EffectClass::Idempotent);
        spec.restart.max_restarts = 0;
        Self {
            spec,
            agent: agent.into(),
        }
    }

    /// The schema of `{"input": "…"}`.
    #[must_use]
    pub fn parameters() -> Value {
        json!({
            "type": "object",
            "properties": {
                "input": {
                    "type": "string",
                    "description": "What the agent is to do, with all that it has to know: it sees nothing of this conversation.",
                },
            },
            "required": ["input"],
            "additionalProperties": false,
        })
    }
}

impl Tool for AgentTool {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn kind(&self) -> &'static str {
        "agent"
    }

    fn identity(&self) -> String {
        self.agent.clone()
    }

    fn agent(&self) -> Option<&str> {
        Some(&self.agent)
    }

    fn call(&self, invocation: Invocation) -> BoxFuture<'static, Result<String, ToolError>> {
        let Some(agents) = invocation.agents else {
            let says =
                "an agent is called by a session only; begin one with an agent that has this tool";
            return std::future::ready(Err(ToolError::NotNow(says.to_owned()))).boxed();
        };
        agents.ask(Task {
            agent: self.agent.clone(),
            input: words(&invocation.arguments),
            key: invocation.idempotency_key,
            output: invocation.output,
        })
    }
}

/// The text of `{"input": "…"}`; of any other arguments, the JSON itself.
fn words(arguments: &Value) -> String {
    let alone = arguments.as_object().filter(|fields| fields.len() == 1);
    let text = alone.and_then(|fields| fields.get("input")?.as_str());
    text.map_or_else(|| arguments.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_alone_is_the_agents_words_and_anything_else_is_json() {
        assert_eq!(words(&json!({"input": "go"})), "go");
        let table = [
            json!({"input": "go", "where": "home"}),
            json!({"input": 7}),
            json!({"topic": "cats"}),
        ];
        for arguments in table {
            assert_eq!(words(&arguments), arguments.to_string());
        }
    }

    #[tokio::test]
    async fn an_agent_that_no_session_calls_says_how_to_call_it() {
        let tool = AgentTool::new("ask", "helper", "Helps.");
        let called = tool.call(Invocation {
            arguments: json!({"input": "go"}),
            idempotency_key: "k".to_owned(),
            attempt: 1,
            output: OutputSink::none(),
            owner: None,
            agents: None,
        });
        let Err(ToolError::NotNow(says)) = called.await else {
            panic!("there is no session")
        };
        assert!(says.contains("begin one"), "{says}");
    }

    #[test]
    fn a_call_of_an_agent_is_never_pure() {
        let mut spec = AgentTool::new("ask", "helper", "Helps.").spec;
        spec.effect = EffectClass::Pure;
        let tool = AgentTool::with(spec, "helper");
        assert_eq!(tool.spec().effect, EffectClass::Idempotent);
    }
}
