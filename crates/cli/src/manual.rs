//! Completions and manual pages, from clap's own description of the command line.

use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::arguments::Arguments;
use crate::failure::Failure;
use crate::output::Output;

/// `image-tasks completions`.
pub(crate) fn completions(shell: Shell, output: Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "image-tasks", &mut script);
    output.text(&String::from_utf8_lossy(&script))
}

/// `image-tasks man`.
pub(crate) fn pages(directory: &Path) -> Result<(), Failure> {
    clap_mangen::generate_to(Arguments::command(), directory)
        .map_err(|error| Failure::Here(format!("{} can't be written: {error}", directory.display())))
}
