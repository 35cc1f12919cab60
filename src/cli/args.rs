//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A supervisor for AI agents: durable sessions, supervised tools, streams that can be rejoined.
#[derive(Debug, Parser)]
#[command(name = "impresario", version, propagate_version = true)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Flags that every command knows.
#[derive(Clone, Debug, Args)]
pub(super) struct Global {
    /// Read settings from this file
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The data directory; its daemon's socket lies in it
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) data: Option<PathBuf>,
    /// The daemon's control socket
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) socket: Option<PathBuf>,
    /// Print one JSON value per line
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Set one key of the settings, for example limits.live_sessions=500; may be repeated
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = pair)]
    pub(super) sets: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the daemon in the foreground
    Serve {
        #[arg(long, hide = true)]
        detached: bool,
    },
    #[command(flatten)]
    Talk(Talk),
    #[command(flatten)]
    Ask(Ask),
    /// Check the settings and show every fault at once
    Check,
    #[command(flatten)]
    Store(Store),
    /// Print the control protocol as JSON Schema
    Schema,
}

/// Commands that follow a session.
#[derive(Debug, Subcommand)]
pub(super) enum Talk {
    /// One turn: say TEXT, print the answer; starts a daemon when none answers
    Run {
        /// The words; - reads them from stdin
        text: String,
        /// Go on with this session
        #[arg(long)]
        session: Option<String>,
        /// The same key again is the same input
        #[arg(long)]
        key: Option<String>,
        #[command(flatten)]
        new: NewSession,
    },
    /// Say TEXT to a session; returns when it is on disk, and does not wait for the answer
    Send {
        #[command(flatten)]
        send: Saying,
    },
    /// Talk, turn after turn; starts a daemon when none answers
    Chat {
        /// Go on with this session
        #[arg(long)]
        session: Option<String>,
        #[command(flatten)]
        new: NewSession,
    },
    /// Watch a session, from its beginning or from a cursor
    Attach {
        session: String,
        /// The cursor of the last item that was seen
        #[arg(long, value_name = "CURSOR")]
        from: Option<String>,
    },
    /// Print a session's events
    Log {
        session: String,
        /// Go on with what comes
        #[arg(long, short)]
        follow: bool,
    },
}

