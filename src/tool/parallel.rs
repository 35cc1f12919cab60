//! `parallel`: tools at once. All of them settle; the results stand in the order of the steps.
//!
//! Called like every tool. It calls its members through their hosts. A member that fails fails
//! nobody else.

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use serde_json::{Value, json};

use crate::event::{Cause, Outcome};
use crate::tool::chain::{Step, alone};
use crate::tool::template::{Places, Scope};
use crate::tool::{Invocation, RunEnd, Tool, ToolError, ToolSpec, Toolbox};

/// Tools at once. Its result is a JSON array of `{"tool", "outcome", "content"}`.
#[derive(Clone, Debug)]
pub struct Parallel {
    spec: ToolSpec,
    steps: Vec<Step>,
    at_once: usize,
}

impl Parallel {
    /// These tools, so many at once (at least one): names and arguments, templates with
    /// `{{input…}}`. What a crash means follows from the members, whatever `spec` says beyond
    /// that.
    ///
    /// # Errors
    /// Which step's template is wrong, and how.
    pub fn new<S: Into<String>>(
        spec: ToolSpec,
        steps: impl IntoIterator<Item = (S, Option<Value>)>,
        at_once: usize,
    ) -> Result<Self, String> {
        let steps = steps
            .into_iter()
            .zip(1..)
            .map(|((tool, arguments), number)| {
                Step::new(tool, arguments.as_ref(), Places::Input)
                    .map_err(|fault: String| format!("step {number}: {fault}"))
            });
        Ok(Self {
            spec,
            steps: steps.collect::<Result<_, String>>()?,
            at_once: at_once.max(1),
        })
    }
}

impl Tool for Parallel {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn kind(&self) -> &'static str {
        "parallel"
    }

    fn call(&self, _invocation: Invocation) -> BoxFuture<'static, Result<String, ToolError>> {
        alone()
    }

    fn identity(&self) -> String {
        format!("{:?}", self.steps)
    }

    fn members(&self) -> Vec<String> {
        let names = self.steps.iter().map(Step::tool);
        names.map(str::to_owned).collect()
    }

    fn call_among(
        &self,
        invocation: Invocation,
        others: &Toolbox,
    ) -> BoxFuture<'static, Result<String, ToolError>> {
        run(self.clone(), invocation, others.clone()).boxed()
    }
}

async fn run(tool: Parallel, invocation: Invocation, others: Toolbox) -> Result<String, ToolError> {
    let runs: Vec<_> = (1..)
        .zip(&tool.steps)
        .map(|(number, step)| settle(number, step, &invocation, &others).boxed())
        .collect();
    let results: Vec<Value> = stream::iter(runs).buffered(tool.at_once).collect().await;
    Ok(Value::Array(results).to_string())
}

/// One member's result, whatever it is.
async fn settle(number: usize, step: &Step, of: &Invocation, others: &Toolbox) -> Value {
    let scope = Scope {
        input: &of.arguments,
        last: None,
    };
    let ended = match step.call(number, scope, of) {
        Ok(call) => others.settle(&call).await,
        Err(fault) => RunEnd::Done(Outcome::Error, fault, Some(Cause::Refused)),
    };
    let may_again = others
        .host(step.tool())
        .is_none_or(|host| host.effect().may_run_again());
    let (outcome, content) = match ended {
        RunEnd::Done(outcome, text, _) => (outcome, text),
        RunEnd::Died(outcome, reason) if may_again => (outcome, reason),
        RunEnd::Died(_, reason) => (Outcome::Unknown, reason),
    };
    json!({"tool": step.tool(), "outcome": outcome.name(), "content": content})
}
