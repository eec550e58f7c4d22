//! Commands about tasks.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::key_value;
use crate::secret::Secret;

/// Import an image from an address on the web, an object in S3 or a file here, and print its id
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    image-tasks import https://example.com/disk.qcow2 --name debian --disk-format raw\n  \
    image-tasks import s3://my-images/disk.img --from-format raw --property os_distro=debian\n  \
    image-tasks import disk.qcow2 --name debian\n  \
    image-tasks import https://example.com/disk.qcow2 --header @login.txt\n  \
    image-tasks import https://example.com/disk.qcow2 --no-wait --output json")]
pub(crate) struct Import {
    /// https://..., http://..., s3://bucket/key, oci://registry/repository:tag, or a file, which is uploaded (see
    /// upload); several addresses where each has the same bytes
    #[arg(value_name = "SOURCE", required = true)]
    pub(crate) sources: Vec<String>,
    /// A header that the sources' web server wants, or @FILE with a header a line, since others on this machine can read
    /// an argument; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE")]
    pub(crate) headers: Vec<Secret>,
    /// What the source must be; say raw where it is, any other format is found
    #[arg(long, value_name = "FORMAT")]
    pub(crate) from_format: Option<String>,
    /// The disk to take of an OVA with several, with --disk-format
    #[arg(long, value_name = "FILE")]
    pub(crate) member: Option<String>,
    /// Format to store the image in: raw or qcow2 converts it
    #[arg(long, value_name = "FORMAT")]
    pub(crate) disk_format: Option<String>,
    /// Envelope to store the image in
    #[arg(long, value_name = "FORMAT")]
    pub(crate) container_format: Option<String>,
    /// SHA-512 that the source must have
    #[arg(long, value_name = "HEX")]
    pub(crate) sha512: Option<String>,
    /// SHA-256 that the source must have
    #[arg(long, value_name = "HEX", conflicts_with = "sha512")]
    pub(crate) sha256: Option<String>,
    /// MD5 that the source must have
    #[arg(long, value_name = "HEX")]
    pub(crate) md5: Option<String>,
    /// Where a file such as SHA256SUMS lists the source's hash
    #[arg(long, value_name = "URL")]
    pub(crate) checksums_from: Option<String>,
    #[command(flatten)]
    pub(crate) properties: Properties,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

/// Export an image into a bucket that the operator allows, and print the object's address
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    image-tasks export debian --bucket image-tasks-exports --compression zstd\n  \
    image-tasks export debian --to s3://partner/debian.raw --format raw")]
pub(crate) struct Export {
    /// Id or name of the image
    pub(crate) image: String,
    #[command(flatten)]
    pub(crate) receiver: Receiver,
    /// Format of the object
    #[arg(long, value_enum)]
    pub(crate) format: Option<ExportFormat>,
    /// Compression of a qcow2
    #[arg(long, value_enum)]
    pub(crate) compression: Option<Compression>,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

/// Where an export goes.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Receiver {
    /// The bucket; the object is projects/{project}/{image}.{format}
    #[arg(long)]
    pub(crate) bucket: Option<String>,
    /// The object instead: s3://bucket/key
    #[arg(long, value_name = "S3-URL")]
    pub(crate) to: Option<String>,
}

/// Formats of an export.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ExportFormat {
    Qcow2,
    Raw,
}

/// Compressions of a qcow2.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Compression {
    Zlib,
    Zstd,
    None,
}

