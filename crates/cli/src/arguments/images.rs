//! Commands about images.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::key_value;

/// Commands about images that are there.
#[derive(Subcommand)]
pub(crate) enum ImageCommand {
    /// Images that your project sees, newest first
    #[command(after_help = "Example:\n  image-tasks image list --status active --tag lts")]
    List(ImageFilter),
    /// An image's attributes and properties
    #[command(after_help = "Example:\n  image-tasks image show debian")]
    Show {
        /// Id or name of the image
        image: String,
    },
    /// Delete images with their bytes
    #[command(after_help = "Example:\n  image-tasks image delete 38f8f5cd-69dc-4a9c-946e-830d6372d7ba")]
    Delete {
        /// Ids or names of the images
        #[arg(required = true)]
        images: Vec<String>,
    },
    Set(SetImage),
}

/// Which images.
#[derive(Args)]
pub(crate) struct ImageFilter {
    /// Only those of this name
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// queued, uploading, importing, active, deactivated or pending_delete
    #[arg(long)]
    pub(crate) status: Option<String>,
    /// private, shared, community, public or all
    #[arg(long)]
    pub(crate) visibility: Option<String>,
    /// Only those of this project
    #[arg(long, value_name = "PROJECT")]
    pub(crate) owner: Option<String>,
    /// Only those with this tag; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// Hidden images instead of the others
    #[arg(long)]
    pub(crate) hidden: bool,
    /// So many at most; all unless given
    #[arg(long)]
    pub(crate) limit: Option<usize>,
}

/// Change an image's record
#[derive(Args)]
#[command(
    after_help = "Example:\n  image-tasks image set debian --name debian-13 --tag lts --remove-property old"
)]
pub(crate) struct SetImage {
    /// Id or name of the image
    pub(crate) image: String,
    #[command(flatten)]
    pub(crate) changes: Changes,
}

/// What becomes of a record; something has to.
#[derive(Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Changes {
    /// Its new name
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Who may see it: private, shared, community or public
    #[arg(long)]
    pub(crate) visibility: Option<String>,
    /// GiB of disk that a guest needs
    #[arg(long, value_name = "GIB")]
    pub(crate) min_disk: Option<u32>,
    /// MiB of memory that a guest needs
    #[arg(long, value_name = "MIB")]
    pub(crate) min_ram: Option<u32>,
    /// Whether it can't be deleted
    #[arg(long, value_name = "true|false")]
    pub(crate) protected: Option<bool>,
    /// Whether lists leave it out
    #[arg(long, value_name = "true|false")]
    pub(crate) hidden: Option<bool>,
    /// An extra property to add or replace; may be repeated
    #[arg(long = "property", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) properties: Vec<(String, String)>,
    /// An extra property to remove; may be repeated
    #[arg(long = "remove-property", value_name = "KEY")]
    pub(crate) removed_properties: Vec<String>,
    /// A tag to add; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// A tag to remove; may be repeated
    #[arg(long = "remove-tag", value_name = "TAG")]
    pub(crate) removed_tags: Vec<String>,
}

/// Download an image's bytes into a file, and check them
#[derive(Args)]
#[command(after_help = "\
The bytes come in ranges, side by side, into FILE.partial. FILE appears once all are there and their hash is the
image's. The same command again goes on where an interrupted one stopped.

Example:
  image-tasks download debian debian.qcow2")]
pub(crate) struct Download {
    /// Id or name of the image
    pub(crate) image: String,
    /// The file; without it {name}.{disk_format} here
    pub(crate) file: Option<PathBuf>,
    /// Ranges side by side
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(crate) parallel: u8,
    /// Replace FILE if it is there
    #[arg(long)]
    pub(crate) force: bool,
}
