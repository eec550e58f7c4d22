//! The command line, as clap reads it and `--help` tells it.

mod images;
mod tasks;
mod uploads;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::failure::EXIT_CODES;
use crate::secret::Secret;

pub(crate) use images::{Download, ImageCommand, ImageFilter, SetImage};
pub(crate) use tasks::{CloneImage, Export, Import, TaskCommand, TaskFilter, Waiting};
pub(crate) use uploads::Upload;

const ABOUT: &str = "Imports, exports and clones images through the OpenStack Images v2 Tasks API";

const IDENTITY: &str = "\
Who you are, the first that applies:
  --sigv4, --aws-profile   requests are signed by AWS credentials; needs --endpoint
  --endpoint and --token   this token is sent to this address
  --os-cloud, OS_CLOUD     a cloud of clouds.yaml (OS_CLIENT_CONFIG_FILE, ., ~/.config/openstack, /etc/openstack)
  OS_AUTH_URL, OS_...      a login at Keystone v3: password, token or application credential
With Keystone the endpoint is the catalog's of type image, unless --endpoint names another.";

/// `image-tasks`.
#[derive(Parser)]
#[command(name = "image-tasks", version, about = ABOUT, max_term_width = 100)]
#[command(after_help = format!("{IDENTITY}\n\n{EXIT_CODES}\n\nExamples:\n  \
    image-tasks --os-cloud demo import https://example.com/disk.qcow2 --name debian\n  \
    image-tasks --os-cloud demo import disk.qcow2 --name debian"))]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Address of the service, without /v2 [env: IMAGE_TASKS_ENDPOINT]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// A token; others on this machine can read an argument, so better set the variable [env: OS_TOKEN]
    #[arg(long, global = true)]
    pub(crate) token: Option<Secret>,
    /// A cloud of clouds.yaml [env: OS_CLOUD]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) os_cloud: Option<String>,
    /// The region to work in [env: OS_REGION_NAME; with --sigv4 that of the endpoint, or AWS_REGION]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) region: Option<String>,
    /// Sign requests with AWS credentials (SigV4), for deployments with Identity=iam
    #[arg(long, global = true)]
    pub(crate) sigv4: bool,
    /// The profile that has the credentials; implies --sigv4
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) aws_profile: Option<String>,
    /// How results are printed; `json` is the service's own JSON
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
    /// No progress
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Command {
    Import(Import),
    Upload(Upload),
    Export(Export),
    Clone(CloneImage),
    /// Tasks: list, show, watch, cancel
    #[command(subcommand)]
    Task(TaskCommand),
    /// Images: list, show, delete, set
    #[command(subcommand)]
    Image(ImageCommand),
    Download(Download),
    /// The regions that images can be cloned from
    #[command(after_help = "Example:\n  image-tasks regions")]
    Regions,
    /// Completions for a shell, on stdout
    #[command(after_help = "Example:\n  \
        image-tasks completions bash > ~/.local/share/bash-completion/completions/image-tasks")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// The manual: one page for each command, written into a directory
    #[command(after_help = "Example:\n  image-tasks man ~/.local/share/man/man1 && man image-tasks-import")]
    Man {
        /// An existing directory
        directory: std::path::PathBuf,
    },
}

/// `KEY=VALUE`.
fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_description_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn check(command: &clap::Command) {
            let mut below = command.get_subcommands().filter(|one| one.get_name() != "help").peekable();
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(below.peek().is_some() || help.contains(":\n  image-tasks "), "{}", command.get_name());
            below.for_each(check);
        }
        check(&Arguments::command());
    }

    /// An example that the parser refuses would be a lie.
    #[test]
    fn every_example_is_taken() {
        fn check(command: &clap::Command, seen: &mut usize) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for example in help.lines().filter_map(|line| line.strip_prefix("  image-tasks ")) {
                let words = example.split([' ']).take_while(|word| !matches!(*word, ">" | "&&" | "|"));
                let words = std::iter::once("image-tasks").chain(words);
                assert!(Arguments::try_parse_from(words).is_ok(), "{example}");
                *seen += 1;
            }
            command.get_subcommands().for_each(|below| check(below, seen));
        }
        let mut seen = 0;
        check(&Arguments::command(), &mut seen);
        assert!(seen > 15, "{seen}");
    }
}