/// Clone an image into this region, and print the copy's id
#[derive(Args)]
#[command(
    after_help = "The task is asked for in the region that shall have the image: --region, or --endpoint.\n\n\
    Examples:\n  \
    image-tasks clone 38f8f5cd-69dc-4a9c-946e-830d6372d7ba --from-region us-east-1 --name copy\n  \
    image-tasks clone https://glance.example.org/v2/images/38f8f5cd-69dc-4a9c-946e-830d6372d7ba"
)]
pub(crate) struct CloneImage {
    /// The image's id in the region of --from-region, or its URL: {endpoint}/v2/images/{id}
    pub(crate) image: String,
    /// The region that has the image
    #[arg(long, value_name = "NAME")]
    pub(crate) from_region: Option<String>,
    /// Copy even if the project has the same bits here
    #[arg(long)]
    pub(crate) allow_duplicate: bool,
    #[command(flatten)]
    pub(crate) properties: Properties,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

/// How a task is waited for.
#[derive(Args)]
#[command(next_help_heading = "The task")]
pub(crate) struct Waiting {
    /// Print the task's id and don't wait for its end
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// A key of your own: asked twice within 24 hours under it, there is one task
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
}

/// What the image's record will say.
#[derive(Args)]
#[command(next_help_heading = "The image")]
pub(crate) struct Properties {
    /// Its name
    #[arg(long)]
    name: Option<String>,
    /// Its id; a new one unless given
    #[arg(long, value_name = "UUID")]
    id: Option<String>,
    /// Who may see it: private, shared, community or public
    #[arg(long)]
    visibility: Option<String>,
    /// A tag; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// An extra property; may be repeated
    #[arg(long = "property", value_name = "KEY=VALUE", value_parser = key_value)]
    properties: Vec<(String, String)>,
    /// GiB of disk that a guest needs
    #[arg(long, value_name = "GIB")]
    min_disk: Option<u32>,
    /// MiB of memory that a guest needs
    #[arg(long, value_name = "MIB")]
    min_ram: Option<u32>,
    /// It can't be deleted
    #[arg(long)]
    protected: bool,
    /// Lists leave it out
    #[arg(long)]
    hidden: bool,
}

impl Properties {
    /// `image_properties` of a task.
    pub(crate) fn members(&self) -> Map<String, Value> {
        // Whatever is a property's name: the service refuses by name what can't be one.
        let mut members: Map<_, _> =
            self.properties.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let said = [
            ("name", self.name.as_ref().map(|name| json!(name))),
            ("id", self.id.as_ref().map(|id| json!(id))),
            ("visibility", self.visibility.as_ref().map(|visibility| json!(visibility))),
            ("tags", (!self.tags.is_empty()).then(|| json!(self.tags))),
            ("min_disk", self.min_disk.map(|gib| json!(gib))),
            ("min_ram", self.min_ram.map(|mib| json!(mib))),
            ("protected", self.protected.then_some(Value::Bool(true))),
            ("os_hidden", self.hidden.then_some(Value::Bool(true))),
        ];
        members.extend(said.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        members
    }
}

/// Commands about tasks that are there.
#[derive(Subcommand)]
pub(crate) enum TaskCommand {
    /// Tasks of your project, newest first
    #[command(after_help = "Example:\n  image-tasks task list --status failure --limit 5")]
    List(TaskFilter),
    /// All that is known of a task
    #[command(after_help = "Example:\n  image-tasks task show 5b7b0e6d-5c4a-4b9a-9553-d9c7d6f1a2b0")]
    Show {
        /// Its id
        task: String,
    },
    /// Wait for a task's end, as the command that asked for it does
    #[command(after_help = "Example:\n  image-tasks task watch 5b7b0e6d-5c4a-4b9a-9553-d9c7d6f1a2b0")]
    Watch {
        /// Its id
        task: String,
    },
    /// Cancel a task, and wait until it has ended
    #[command(after_help = "Example:\n  image-tasks task cancel 5b7b0e6d-5c4a-4b9a-9553-d9c7d6f1a2b0")]
    Cancel {
        /// Its id
        task: String,
        /// Don't wait until it has ended
        #[arg(long)]
        no_wait: bool,
    },
}

/// Which tasks.
#[derive(Args)]
pub(crate) struct TaskFilter {
    /// import, export, clone or api_image_import
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) task_type: Option<String>,
    /// pending, processing, success or failure
    #[arg(long)]
    pub(crate) status: Option<String>,
    /// So many at most; all unless given
    #[arg(long)]
    pub(crate) limit: Option<usize>,
}
