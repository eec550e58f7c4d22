//! `image-tasks`: imports, exports and clones images from the command line.
//!
//! Goal: what the API can do, for people and scripts: waits are shown, failures are the service's words, exit codes say
//! what kind of end it was ([`failure`]). Nothing here knows more of the service than its documented wire.

mod arguments;
mod download;
mod environment;
mod failure;
mod identity;
mod images;
mod manual;
mod output;
mod progress;
mod secret;
mod service;
mod tasks;
mod upload;
mod wait;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::{Arguments, Command, Format};
use environment::Environment;
use failure::Failure;
use output::Output;
use service::Service;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let output = Output { json: arguments.global.output == Format::Json, quiet: arguments.global.quiet };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(run(&arguments, output)),
        Err(error) => Err(Failure::Here(format!("threads can't be started: {error}"))),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.note(&failure.to_string());
            failure.exit_code()
        }
    }
}

async fn run(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    match &arguments.command {
        Command::Completions { shell } => return manual::completions(*shell, output),
        Command::Man { directory } => return manual::pages(directory),
        _ => {}
    }
    let environment = Environment::read();
    let session = identity::session(&arguments.global, &environment).await?;
    let service = Service::new(session)?;
    match &arguments.command {
        Command::Import(asked) => match tasks::file(asked)? {
            Some(file) => upload::import(&service, output, &environment, file, asked).await,
            None => tasks::import(&service, output, asked).await,
        },
        Command::Upload(asked) => upload::run(&service, output, &environment, asked).await,
        Command::Export(asked) => tasks::export(&service, output, asked).await,
        Command::Clone(asked) => tasks::clone(&service, output, asked).await,
        Command::Task(command) => tasks::command(&service, output, command).await,
        Command::Image(command) => images::command(&service, output, command).await,
        Command::Download(asked) => download::run(&service, output, asked).await,
        Command::Regions => images::regions(&service, output).await,
        // Answered above, without a service.
        Command::Completions { .. } | Command::Man { .. } => Ok(()),
    }
}
