//! The binary: hands over to `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    swallow_eval::cli::main()
}
