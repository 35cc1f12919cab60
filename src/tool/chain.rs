//! `chain`: tools one after the other, each fed the last result.
//!
//! Called like every tool. It calls its members through their hosts, so that their breakers,
//! caches, lanes and timeouts apply. It stops at the first error and says which step that was.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::tool::template::{Places, Scope, Template};
use crate::tool::{Call, Invocation, RunEnd, Tool, ToolError, ToolSpec, Toolbox};

/// A tool that is called by another one, and with what.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    tool: String,
    arguments: Template,
}

impl Step {
    /// A step that calls this tool with these arguments, a template; without any, with the input.
    ///
    /// # Errors
    /// What is wrong with the template.
    pub fn new(
        tool: impl Into<String>,
        arguments: Option<&Value>,
        places: Places,
    ) -> Result<Self, String> {
        let arguments = match arguments {
            Some(arguments) => Template::read(arguments, places)?,
            None => Template::input(),
        };
        Ok(Self {
            tool: tool.into(),
            arguments,
        })
    }

    /// The tool's name.
    #[must_use]
    pub fn tool(&self) -> &str {
        &self.tool
    }

    /// The call of this step; `number` counts from 1.
    pub(super) fn call(
        &self,
        number: usize,
        scope: Scope<'_>,
        of: &Invocation,
    ) -> Result<Call, String> {
        Ok(Call {
            tool: self.tool.clone(),
            arguments: self.arguments.fill(scope)?.to_string(),
            idempotency_key: format!("{}:{number}", of.idempotency_key),
            attempt: of.attempt,
            owner: of.owner,
            output: of.output.clone(),
            agents: of.agents.clone(),
        })
    }
}

/// Tools one after the other. Its result is that of the last step.
#[derive(Clone, Debug)]
pub struct Chain {
    spec: ToolSpec,
    steps: Vec<Step>,
}

impl Chain {
    /// A chain of these tools: names and arguments, templates with `{{input…}}` and, after the
    /// first step, `{{last…}}`. What a crash means follows from the members, whatever `spec` says
    /// beyond that.
    ///
    /// # Errors
    /// Which step's template is wrong, and how.
    pub fn new<S: Into<String>>(
        spec: ToolSpec,
        steps: impl IntoIterator<Item = (S, Option<Value>)>,
    ) -> Result<Self, String> {
        let mut read = Vec::new();
        for (tool, arguments) in steps {
            let places = if read.is_empty() {
                Places::Input
            } else {
                Places::InputAndLast
            };
            let step = Step::new(tool, arguments.as_ref(), places)
                .map_err(|fault| format!("step {}: {fault}", read.len() + 1))?;
            read.push(step);
        }
        Ok(Self { spec, steps: read })
    }
}

impl Tool for Chain {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn kind(&self) -> &'static str {
        "chain"
    }

    fn call(&self, _invocation: Invocation) -> BoxFuture<'static, Result<String, ToolError>> {
        alone()
    }

    fn identity(&self) -> String {
        format!("{:?}", self.steps)
    }

    fn members(&self) -> Vec<String> {
        self.steps.iter().map(|step| step.tool.clone()).collect()
    }

    fn call_among(
        &self,
        invocation: Invocation,
        others: &Toolbox,
    ) -> BoxFuture<'static, Result<String, ToolError>> {
        run(self.steps.clone(), invocation, others.clone()).boxed()
    }
}

/// A tool made of others is nothing without them.
pub(super) fn alone() -> BoxFuture<'static, Result<String, ToolError>> {
    let says = "this tool calls others, and can only be called through its toolbox".to_owned();
    std::future::ready(Err(ToolError::Failed(says))).boxed()
}

async fn run(
    steps: Vec<Step>,
    invocation: Invocation,
    others: Toolbox,
) -> Result<String, ToolError> {
    let count = steps.len();
    let mut last: Option<String> = None;
    for (number, step) in (1..).zip(&steps) {
        let says = |text: String| format!("step {number} of {count} ({}): {text}", step.tool);
        let scope = Scope {
            input: &invocation.arguments,
            last: last.as_deref(),
        };
        let call = step
            .call(number, scope, &invocation)
            .map_err(|fault| ToolError::Failed(says(fault)))?;
        last = match others.settle(&call).await {
            RunEnd::Done(outcome, text, _) if !outcome.is_error() => Some(text),
            RunEnd::Done(_, text, _) => return Err(ToolError::Failed(says(text))),
            RunEnd::Died(_, reason) => return Err(ToolError::Died(says(reason))),
        };
    }
    Ok(last.unwrap_or_default())
}
