//! The control protocol: JSON-RPC 2.0 over a Unix socket, one object on each line.
//!
//! [`wire`] holds what goes over the socket, [`server`] answers it for a company, [`client`] asks.
//! `docs/protocol.md` describes it for people; `impresario schema` prints it for machines.

pub mod client;
mod connection;
mod methods;
mod pump;
pub mod server;
pub mod wire;