/// Commands that ask the daemon once.
#[derive(Debug, Subcommand)]
pub(super) enum Ask {
    /// Begin a session and print its id
    New {
        #[command(flatten)]
        new: NewSession,
    },
    /// List sessions, newest first
    Ls {
        /// At most so many
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Each session below the one that began it
        #[arg(long)]
        tree: bool,
        /// Only those that wait for a person, with what they ask
        #[arg(long)]
        waiting: bool,
    },
    /// Show one session
    Show { session: String },
    /// Say what a session does, what it waits for, and who holds that
    Why { session: String },
    /// Show what a session may spend and has spent, or allow it more
    Budget {
        session: String,
        #[command(flatten)]
        raise: BudgetRaise,
    },
    /// Cancel the running turn
    Cancel { session: String },
    #[command(flatten)]
    Guide(Guide),
    /// Allow a tool call that waits for a person
    Approve {
        #[command(flatten)]
        ruling: Ruling,
    },
    /// Do not allow a tool call that waits for a person
    Deny {
        #[command(flatten)]
        ruling: Ruling,
    },
    /// Take no more input; the log stays
    Close { session: String },
    /// Delete a session and its log
    Rm { session: String },
    /// Delete sessions that nobody needs any more; see also `compact`
    Gc {
        #[command(flatten)]
        rule: Retention,
    },
    /// Write a session as lines of JSON, to take it elsewhere
    Export {
        session: String,
        /// Into this new file; to stdout when left out
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Take in a session that was exported, and print its id; what was going on in it is ended
    Import {
        /// The file; - reads stdin
        file: PathBuf,
        /// Under the id that it had; refused when there is such a session
        #[arg(long)]
        keep_id: bool,
    },
    /// Let a quarantined session go on
    Release { session: String },
    /// List the tools, call one, or close the breaker of one
    Tools {
        #[command(subcommand)]
        command: Option<ToolCommand>,
    },
    /// List the agents
    Agents,
    /// List the models
    Models,
    /// Show how the daemon is
    Status,
    /// Read the settings again; running turns keep what they began with
    Reload,
    /// Drain, and begin anew with the program and the settings as they are now; callers wait, nobody
    /// is refused
    Restart {
        /// Turns have so long to end their step, seconds; stop.grace_ms when left out
        #[arg(long, value_name = "SECONDS")]
        deadline: Option<u64>,
    },
    /// Take no new work and let running turns end their step; exit code 1 when some still run then
    Drain {
        /// Wait at most so long, seconds; stop.grace_ms when left out
        #[arg(long, value_name = "SECONDS")]
        deadline: Option<u64>,
    },
    /// Stop the daemon
    Stop {
        /// The whole stop takes at most so long, milliseconds
        #[arg(long, value_name = "MS")]
        grace_ms: Option<u64>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ToolCommand {
    /// Call a tool once, outside any session
    Call {
        tool: String,
        /// The arguments: a JSON object
        #[arg(default_value = "{}")]
        arguments: String,
    },
    /// Close the breaker of a tool, so that it is called again at once
    Reset { tool: String },
}

/// Which sessions go: those for which all that is given holds.
#[derive(Clone, Debug, Args)]
pub(super) struct Retention {
    /// Those without an event for so long: 90s, 15m, 12h, 30d
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub(super) older_than: Option<std::time::Duration>,
    /// All but the newest N of those that are meant
    #[arg(long, value_name = "N")]
    pub(super) keep: Option<usize>,
    /// Those of this tenant
    #[arg(long)]
    pub(super) tenant: Option<String>,
    /// Those with this status: idle or closed. Unfinished, waiting and quarantined ones stay
    #[arg(long)]
    pub(super) status: Option<Finished>,
    /// Only show which would go
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// A status with nothing left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Finished {
    /// Nothing is owed.
    Idle,
    /// It takes no more input.
    Closed,
}

/// More that may be spent.
#[derive(Clone, Debug, Args)]
pub(super) struct BudgetRaise {
    /// Allow so much more money, USD
    #[arg(long, value_name = "USD")]
    pub(super) add_usd: Option<f64>,
    /// Allow so many more tokens
    #[arg(long, value_name = "N")]
    pub(super) add_tokens: Option<u64>,
    /// Allow so many more steps
    #[arg(long, value_name = "N")]
    pub(super) add_steps: Option<u64>,
    /// Allow so much more time, seconds
    #[arg(long, value_name = "N")]
    pub(super) add_seconds: Option<u64>,
    /// Raise the budget of the turn that runs or is paused, not the session's
    #[arg(long)]
    pub(super) turn: bool,
    #[command(flatten)]
    pub(super) by: By,
}

/// An input, and whether to wait for what comes of it.
#[derive(Clone, Debug, Args)]
pub(super) struct Saying {
    pub(super) session: String,
    /// The words; - reads them from stdin
    pub(super) text: String,
    /// The same key again is the same input
    #[arg(long)]
    pub(super) key: Option<String>,
    /// What is done with it while a turn runs
    #[arg(long, default_value = "queue")]
    pub(super) mode: Mode,
    /// Show the turn that takes it in, to its end
    #[arg(long)]
    pub(super) wait: bool,
}

/// Commands that guide a session.
#[derive(Debug, Subcommand)]
pub(super) enum Guide {
    /// Let what runs of the present step end, and begin nothing new
    Pause {
        session: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        by: By,
    },
    /// Let a paused session go on
    Resume {
        session: String,
        #[command(flatten)]
        by: By,
    },
    /// Say how good a turn was
    Rate {
        session: String,
        /// up, down, or a number from 0 (useless) to 1 (just right)
        #[arg(value_parser = score, allow_negative_numbers = true)]
        score: f64,
        /// Which turn; the last one that is finished when left out
        #[arg(long, value_name = "N")]
        turn: Option<u32>,
        /// In words
        #[arg(long)]
        comment: Option<String>,
        #[command(flatten)]
        by: By,
    },
    /// Begin a session that shares the events of another one up to one of them, and print its id
    Fork {
        session: String,
        /// The last event that both share; the last one that there is when left out
        #[arg(long, value_name = "SEQ")]
        at: Option<u64>,
        /// A label of the fork; may be repeated
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
        labels: Vec<(String, String)>,
        #[command(flatten)]
        by: By,
    },
}

/// What is done with an input while a turn runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Mode {
    /// It waits for the next turn.
    Queue,
    /// It enters the turn that runs, with its next model call.
    Steer,
    /// It is refused.
    Reject,
}

/// Who does it.
#[derive(Clone, Debug, Args)]
pub(super) struct By {
    /// Who does it
    #[arg(long, env = "USER", hide_env_values = true)]
    pub(super) by: Option<String>,
}

/// A person's answer about a tool call.
#[derive(Clone, Debug, Args)]
pub(super) struct Ruling {
    pub(super) session: String,
    /// The number of the tool call; may be left out when only one waits
    pub(super) call: Option<u64>,
    /// Only if the question has this digest
    #[arg(long)]
    pub(super) digest: Option<String>,
    /// Why; when the call does not run, the model reads it
    #[arg(long)]
    pub(super) reason: Option<String>,
    /// Who decides
    #[arg(long, env = "USER", hide_env_values = true)]
    pub(super) by: Option<String>,
}

/// Commands on a store that no daemon has open; a backup can also be made by its daemon.
#[derive(Debug, Subcommand)]
pub(super) enum Store {
    /// Check every record of the store; its daemon must be stopped
    Verify,
    /// Copy the store into the new directory DIR, while its daemon runs or not, and check the copy
    Backup {
        #[arg(value_name = "DIR")]
        into: PathBuf,
    },
    /// Fill a new data directory (--data) from the backup in DIR
    Restore {
        #[arg(value_name = "DIR")]
        from: PathBuf,
        /// Also from a damaged backup: what is there is taken
        #[arg(long)]
        force: bool,
    },
    /// Give the room that deleted sessions took back to the disk; the daemon must be stopped
    Compact,
}

/// What a new session is.
#[derive(Clone, Debug, Args)]
pub(super) struct NewSession {
    /// The agent; assistant, or the only one, when left out
    #[arg(long)]
    pub(super) agent: Option<String>,
    /// Who a new session is accounted to
    #[arg(long)]
    pub(super) tenant: Option<String>,
    /// A label of a new session; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    pub(super) labels: Vec<(String, String)>,
}

fn age(text: &str) -> Result<std::time::Duration, String> {
    let says = || format!("'{text}' is no age; 90s, 15m, 12h and 30d are");
    let (unit, seconds) = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)]
        .into_iter()
        .find(|(unit, _)| text.ends_with(unit))
        .ok_or_else(says)?;
    let number: u64 = text.trim_end_matches(unit).parse().map_err(|_| says())?;
    Ok(std::time::Duration::from_secs(
        number.saturating_mul(seconds),
    ))
}

