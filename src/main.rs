//! Parses, dispatches, exits.

use std::process::ExitCode;

use impresario::settings::Environment;

fn main() -> ExitCode {
    impresario::cli::main(&Environment::capture())
}
