//! The daemon's life: start, serve, stop in order.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::io::Errno;
#[cfg(target_os = "linux")]
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::process::{Resource, Rlimit, setrlimit};
use sd_notify::NotifyState;
use tracing::{debug, error, info, warn};

use crate::control::server::{self, BindError, Options, Order, Server, Serving, our_user};
use crate::daemon::handover::{self, Inherited, Kept, Successor};
use crate::daemon::reload::Reloader;
use crate::daemon::signals::{Signal, Signals};
use crate::daemon::watchdog::Watchdog;
use crate::daemon::{Exit, log, metrics};
use crate::fault::{Code, Fault};
use crate::runtime::{Impresario, Reloaded, log_redactor};
use crate::settings::{Environment, Loaded};

/// How the daemon was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By hand or by a service manager.
    Foreground,
    /// By a command that needed one.
    Detached,
}

/// What a daemon begins with.
#[derive(Debug)]
pub struct Start {
    /// The settings.
    pub loaded: Loaded,
    /// The environment.
    pub environment: Environment,
    /// How it was started.
    pub mode: Mode,
    /// The socket that was handed over, if one was; see [`crate::daemon::inherited`].
    pub inherited: Option<Inherited>,
}

/// How a daemon's life ended.
#[derive(Debug)]
pub enum End {
    /// The process ends.
    Exit(Exit),
    /// Another one takes its place.
    Restart(Successor),
}

/// Leaves the terminal of whoever started this process. Call it before any thread starts.
///
/// # Errors
/// The system's.
pub fn detach() -> Result<()> {
    match rustix::process::setsid() {
        // One that was started anew in its place has left it already: it leads its session.
        Ok(_) | Err(Errno::PERM) => Ok(()),
        Err(error) => Err(error).context("failed to leave the terminal"),
    }
}

/// Runs the daemon until it is told to stop or to restart, or its store fails.
///
/// # Errors
/// Everything that keeps it from starting; [`Exit::of`] gives the exit code.
pub async fn serve(start: Start) -> Result<End> {
    let (environment, mode) = (&start.environment, start.mode);
    let settings = start.loaded.settings.clone().resolved(environment)?;
    let redactor = log_redactor(&settings, environment)?;
    log::install(&settings.log, redactor.clone())?;
    keep_memory_private();
    let mut signals = Signals::listen()?;
    if start.inherited.is_none() {
        // Found out early, before the store is touched and turns go on.
        server::inspect(&settings.control.socket).await?;
    }
    let metrics = metrics::install(&settings.metrics, mode)?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        data = %settings.store.path.display(),
        settings = %start.loaded,
        "starting"
    );
    let company = tokio::select! {
        signal = signals.stop() => {
            info!(signal, "stopped while starting");
            return Ok(End::Exit(Exit::Ok));
        }
        company = Impresario::from_settings(&settings, environment) => company?,
    };
    let options = Options {
        settings: settings.control.clone(),
        user: our_user(),
        data: settings.store.path.clone(),
        metrics: metrics.map(|address| format!("http://{address}/metrics")),
    };
    let (server, kept) = match open(start.inherited, options).await {
        Ok(opened) => opened,
        Err(refusal) => {
            // Nobody was let in: there is nothing to wait for.
            rest(&company, Duration::from_millis(settings.stop.grace_ms)).await;
            return Err(refusal.into());
        }
    };
    let socket = server.path().to_owned();
    let silence = Some(settings.watchdog.silence_ms).filter(|silence| *silence > 0);
    let daemon = Daemon {
        watchdog: Watchdog::start(&company, silence.map(Duration::from_millis))?,
        serving: server.serve(company.clone()),
        kept,
        reloader: Reloader {
            loaded: start.loaded,
            environment: start.environment,
            log: redactor,
        },
        company,
        signals,
    };
    info!(
        socket = %socket.display(),
        metrics = metrics.map(tracing::field::display),
        "ready"
    );
    tell_manager(&[NotifyState::Ready, NotifyState::Status("ready")]);
    Ok(daemon.run().await)
}

