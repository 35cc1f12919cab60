//! The daemon's life: start, serve, stop in order.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result};
#[cfg(target_os = "linux")]
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::process::{Resource, Rlimit, setrlimit};
use sd_notify::NotifyState;
use tracing::{debug, error, info, warn};

use crate::clock;
use crate::control::server::{self, Options, Order, Server, Serving, our_user};
use crate::daemon::reload::Reloader;
use crate::daemon::signals::{Signal, Signals};
use crate::daemon::{Exit, log, metrics};
use crate::fault::Code;
use crate::runtime::{Impresario, log_redactor};
use crate::settings::{Environment, Loaded};

/// How the daemon was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By hand or by a service manager.
    Foreground,
    /// By a command that needed one.
    Detached,
}

/// Leaves the terminal of whoever started this process. Call it before any thread starts.
///
/// # Errors
/// When this process leads its group already.
pub fn detach() -> Result<()> {
    rustix::process::setsid().context("failed to leave the terminal")?;
    Ok(())
}

/// Runs the daemon until it is told to stop, or its store fails.
///
/// # Errors
/// Everything that keeps it from starting; [`Exit::of`] gives the exit code.
pub async fn serve(loaded: &Loaded, environment: &Environment, mode: Mode) -> Result<Exit> {
    let settings = loaded.settings.clone().resolved(environment)?;
    let redactor = log_redactor(&settings, environment)?;
    log::install(&settings.log, redactor.clone())?;
    keep_memory_private();
    let mut signals = Signals::listen()?;
    // Found out early, before the store is touched and turns go on.
    server::inspect(&settings.control.socket).await?;
    let metrics = metrics::install(&settings.metrics, mode)?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        data = %settings.store.path.display(),
        settings = %loaded,
        "starting"
    );
    let company = tokio::select! {
        signal = signals.stop() => {
            info!(signal, "stopped while starting");
            return Ok(Exit::Ok);
        }
        company = Impresario::from_settings(&settings, environment) => company?,
    };
    let options = Options {
        settings: settings.control.clone(),
        user: our_user(),
        data: settings.store.path.clone(),
        metrics: metrics.map(|address| format!("http://{address}/metrics")),
    };
    let reloader = Reloader {
        loaded: loaded.clone(),
        environment: environment.clone(),
        log: redactor,
    };
    let server = match Server::bind(options).await {
        Ok(server) => server,
        Err(refusal) => {
            // Nobody was let in: there is nothing to wait for.
            rest(&company, reloader.grace()).await;
            return Err(refusal.into());
        }
    };
    let serving = server.serve(company.clone());
    info!(
        socket = %settings.control.socket.display(),
        metrics = metrics.map(tracing::field::display),
        "ready"
    );
    tell_manager(&NotifyState::Ready);
    keep_watchdog_calm();
    Ok(run(company, serving, signals, reloader).await)
}

/// Keys are in this process's memory: it leaves no core, and others may not look into it.
fn keep_memory_private() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        warn!(%error, "core files could not be turned off");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        warn!(%error, "memory could not be made private");
    }
}

/// Does what signals and clients ask for, until there is a reason to stop; and stops.
async fn run(
    company: Impresario,
    mut serving: Serving,
    mut signals: Signals,
    mut reloader: Reloader,
) -> Exit {
    let grace = loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Stop(signal) => {
                    let grace = reloader.grace();
                    info!(signal, grace_ms = grace.as_millis(), "stopping");
                    break grace;
                }
                // What went wrong is in the log.
                Signal::Reload => drop(reloader.reload(&company)),
            },
            order = serving.order() => match order {
                Order::Stop(shutdown) => {
                    let grace = shutdown.grace_ms.map(Duration::from_millis);
                    let grace = grace.unwrap_or_else(|| reloader.grace());
                    info!(grace_ms = grace.as_millis(), "stopping because a client asked");
                    break grace;
                }
                Order::Reload(answer) => {
                    let reloaded = reloader.reload(&company);
                    // A client that has left has changed the settings all the same.
                    let _heard = answer.send(reloaded);
                }
            },
            reason = company.failed() => return failed(&reason),
        }
    };
    tell_manager(&NotifyState::Stopping);
    // From here on a failure of the company shows in what its stop gives.
    tokio::select! {
        biased;
        exit = stop(&company, &mut serving, grace) => exit,
        signal = signals.stop() => {
            warn!(signal, "stopped at once; what was unfinished goes on at the next start");
            Exit::Hurried
        }
    }
}

fn failed(reason: &str) -> Exit {
    error!(
        reason,
        "the company cannot go on; the process ends, and the next start recovers"
    );
    Exit::StoreFailed
}

/// Closes the doors, has the company stop in its own order, and lets readers go when they have
/// read their last item.
async fn stop(company: &Impresario, serving: &mut Serving, grace: Duration) -> Exit {
    // The company gets nine tenths of the time.
    let share = grace / 20;
    company.drain();
    in_time("close_socket", share, serving.close_doors()).await;
    let exit = rest(company, grace - 2 * share).await;
    in_time("say_goodbye", share, serving.say_goodbye()).await;
    info!("stopped");
    exit
}

async fn rest(company: &Impresario, grace: Duration) -> Exit {
    match company.stop(grace).await {
        Ok(()) => Exit::Ok,
        Err(fault) => {
            error!(error = %fault, "failed to stop in order; what was unfinished goes on at the next start");
            match fault.code {
                Code::StoreFailed => Exit::StoreFailed,
                Code::Overloaded
                | Code::NotFound
                | Code::Conflict
                | Code::InvalidState
                | Code::OverBudget
                | Code::Draining
                | Code::Denied
                | Code::Quarantined
                | Code::InvalidParams
                | Code::Timeout
                | Code::Internal => Exit::Failed,
            }
        }
    }
}

async fn in_time(step: &str, share: Duration, work: impl Future<Output = ()>) {
    if tokio::time::timeout(share, work).await.is_err() {
        warn!(step, "a step of the stop took too long and was left");
    }
}

fn tell_manager(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        debug!(%error, "failed to tell the service manager");
    }
}

/// Says twice in each period that the daemon is alive, when the service manager wants to know.
fn keep_watchdog_calm() {
    let Some(period) = sd_notify::watchdog_enabled() else {
        return;
    };
    clock::spawn(async move {
        loop {
            tell_manager(&NotifyState::Watchdog);
            tokio::time::sleep(period / 2).await;
        }
    });
}
