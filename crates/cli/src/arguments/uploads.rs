//! `upload`.

use std::path::PathBuf;

use clap::Args;

use super::tasks::Properties;

/// Upload a file into a new image, or into one that has no bytes, and import it
#[derive(Args)]
#[command(after_help = "\
The file goes straight into storage, in parts, side by side. The same command again goes on where an interrupted one
stopped; parts whose bytes have changed in the file are sent again. What was sent waits for 7 days. The bytes are
stored as they are: the service looks that they are of the format that was said.

Examples:
  image-tasks upload disk.qcow2 --name debian --tag lts
  image-tasks upload disk.img --disk-format raw --name debian --parallel 8
  image-tasks upload disk.img --image 38f8f5cd-69dc-4a9c-946e-830d6372d7ba")]
pub(crate) struct Upload {
    /// The file
    pub(crate) file: PathBuf,
    /// Id or name of a queued image that gets the bytes, instead of a new one
    #[arg(long)]
    pub(crate) image: Option<String>,
    /// What the file is; say raw where it is, others are told by their first bytes
    #[arg(long, value_name = "FORMAT")]
    pub(crate) disk_format: Option<String>,
    /// Envelope of the file; bare unless given
    #[arg(long, value_name = "FORMAT")]
    pub(crate) container_format: Option<String>,
    /// Parts side by side
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(crate) parallel: u8,
    /// Give up what was uploaded before, and begin anew
    #[arg(long)]
    pub(crate) restart: bool,
    /// Print the import's task id once all is uploaded, and don't wait for its end
    #[arg(long)]
    pub(crate) no_wait: bool,
    #[command(flatten)]
    pub(crate) properties: Properties,
}