/// The socket that was handed over, or one of our own, which the service manager may keep.
async fn open(
    inherited: Option<Inherited>,
    mut options: Options,
) -> Result<(Server, Kept), BindError> {
    if let Some(Inherited { listener, kept }) = inherited {
        let has = handover::path_of(&listener);
        match has.filter(|path| *path != options.settings.socket) {
            None => return Ok((Server::adopt(listener, options)?, kept)),
            Some(path) if kept == Kept::ByManager => {
                warn!(
                    socket = %path.display(),
                    "the service manager's socket is not where control.socket is; callers find the daemon at the manager's"
                );
                options.settings.socket = path;
                return Ok((Server::adopt(listener, options)?, kept));
            }
            // The settings have another one by now.
            Some(path) => {
                drop(listener);
                server::remove_socket(&path);
            }
        }
    }
    let server = Server::bind(options).await?;
    let kept = handover::store(&server.as_fd());
    Ok((server, kept))
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

/// A daemon that runs.
#[derive(Debug)]
struct Daemon {
    company: Impresario,
    serving: Serving,
    kept: Kept,
    signals: Signals,
    reloader: Reloader,
    watchdog: Watchdog,
}

/// Why a daemon does not go on.
enum Reason {
    Stop(Duration),
    Restart(Duration),
    Failed(String),
}

impl Daemon {
    async fn run(mut self) -> End {
        match self.reason().await {
            Reason::Failed(reason) => End::Exit(failed(&reason)),
            Reason::Stop(grace) => End::Exit(self.end(grace).await),
            Reason::Restart(deadline) => match self.drain(deadline).await {
                Reason::Failed(reason) => End::Exit(failed(&reason)),
                Reason::Stop(grace) => End::Exit(self.end(grace).await),
                Reason::Restart(grace) => self.restart(grace).await,
            },
        }
    }

    /// Does what signals and clients ask for, until there is a reason not to go on.
    async fn reason(&mut self) -> Reason {
        loop {
            let grace = self.reloader.grace();
            tokio::select! {
                signal = self.signals.next() => match signal {
                    Signal::Stop(signal) => {
                        info!(signal, grace_ms = grace.as_millis(), "stopping");
                        return Reason::Stop(grace);
                    }
                    // What went wrong is in the log.
                    Signal::Reload => drop(self.reload()),
                },
                order = self.serving.order() => match order {
                    Order::Stop(shutdown) => {
                        let grace = shutdown.grace_ms.map_or(grace, Duration::from_millis);
                        info!(grace_ms = grace.as_millis(), "stopping because a client asked");
                        return Reason::Stop(grace);
                    }
                    Order::Restart(drain, answer) => {
                        let checked = self.reloader.check(&self.company);
                        let goes_on = checked.is_err();
                        // A client that has left has its restart all the same.
                        let _left = answer.send(checked);
                        if goes_on {
                            continue;
                        }
                        let deadline = drain.deadline_ms.map_or(grace, Duration::from_millis);
                        info!(deadline_ms = deadline.as_millis(), "restarting because a client asked");
                        return Reason::Restart(deadline);
                    }
                    // A client that has left has changed the settings all the same.
                    Order::Reload(answer) => drop(answer.send(self.reload())),
                },
                reason = self.company.failed() => return Reason::Failed(reason),
            }
        }
    }

    fn reload(&mut self) -> Result<Reloaded, Fault> {
        let now = NotifyState::monotonic_usec_now();
        // A manager that waits for the end of a reload has to know when it began.
        if let Ok(now) = now {
            tell_manager(&[NotifyState::Reloading, now]);
        }
        let reloaded = self.reloader.reload(&self.company);
        tell_manager(&[NotifyState::Ready]);
        reloaded
    }

    /// Has turns end their step before a restart, unless there is a reason to stop meanwhile.
    async fn drain(&mut self, deadline: Duration) -> Reason {
        tell_manager(&[NotifyState::Status("draining before a restart")]);
        let grace = self.reloader.grace();
        let drained = self.company.drain(deadline);
        tokio::pin!(drained);
        loop {
            tokio::select! {
                _still_running = &mut drained => return Reason::Restart(grace),
                signal = self.signals.stop() => {
                    info!(signal, "stopping");
                    return Reason::Stop(grace);
                }
                order = self.serving.order() => match order {
                    Order::Stop(shutdown) => {
                        return Reason::Stop(shutdown.grace_ms.map_or(grace, Duration::from_millis));
                    }
                    // It restarts already, and reads its settings then.
                    Order::Restart(_, answer) => drop(answer.send(Ok(()))),
                    Order::Reload(_) => {}
                },
                reason = self.company.failed() => return Reason::Failed(reason),
            }
        }
    }

    /// Stops, with the socket kept open, for whoever takes the place of this process.
    async fn restart(mut self, grace: Duration) -> End {
        self.watchdog.end();
        let listener = match self.serving.hand_over().await {
            Ok(listener) => listener,
            Err(error) => {
                error!(%error, "failed to hand the control socket over; the daemon stops");
                return End::Exit(Exit::Failed);
            }
        };
        let stopped = async {
            // Whatever was not done in time is done by the next start.
            rest(&self.company, grace).await;
            in_time("say_goodbye", grace / 20, self.serving.say_goodbye()).await;
        };
        tokio::pin!(stopped);
        let mut restarts = true;
        loop {
            tokio::select! {
                biased;
                () = &mut stopped => break,
                signal = self.signals.stop() => {
                    if !restarts {
                        return End::Exit(hurried(signal));
                    }
                    info!(signal, "stopping instead of restarting");
                    restarts = false;
                }
            }
        }
        if !restarts {
            drop(listener);
            if self.kept == Kept::ByNobody {
                self.serving.remove_socket();
            }
            info!("stopped");
            return End::Exit(Exit::Ok);
        }
        info!("restarting");
        End::Restart(Successor {
            listener,
            kept: self.kept,
        })
    }

    /// Stops in order; a second signal ends it at once.
    async fn end(mut self, grace: Duration) -> Exit {
        tell_manager(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
        self.watchdog.end();
        // From here on a failure of the company shows in what its stop gives.
        tokio::select! {
            biased;
            exit = stop(&self.company, (&mut self.serving, self.kept), grace) => exit,
            signal = self.signals.stop() => hurried(signal),
        }
    }
}

fn hurried(signal: &str) -> Exit {
    warn!(
        signal,
        "stopped at once; what was unfinished goes on at the next start"
    );
    Exit::Hurried
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
async fn stop(
    company: &Impresario,
    (serving, kept): (&mut Serving, Kept),
    grace: Duration,
) -> Exit {
    // The company gets nine tenths of the time.
    let share = grace / 20;
    // Who asks for something new is refused before the socket is gone.
    company.close_doors();
    in_time("close_socket", share, close_socket(serving, kept)).await;
    let exit = rest(company, grace - 2 * share).await;
    in_time("say_goodbye", share, serving.say_goodbye()).await;
    info!("stopped");
    exit
}

/// A socket that the service manager has is there for the next start; callers wait in its queue.
async fn close_socket(serving: &mut Serving, kept: Kept) {
    if let Err(error) = serving.hand_over().await {
        warn!(%error, "acceptor failed");
    }
    match kept {
        Kept::ByManager => {}
        Kept::ByNobody => serving.remove_socket(),
    }
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

/// Tells the service manager, if there is one.
pub(super) fn tell_manager(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "failed to tell the service manager");
    }
}
