//! Installs the log: one line per event on stderr, as text or JSON, without secrets; and the panic
//! hook.
//!
//! Called once, by the daemon. The library itself installs nothing.

use std::io::{self, IsTerminal, Write};

use anyhow::{Context, Result};
use tracing::error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::redact::Redactor;
use crate::settings::{LogFormat, LogSettings};

/// What is too talkative for everybody; the filter of the settings may say otherwise.
const QUIET: &str = "ractor=warn,hyper=warn,rmcp=warn,sled=warn";

/// Installs the log and the panic hook.
pub(super) fn install(settings: &LogSettings, redactor: Redactor) -> Result<()> {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", settings.filter))
        .context("the log's filter (log.filter) cannot be read")?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Clean(redactor));
    let installed = match settings.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    installed.map_err(|error| anyhow::anyhow!("failed to install the log: {error}"))?;
    // No backtrace: printing one costs a hundred times the restart that follows, and a payload may
    // hold what does not belong in a log file twice.
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        let payload = panic.payload();
        let message = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        error!(location, message, "panicked");
    }));
    Ok(())
}

/// Stderr, without secrets.
struct Clean(Redactor);

/// One line on its way.
struct Line<'a>(&'a Redactor);

impl<'a> MakeWriter<'a> for Clean {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

impl Write for Line<'_> {
    /// A line is written as a whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        io::stderr().write_all(self.0.redact(&text).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
