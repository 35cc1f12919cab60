//! A supervisor for AI agents: one actor per session, one event log per session.
//!
//! Start with [`Impresario::builder`]; see [`runtime`] for the whole embedding interface.

pub mod admission;
pub mod chunk;
pub mod cli;
pub mod clock;
pub mod context;
pub mod control;
pub mod daemon;
pub mod event;
pub mod fault;
pub mod id;
pub mod metric;
pub mod model;
pub mod restart;
pub mod root;
pub mod runtime;
pub mod session;
pub mod settings;
pub mod stop;
pub mod store;
pub mod subscriber;
pub mod tool;
pub mod turn;

pub use runtime::{Agent, Builder, Impresario, Session, Turn};