fn score(text: &str) -> Result<f64, String> {
    match text {
        "up" => Ok(1.0),
        "down" => Ok(0.0),
        number => number
            .parse()
            .ok()
            .filter(|score| (0.0..=1.0).contains(score))
            .ok_or_else(|| format!("'{text}' is no score; up, down, and numbers from 0 to 1 are")),
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(key, value)| (key.trim().to_owned(), value.to_owned()))
        .filter(|(key, _)| !key.is_empty())
        .ok_or_else(|| "KEY=VALUE is expected".to_owned())
}

impl Global {
    /// The flags as a layer of the settings.
    pub(super) fn layer(&self) -> Vec<(String, String)> {
        let path = |key: &str, path: &Option<PathBuf>| {
            let path = path.as_ref()?.display().to_string();
            Some((key.to_owned(), path))
        };
        let places = [
            path("store.path", &self.data),
            path("control.socket", &self.socket),
        ];
        let mut layer = self.sets.clone();
        layer.extend(places.into_iter().flatten());
        layer
    }

    /// The same flags as words, for a daemon that is started with them.
    pub(super) fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        if let Some(config) = &self.config {
            words.extend(["--config".to_owned(), config.display().to_string()]);
        }
        for (key, value) in self.layer() {
            words.extend(["--set".to_owned(), format!("{key}={value}")]);
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_score_is_up_or_down_or_from_0_to_1() {
        let table = [("up", 1.0), ("down", 0.0), ("0.25", 0.25), ("1", 1.0)];
        for (text, expected) in table {
            assert_eq!(score(text), Ok(expected));
        }
        for text in ["", "good", "-0.1", "1.01", "NaN", "inf"] {
            assert!(score(text).unwrap_err().contains("up, down"), "{text}");
        }
    }

    #[test]
    fn flags_become_a_layer_of_settings_and_words_for_a_daemon() {
        let cli = Cli::try_parse_from([
            "impresario",
            "run",
            "hi",
            "--data",
            "/d",
            "--set",
            "a.b=c=d",
        ]);
        let global = cli.unwrap().global;
        let layer = [("a.b", "c=d"), ("store.path", "/d")].map(|(k, v)| (k.into(), v.into()));
        assert_eq!(global.layer(), layer);
        assert_eq!(
            global.words(),
            ["--set", "a.b=c=d", "--set", "store.path=/d"]
        );
    }
}
