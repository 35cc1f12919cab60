//! A supervisor for AI agents: one actor per session, one event log per session.

pub mod chunk;
pub mod cli;
pub mod clock;
pub mod control;
pub mod daemon;
pub mod event;
pub mod fault;
pub mod id;
pub mod metric;
pub mod model;
pub mod restart;
pub mod settings;
pub mod stop;
pub mod store;
pub mod tool;
