//! Wires the daemon together: settings, logs, metrics, the company, the socket, signals, the stop.
//!
//! Called by the command `serve`. Built on the embedding interface alone; decides nothing about
//! sessions.

mod ensure;
mod exit;
mod handover;
mod log;
mod metrics;
mod reload;
mod serve;
mod signals;
mod watchdog;

pub use ensure::{Starter, ensure};
pub use exit::Exit;
pub use handover::{Inherited, Successor, inherited};
pub use serve::{End, Mode, Start, detach, serve};
