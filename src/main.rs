//! Parses, dispatches, exits.

use std::process::ExitCode;

use impresario::settings::Environment;

fn main() -> ExitCode {
    // Command tools run below this same program, started again.
    if let Some(code) = impresario::tool::shim::run_if_asked() {
        return code;
    }
    impresario::cli::main(&Environment::capture())
}
