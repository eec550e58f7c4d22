//! `cargo local`: the whole service on this machine, without Docker or AWS.
#![allow(clippy::print_stderr, reason = "a command line program")]

mod runner;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = runner::Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    // Emulators end with the thread that started them (see infra/local/emulator.py):
    // `block_on` keeps that on the main thread, which lives as long as the runner.
    match runtime.block_on(runner::run(arguments)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}
