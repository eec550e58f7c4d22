//! Why a command ended otherwise than well, and the exit code that says so to scripts.

use std::process::ExitCode;

/// A command that didn't end well. The text is what stderr shows last.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The service's own words, about a task that failed or a request that it refused: shown as they are.
    #[error("{0}")]
    Told(String),
    /// The service's own words where it says 404: there is none, or none that may be seen.
    #[error("{0}")]
    Absent(String),
    /// Something here went wrong: a file, or bytes that aren't the image's.
    #[error("image-tasks: {0}")]
    Here(String),
    /// The command line or the identity can't be used.
    #[error("image-tasks: {0}")]
    Usage(String),
    /// The service can't be reached, or has a fault.
    #[error("image-tasks: {0}")]
    Unreachable(String),
    /// The person at the keyboard left.
    #[error("{0}")]
    Interrupted(String),
}

/// What `--help` says of exit codes.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    done; a task that was waited for is a success
  1    the task failed or the request was refused: stderr ends with the service's words;
       or a file can't be read or written, or downloaded bytes aren't the image's
  2    the command line or the identity can't be used
  3    the service can't be reached or has a fault: try again
  130  left with Ctrl-C; a task goes on, a download or an upload by the same command again";

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Told(_) | Self::Absent(_) | Self::Here(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::Interrupted(_) => 130,
        })
    }
}
