//! A supervisor for AI agents: one actor per session, one event log per session.
//!
//! # A company in your own process
//!
//! An [`Agent`] is a named profile: a model, instructions, tools. A [`Session`] is one conversation
//! with an agent: an actor and an event log. [`Impresario`] is the company that they live in. It
//! runs on the tokio runtime that starts it, and installs no logger, no metrics recorder and no
//! signal handler.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use impresario::chunk::Item;
//! use impresario::store::MemoryStore;
//! use impresario::{Agent, Impresario};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let company = Impresario::builder()
//!     // In memory here; `.store("./data")` keeps events on disk.
//!     .event_store(Arc::new(MemoryStore::new()))
//!     // `offline` is the built-in stand-in for a model; `calc` is a builtin tool.
//!     .agent(Agent::new("assistant").model("offline").tools(["calc"]))
//!     .start()
//!     .await?;
//!
//! let session = company.session("assistant").create().await?;
//! let mut turn = session.send("What is 6 * 7?").await?; // durable when this returns
//! let mut answer = String::new();
//! while let Some(chunk) = turn.next().await {
//!     if let Item::Delta(delta) = chunk.item {
//!         answer.push_str(&delta.text);
//!     }
//! }
//! assert!(answer.contains("42"), "{answer}");
//!
//! company.stop(Duration::from_secs(10)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Leaving and coming back
//!
//! Every [`chunk::Chunk`] carries a cursor. A reader that leaves hands the last one back to
//! [`Session::subscribe`], in this process or after a restart, and gets the rest from that byte on.
//! Nothing is lost when nobody reads: a turn does not need a reader.
//!
//! # What is durable
//!
//! What [`Session::send`] has accepted is on disk when it returns. Events reach readers only after
//! they are on disk. Deltas come before that: they are provisional, and a [`chunk::Item::Reset`]
//! takes back what a crash made void. After a crash every unfinished turn goes on by itself when
//! the company starts again.
//!
//! # Tools and models of your own
//!
//! Implement [`tool::Tool`] or [`model::Model`]; `examples/own_tool.rs` and
//! `examples/own_model.rs` are whole programs. See [`runtime`] for the rest of the interface.

pub mod admission;
pub mod breaker;
pub mod budget;
pub mod cache;
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
pub mod rate;
pub mod redact;
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

/// The programs of the README are run as doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[derive(Debug)]
pub struct Readme;
