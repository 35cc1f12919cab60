//! The commands: parses the command line, carries one out, gives the exit code.
//!
//! Called by `main`. Answers go to stdout, everything else to stderr; the one door to both is
//! `screen`.

mod act;
mod args;
mod asking;
mod budget;
mod follow;
mod guide;
mod list;
mod look;
mod printer;
mod remark;
mod screen;
mod store;
mod talk;
mod transfer;
mod why;

use std::io;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use crate::cli::args::{Ask, Cli, Command, Global, Talk, ToolCommand};
use crate::cli::follow::Access;
use crate::cli::list::Order;
use crate::cli::screen::{Screen, Style};
use crate::control::client::{Client, ClientError};
use crate::control::wire::{Decision, Method};
use crate::daemon::{self, End, Exit, Mode, Start, Starter};
use crate::settings::{Environment, Layers, Settings, load};

/// Carries out the command line of this process.
#[must_use]
pub fn main(environment: &Environment) -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Ok
            };
            // Help that nobody reads is no failure.
            let _printed = error.print();
            return exit.into();
        }
    };
    let style = if cli.global.json {
        Style::Json
    } else {
        Style::Text
    };
    let mut screen = Screen::new(style);
    match carry_out(cli, environment, &mut screen) {
        Ok(exit) => exit.into(),
        Err(error) => tell(&error, &mut screen).into(),
    }
}

/// Tells why a command failed; gives the exit code.
fn tell(error: &anyhow::Error, screen: &mut Screen) -> Exit {
    let nobody_reads = error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
    if nobody_reads {
        return Exit::Ok;
    }
    let code = match error.downcast_ref() {
        Some(ClientError::Refused(refusal)) => refusal.name(),
        Some(ClientError::NoDaemon(_)) => "no_daemon",
        Some(_) | None => "failed",
    };
    // When stderr is gone the exit code still tells.
    let _told = screen.failure(code, &whole(error));
    Exit::of(error)
}

/// The error and its causes; a cause that the error has quoted already is not said twice.
pub(crate) fn whole(error: &anyhow::Error) -> String {
    let mut words = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !words.contains(&cause) {
            words.push_str(": ");
            words.push_str(&cause);
        }
    }
    words
}

fn carry_out(cli: Cli, environment: &Environment, screen: &mut Screen) -> Result<Exit> {
    let layers = Layers {
        file: cli.global.config.clone(),
        flags: cli.global.layer(),
    };
    match cli.command {
        Command::Schema => look::print_schema(screen),
        Command::Check => look::check(&layers, environment, screen),
        Command::Serve { detached } => {
            let inherited = daemon::inherited(environment)?;
            let mode = if detached {
                // Before the first thread starts.
                daemon::detach()?;
                Mode::Detached
            } else {
                Mode::Foreground
            };
            let loaded = load(&layers, environment)?;
            let start = Start {
                loaded,
                environment: environment.clone(),
                mode,
                inherited,
            };
            match block_on(daemon::serve(start))? {
                End::Exit(exit) => Ok(exit),
                End::Restart(successor) => match successor.take_place()? {},
            }
        }
        Command::Store(command) => {
            let settings = load(&layers, environment)?.settings.resolved(environment)?;
            block_on(store::carry_out(command, &settings, screen))
        }
        Command::Talk(command) => {
            let settings = load(&layers, environment)?.settings.resolved(environment)?;
            let person = environment.get("USER").map(str::to_owned);
            block_on(talk(command, settings, (&cli.global, person), screen))
        }
        Command::Ask(command) => {
            let settings = load(&layers, environment)?.settings.resolved(environment)?;
            block_on(ask(command, &settings, screen))
        }
    }
}

fn block_on<T>(command: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let exit = runtime.block_on(command);
    // What still runs is waiting for stdin, or was left behind by a second signal.
    runtime.shutdown_background();
    exit
}

async fn talk(
    command: Talk,
    settings: Settings,
    (global, person): (&Global, Option<String>),
    screen: &mut Screen,
) -> Result<Exit> {
    let there = Access::Connect(settings.control.socket.clone());
    let started = Access::Ensure(Box::new(Starter {
        settings,
        flags: global.words(),
    }));
    match command {
        Talk::Run {
            text,
            session,
            key,
            new,
        } => {
            let at = talk::At {
                access: started,
                person,
                session,
            };
            talk::run(at, screen, text, key, new).await
        }
        Talk::Send { send } => {
            let at = talk::At {
                access: there,
                person,
                session: Some(send.session.clone()),
            };
            talk::send(at, screen, send).await
        }
        Talk::Chat { session, new } => {
            let at = talk::At {
                access: started,
                person,
                session,
            };
            talk::chat(at, screen, new).await
        }
        Talk::Attach { session, from } => talk::attach(there, screen, session, from).await,
        Talk::Log {
            session,
            follow: true,
        } => look::follow(there, screen, session).await,
        Talk::Log {
            session,
            follow: false,
        } => look::log(&there.client().await?, screen, &session).await,
    }
}

async fn ask(command: Ask, settings: &Settings, screen: &mut Screen) -> Result<Exit> {
    if let Ask::Gc { rule } = &command {
        store::check_rule(rule)?;
    }
    let client = &Client::connect(&settings.control.socket).await?;
    match command {
        Ask::New { new } => talk::new(client, screen, new).await,
        Ask::Ls { waiting: true, .. } => look::waiting(client, screen).await,
        Ask::Ls { limit, tree, .. } => {
            let order = if tree { Order::Tree } else { Order::Newest };
            list::ls(client, screen, limit, order).await
        }
        Ask::Show { session } => look::show(client, screen, session).await,
        Ask::Why { session } => why::why(client, screen, session).await,
        Ask::Budget { session, raise } => budget::budget(client, screen, session, raise).await,
        Ask::Cancel { session } => act::cancel(client, screen, session).await,
        Ask::Guide(command) => guide::carry_out(client, screen, command).await,
        Ask::Approve { ruling } => act::rule(client, screen, Decision::Approve, ruling).await,
        Ask::Deny { ruling } => act::rule(client, screen, Decision::Deny, ruling).await,
        Ask::Close { session } => act::act(client, screen, Method::SessionClose, session).await,
        Ask::Export { session, output } => {
            transfer::export(client, screen, session, output.as_deref()).await
        }
        Ask::Import { file, keep_id } => {
            let how = (keep_id, settings.control.max_frame_bytes);
            transfer::import(client, screen, &file, how).await
        }
        Ask::Gc { rule } => store::gc(client, screen, rule).await,
        Ask::Release { session } => act::act(client, screen, Method::SessionRelease, session).await,
        Ask::Rm { session } => act::remove(client, screen, session).await,
        Ask::Tools { command: None } => look::tools(client, screen).await,
        Ask::Tools {
            command: Some(ToolCommand::Call { tool, arguments }),
        } => act::call_tool(client, screen, tool, &arguments).await,
        Ask::Tools {
            command: Some(ToolCommand::Reset { tool }),
        } => act::reset_tool(client, screen, tool).await,
        Ask::Agents => look::agents(client, screen).await,
        Ask::Models => look::models(client, screen).await,
        Ask::Status => look::status(client, screen).await,
        Ask::Reload => act::reload(client, screen).await,
        Ask::Restart { deadline } => act::restart(client, screen, deadline, settings).await,
        Ask::Drain { deadline } => {
            act::drain(client, screen, deadline, settings.stop.grace_ms).await
        }
        Ask::Stop { grace_ms } => act::stop(client, screen, grace_ms, settings.stop.grace_ms).await,
    }
}
