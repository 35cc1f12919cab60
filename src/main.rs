//! The program.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = impresario::tool::shim::run_if_asked() {
        return code;
    }
    ExitCode::SUCCESS
}
