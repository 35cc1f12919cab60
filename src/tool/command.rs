//! `command`: any program as a tool. Arguments come as JSON on its stdin, its stdout is the result.
//!
//! Made by [`crate::tool::build`], called like every tool. It never uses a shell: the program and
//! its arguments are a list, and nothing that a model writes becomes part of it.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rustix::io::Errno;
use rustix::process::Signal;

use crate::tool::process::plan::Report;
use crate::tool::process::{self, Ended, Program};
use crate::tool::{Invocation, Tool, ToolError, ToolSpec};

/// Runs a program for every call.
#[derive(Debug)]
pub struct CommandTool {
    spec: ToolSpec,
    program: Arc<Program>,
}

impl CommandTool {
    /// The tool.
    pub(crate) fn new(spec: ToolSpec, program: Program) -> Self {
        Self {
            spec,
            program: Arc::new(program),
        }
    }
}

impl Tool for CommandTool {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn kind(&self) -> &'static str {
        "command"
    }

    fn identity(&self) -> String {
        format!("{:?} in {:?}", self.program.argv, self.program.workdir)
    }

    fn call(&self, invocation: Invocation) -> BoxFuture<'static, Result<String, ToolError>> {
        let program = Arc::clone(&self.program);
        async move {
            let variables = vec![
                (
                    "IMPRESARIO_IDEMPOTENCY_KEY".to_owned(),
                    invocation.idempotency_key,
                ),
                (
                    "IMPRESARIO_ATTEMPT".to_owned(),
                    invocation.attempt.to_string(),
                ),
            ];
            let stdin = format!("{}\n", invocation.arguments);
            match process::run(Arc::clone(&program), variables, stdin, &invocation.output).await {
                Ok(ended) => result(&program, ended),
                Err(error) => Err(ToolError::Refused(format!(
                    "the tool's program cannot be started: {error}"
                ))),
            }
        }
        .boxed()
    }
}

/// What the end of a run means for the call.
fn result(program: &Program, ended: Ended) -> Result<String, ToolError> {
    match ended.report {
        Ok(Report::Exited { code: 0 }) => Ok(ended.stdout),
        Ok(Report::Exited { code }) => Err(ToolError::Failed(with_stderr(
            format!("the tool's program ended with exit code {code}"),
            &ended.stderr,
        ))),
        Ok(Report::Killed { signal }) => Err(ToolError::Died(with_stderr(
            format!("the tool's program was ended by {}", signal_name(signal)),
            &ended.stderr,
        ))),
        Ok(Report::NotStarted { errno }) => Err(ToolError::Refused(not_started(program, errno))),
        Ok(Report::NotConfined { why }) => Err(ToolError::Refused(format!(
            "the tool was not run, because it cannot be confined as tools.{} says: {why}",
            program.name
        ))),
        Ok(Report::TooMany { limit }) => Err(ToolError::Died(with_stderr(
            format!("the tool was ended: it had more than {limit} processes (max_processes)"),
            &ended.stderr,
        ))),
        Err(_) => Err(ToolError::Died(with_stderr(
            "the tool's supervisor ended without a report".to_owned(),
            &ended.stderr,
        ))),
    }
}

fn with_stderr(what: String, stderr: &str) -> String {
    if stderr.is_empty() {
        return what;
    }
    format!("{what}; it wrote to stderr:\n{stderr}")
}

/// Why a program did not start, and what to do.
fn not_started(program: &Program, errno: i32) -> String {
    let path = program.argv.first().map_or("", String::as_str);
    let errno = Errno::from_raw_os_error(errno);
    let reason = match errno {
        Errno::NOENT => "it does not exist, or the interpreter in its first line does not",
        Errno::ACCESS | Errno::PERM => "it may not be executed; set its execute permission",
        Errno::TXTBSY => "it is open for writing; try again when it is complete",
        Errno::TOOBIG => "its arguments and environment are too long; shorten them",
        Errno::NOEXEC => "it is neither a program nor a script with a first line such as #!/bin/sh",
        Errno::AGAIN | Errno::NOMEM => "the machine has no room for another process; try later",
        _ => "the system refused it",
    };
    format!("the tool's program {path:?} cannot be started: {reason} ({errno})")
}

/// A signal by its name, with what probably sent it.
fn signal_name(number: i32) -> String {
    let known = [
        (Signal::KILL, "SIGKILL (force, or memory ran out)"),
        (Signal::TERM, "SIGTERM"),
        (
            Signal::SEGV,
            "SIGSEGV (it touched memory that is not its own)",
        ),
        (Signal::ABORT, "SIGABRT (it gave up)"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::ILL, "SIGILL"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::INT, "SIGINT"),
        (Signal::HUP, "SIGHUP"),
        (Signal::XCPU, "SIGXCPU (more processor time than max_cpu_s)"),
        (Signal::XFSZ, "SIGXFSZ (a longer file than max_file_mb)"),
    ];
    known
        .iter()
        .find(|(signal, _)| signal.as_raw() == number)
        .map_or_else(
            || format!("signal {number}"),
            |(_, name)| (*name).to_owned(),
        )
}
