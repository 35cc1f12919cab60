//! Sees to it that a daemon that hangs does not go on hanging: the root and the store's writer are
//! asked again and again, and when neither answers for too long, the process ends with its own exit
//! code, so that a supervisor starts it again. The service manager's watchdog is told so long as the
//! root answers.
//!
//! The asking is a task; the one who waits is a thread, which also sees a runtime that stands still.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use sd_notify::NotifyState;
use tracing::{error, warn};

use crate::clock;
use crate::daemon::Exit;
use crate::daemon::serve::tell_manager;
use crate::runtime::Impresario;

/// The thread looks so often in the time after which it acts. A process that was stopped and goes on
/// has slept through one look at most.
const LOOKS: u32 = 8;

/// Asked so often in that time.
const ASKS: u32 = 4;

/// The log may hang as well: its last line is waited for so long.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Without a service manager, and with the watchdog switched off, nobody is asked.
#[derive(Debug)]
pub(super) struct Watchdog(Arc<Pulse>);

#[derive(Debug, Default)]
struct Pulse {
    beats: AtomicU64,
    is_over: AtomicBool,
}

impl Watchdog {
    /// Begins to watch. `silence` is the time after which the process ends; none for never.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(company: &Impresario, silence: Option<Duration>) -> Result<Self> {
        let pulse = Arc::<Pulse>::default();
        let manager = sd_notify::watchdog_enabled().map(|period| period / 2);
        let own = silence.map(|silence| silence / ASKS);
        if let Some(every) = own.into_iter().chain(manager).min() {
            clock::spawn(ask(company.clone(), Arc::clone(&pulse), every));
        }
        if let Some(silence) = silence {
            let pulse = Arc::clone(&pulse);
            std::thread::Builder::new()
                .name("watchdog".to_owned())
                .spawn(move || wait(&pulse, silence))
                .context("failed to start the watchdog")?;
        }
        Ok(Self(pulse))
    }

    /// Watches no more: a stop has deadlines of its own.
    pub(super) fn end(&self) {
        self.0.is_over.store(true, Ordering::SeqCst);
    }
}

/// Asks until the watch is over. Each answer is a beat.
async fn ask(company: Impresario, pulse: Arc<Pulse>, every: Duration) {
    while !pulse.is_over.load(Ordering::SeqCst) {
        if company.answers().await {
            pulse.beats.fetch_add(1, Ordering::SeqCst);
            tell_manager(&[NotifyState::Watchdog]);
        } else {
            warn!("the root or the store does not answer");
        }
        tokio::time::sleep(every).await;
    }
}

/// Ends the process when there was no beat for so long.
fn wait(pulse: &Pulse, silence: Duration) {
    let (mut last, mut quiet) = (0, 0);
    while quiet < LOOKS {
        std::thread::sleep(silence / LOOKS);
        if pulse.is_over.load(Ordering::SeqCst) {
            return;
        }
        let beats = pulse.beats.load(Ordering::SeqCst);
        quiet = if beats == last { quiet + 1 } else { 0 };
        last = beats;
    }
    say_last_words(silence);
    end();
}

fn say_last_words(silence: Duration) {
    let (said, hears) = mpsc::channel();
    let speaks = std::thread::Builder::new().spawn(move || {
        error!(
            silence_ms = silence.as_millis(),
            "the daemon hangs; the process ends, and the next start recovers"
        );
        // Nobody listens any more when it took too long.
        let _said = said.send(());
    });
    if speaks.is_ok() {
        let _said = hears.recv_timeout(LAST_WORDS);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "whoever could end the process in order hangs"
)]
fn end() -> ! {
    std::process::exit(Exit::Hung.number().into())
}
