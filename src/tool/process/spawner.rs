//! The one thread that starts and reaps shims.
//!
//! Called by [`crate::tool::process`]. A thread of its own, because a shim is told of its parent's
//! death when the *thread* that started it ends: this one lives as long as the program. It waits
//! for every shim, so that no zombie stays, ends a shim by force that does not end by itself, and
//! ends what a shim left that was killed.

use std::collections::BTreeSet;
use std::io::{self, PipeReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::sync::oneshot;

use crate::clock::{Clock, SystemClock};
use crate::metric::Strays;
use crate::tool::process::trace::{self, Run};
use crate::tool::process::{Program, tree};

/// Orders that may wait for the thread; a further start is refused.
const ORDERS: usize = 4_096;
/// A shim that outlives its own grace period by so much is ended by force.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often children are looked at that cannot be watched.
const LOOK: Duration = Duration::from_millis(50);

/// A shim that runs, with the daemon's ends of what it was given.
#[derive(Debug)]
pub(crate) struct Started {
    /// Plan, report, and, by its end, the order to end.
    pub control: UnixStream,
    /// What the program writes.
    pub stdout: PipeReader,
    /// What the program writes for people.
    pub stderr: PipeReader,
    /// As long as this is held, the shim may run.
    pub leash: Leash,
    /// The run's control group, where there is one.
    pub group: Option<PathBuf>,
    /// Ends when nothing of the run is left.
    pub over: oneshot::Receiver<()>,
}

/// Makes sure that a shim does not outlive its call by more than the grace period.
#[derive(Debug)]
pub(crate) struct Leash {
    pid: Pid,
    grace: Duration,
    spawner: Arc<Spawner>,
}

impl Drop for Leash {
    fn drop(&mut self) {
        let order = Order::LetGo {
            pid: self.pid,
            grace: self.grace,
        };
        if self.spawner.send(order).is_err() {
            tracing::warn!("a tool's end cannot be watched: the spawner has too much to do");
        }
    }
}

/// What the thread is asked for.
enum Order {
    Start {
        program: Arc<Program>,
        environment: Vec<(String, String)>,
        reply: oneshot::Sender<io::Result<Started>>,
    },
    LetGo {
        pid: Pid,
        grace: Duration,
    },
}

/// The way to the thread.
#[derive(Debug)]
struct Spawner {
    orders: SyncSender<Order>,
    bell: Arc<OwnedFd>,
}

/// There is one thread for the whole program, started by the first call.
static SPAWNER: Mutex<Option<Arc<Spawner>>> = Mutex::new(None);

/// Starts a shim. Cancellation: a shim that nobody waits for any more is ended.
///
/// # Errors
/// Why it cannot be started.
pub(crate) async fn start(
    program: Arc<Program>,
    environment: Vec<(String, String)>,
) -> io::Result<Started> {
    let (reply, answer) = oneshot::channel();
    spawner()?.send(Order::Start {
        program,
        environment,
        reply,
    })?;
    answer
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the spawner has ended")))
}

fn spawner() -> io::Result<Arc<Spawner>> {
    let mut kept = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(spawner) = kept.as_ref() {
        return Ok(Arc::clone(spawner));
    }
    let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let (orders, incoming) = sync_channel(ORDERS);
    let spawner = Arc::new(Spawner {
        orders,
        bell: Arc::clone(&bell),
    });
    let thread = Thread {
        incoming,
        bell,
        clock: SystemClock::new(),
        shims: Vec::new(),
        way: Arc::clone(&spawner),
        swept: BTreeSet::new(),
    };
    std::thread::Builder::new()
        .name("tool-spawner".to_owned())
        .spawn(move || thread.run())?;
    *kept = Some(Arc::clone(&spawner));
    Ok(spawner)
}

impl Spawner {
    fn send(&self, order: Order) -> io::Result<()> {
        self.orders
            .try_send(order)
            .map_err(|_| io::Error::other("too many tools are being started; try again later"))?;
        // A bell that cannot take another ring is ringing.
        let _rung = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        Ok(())
    }
}

/// A shim that has not been reaped.
struct Shim {
    child: Child,
    pid: Pid,
    watch: Option<OwnedFd>,
    by_force_at: Option<Duration>,
    run: Run,
    /// Closes with the shim's entry: then nothing of it is left.
    over: oneshot::Sender<()>,
}

/// What the thread holds.
struct Thread {
    incoming: Receiver<Order>,
    bell: Arc<OwnedFd>,
    clock: SystemClock,
    shims: Vec<Shim>,
    way: Arc<Spawner>,
    /// Where traces of former processes were looked for.
    swept: BTreeSet<PathBuf>,
}

impl Thread {
    fn run(mut self) {
        loop {
            self.sleep();
            while let Ok(order) = self.incoming.try_recv() {
                self.obey(order);
            }
            self.reap();
            self.use_force();
        }
    }

    /// Takes in the shims that have ended. One that says so has left nothing; what another one
    /// left is ended now.
    fn reap(&mut self) {
        let over: Vec<Shim> = self
            .shims
            .extract_if(.., |shim| !matches!(shim.child.try_wait(), Ok(None)))
            .collect();
        let (mut killed, mut waiting) = (Vec::new(), Vec::new());
        for mut shim in over {
            if matches!(shim.child.try_wait(), Ok(Some(status)) if status.success()) {
                shim.run.ended_well();
            } else {
                killed.push(shim.run);
                waiting.push(shim.over);
            }
        }
        trace::end_all(&killed, Strays::Supervisor);
        // Their calls may end now.
        drop(waiting);
    }

    /// Until the bell rings, a shim ends or force is due.
    fn sleep(&self) {
        let watched = self.shims.iter().filter_map(|shim| shim.watch.as_ref());
        let mut waits: Vec<PollFd<'_>> = std::iter::once(self.bell.as_ref())
            .chain(watched)
            .map(|fd| PollFd::new(fd, PollFlags::IN))
            .collect();
        let timeout = self.next_look().map(|wait| Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(wait.subsec_nanos()),
        });
        let _interrupted = poll(&mut waits, timeout.as_ref());
        let mut rings = [0; 8];
        // Nothing to read: it did not ring.
        let _silent = rustix::io::read(&self.bell, &mut rings);
    }

    fn next_look(&self) -> Option<Duration> {
        let now = self.clock.elapsed();
        let force = self.shims.iter().filter_map(|shim| shim.by_force_at).min();
        let force = force.map(|at| at.saturating_sub(now));
        let is_blind = self.shims.iter().any(|shim| shim.watch.is_none());
        let look = is_blind.then_some(LOOK);
        force.into_iter().chain(look).min()
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Start {
                program,
                environment,
                reply,
            } => {
                if reply.is_closed() {
                    return;
                }
                let started = self.start(&program, environment);
                // Nobody waits any more: dropping what was started ends it.
                let _unwanted = reply.send(started);
            }
            Order::LetGo { pid, grace } => {
                let at = self.clock.elapsed() + grace + PATIENCE;
                if let Some(shim) = self.shims.iter_mut().find(|shim| shim.pid == pid) {
                    shim.by_force_at = Some(at);
                }
            }
        }
    }

    fn start(&mut self, program: &Program, env: Vec<(String, String)>) -> io::Result<Started> {
        make_folders(program)?;
        if self.swept.insert(program.traces.clone()) {
            trace::sweep(&program.traces);
        }
        let run = Run::begin(&program.traces)?;
        let (control, theirs) = UnixStream::pair()?;
        let (stdout, stdout_writer) = io::pipe()?;
        let (stderr, stderr_writer) = io::pipe()?;
        let shim = program.shim.as_deref();
        let child = Command::new(shim.unwrap_or_else(|| Path::new("/proc/self/exe")))
            .arg0("impresario")
            .arg(crate::tool::shim::SUPERVISE)
            .env_clear()
            .envs(env.into_iter().chain([run.mark()]))
            .current_dir(&program.workdir)
            .stdin(OwnedFd::from(theirs))
            .stdout(stdout_writer)
            .stderr(stderr_writer)
            .spawn();
        let child = match child {
            Ok(child) => child,
            Err(error) => {
                run.ended_well();
                return Err(error);
            }
        };
        let pid = Pid::from_child(&child);
        let group = run.group().map(Path::to_owned);
        let (over, is_over) = oneshot::channel();
        self.shims.push(Shim {
            child,
            pid,
            watch: pidfd_open(pid, PidfdFlags::empty()).ok(),
            by_force_at: None,
            run,
            over,
        });
        let leash = Leash {
            pid,
            grace: program.grace,
            spawner: Arc::clone(&self.way),
        };
        Ok(Started {
            control,
            stdout,
            stderr,
            leash,
            group,
            over: is_over,
        })
    }

    /// Ends shims that have been let go and do not end.
    fn use_force(&mut self) {
        let now = self.clock.elapsed();
        for shim in &mut self.shims {
            if shim.by_force_at.is_some_and(|at| at <= now) {
                tracing::warn!(pid = shim.pid.as_raw_pid(), "tool ended by force");
                tree::kill_below(shim.pid);
                let _gone = shim.child.kill();
                shim.by_force_at = Some(now + PATIENCE);
            }
        }
    }
}

/// The folders that a tool works in are its own, and nobody else reads them.
fn make_folders(program: &Program) -> io::Result<()> {
    let mut own = std::fs::DirBuilder::new();
    own.recursive(true).mode(0o700);
    own.create(&program.temporary)?;
    if program.owns_workdir {
        own.create(&program.workdir)?;
    } else if !program.workdir.is_dir() {
        return Err(io::Error::other(format!(
            "its workdir {} is no folder; make it, or correct tools.{}.workdir",
            program.workdir.display(),
            program.name
        )));
    }
    Ok(())
}
