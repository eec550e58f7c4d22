//! The one list of variables: names, readers, meanings, defaults.

/// A function that reads its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// The HTTP API.
    Api,
    /// The phases of an import.
    Import,
    /// The phases of an export.
    Export,
    /// The phases of a clone.
    Clone,
    /// Ends what broke.
    Lifecycle,
}

/// A variable, who reads it, and what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// Name.
    pub name: &'static str,
    /// Functions that read it.
    pub functions: &'static [Function],
    /// What it is, in one line.
    pub meaning: &'static str,
    /// What holds where it isn't given; `None`: it must be given.
    pub default: Option<&'static str>,
}

use Function::{Api, Export, Import, Lifecycle};

pub(super) const ALL: &[Function] = &[Api, Import, Export, Function::Clone, Lifecycle];

/// Every variable of our own. (`AWS_*` variables are the SDK's.)
pub const VARIABLES: &[Variable] = &[
    Variable { name: "TASKS_TABLE", functions: ALL, meaning: "DynamoDB table of tasks", default: None },
    Variable { name: "IMAGES_TABLE", functions: ALL, meaning: "DynamoDB table of images", default: None },
    Variable { name: "IMAGES_BUCKET", functions: ALL, meaning: "bucket of image objects", default: None },
    Variable {
        name: "CREDENTIALS_TABLE",
        functions: &[Api, Import, Function::Clone, Lifecycle],
        meaning: "DynamoDB table of callers' tokens, and of headers that sources want",
        default: None,
    },
    Variable {
        name: "WORK_BUCKET",
        functions: &[Api, Import, Export, Function::Clone, Lifecycle],
        meaning: "bucket of plans, spooled sources and uploads",
        default: None,
    },
    Variable {
        name: "IMPORT_STATE_MACHINE_ARN",
        functions: &[Api, Lifecycle],
        meaning: "state machine of import tasks",
        default: None,
    },
    Variable {
        name: "EXPORT_STATE_MACHINE_ARN",
        functions: &[Api, Lifecycle],
        meaning: "state machine of export tasks",
        default: None,
    },
    Variable {
        name: "CLONE_STATE_MACHINE_ARN",
        functions: &[Api, Lifecycle],
        meaning: "state machine of clone tasks",
        default: None,
    },
    Variable {
        name: "TASK_TTL_HOURS",
        functions: ALL,
        meaning: "from a task's end to its expiry",
        default: Some("48"),
    },
    Variable {
        name: "METRICS_NAMESPACE",
        functions: ALL,
        meaning: "namespace of metrics in CloudWatch; empty: there are none",
        default: Some(""),
    },
    Variable {
        name: "PUBLIC_ENDPOINT",
        functions: &[Api],
        meaning: "scheme and host that clients see, no trailing slash; empty: from the request",
        default: Some(""),
    },
    Variable {
        name: "IDENTITY",
        functions: &[Api],
        meaning: "how callers are known: `iam` (API Gateway's IAM authorizer), `keystone` or `development`",
        default: Some("iam"),
    },
    Variable {
        name: "KEYSTONE_URL",
        functions: &[Api],
        meaning: "Keystone's URL, `https://host[:port][/path]`; required with `keystone`",
        default: Some(""),
    },
    Variable {
        name: "KEYSTONE_CACHE_SECONDS",
        functions: &[Api],
        meaning: "how long what Keystone said of a token counts, and so how long a revoked one lives on; 0 to 3600",
        default: Some("60"),
    },
    Variable {
        name: "IAM_PROJECTS",
        functions: &[Api],
        meaning: "parameter of Systems Manager that maps principals to projects and roles with `iam`, such as `/images/projects`; empty: the account is the one project",
        default: Some(""),
    },
    Variable {
        name: "SOURCE_BUCKETS",
        functions: &[Api, Import],
        meaning: "comma-separated buckets that `s3://` sources may name; empty: none",
        default: Some(""),
    },
    Variable {
        name: "SOURCE_ALLOW_NETWORKS",
        functions: &[Api, Import, Function::Clone],
        meaning: "comma-separated CIDRs allowed as HTTP sources on any port, beyond public addresses on 80 and 443",
        default: Some(""),
    },
    Variable {
        name: "SOURCE_CA_PEM",
        functions: &[Import, Function::Clone],
        meaning: "certificates, in PEM, of authorities that are trusted of sources beside the public ones; empty: none",
        default: Some(""),
    },
    Variable {
        name: "SOURCE_WAIT_SECONDS",
        functions: &[Import, Function::Clone],
        meaning: "how long a task waits for a source whose server answers 429 or 503, without a byte of progress, and the longest `Retry-After` that is honoured, seconds",
        default: Some("300"),
    },
    Variable {
        name: "EXPORT_BUCKETS",
        functions: &[Api, Export, Lifecycle],
        meaning: "comma-separated buckets that may receive exports, `bucket@region` for one elsewhere; empty: none",
        default: Some(""),
    },
    Variable {
        name: "REGIONS",
        functions: &[Api, Function::Clone],
        meaning: "JSON list of the cloud's regions, each `region`, `endpoint`, `images_bucket`, `images_table`; empty: this one alone",
        default: Some(""),
    },
    Variable {
        name: "GLANCE_ENDPOINTS",
        functions: &[Api, Function::Clone],
        meaning: "comma-separated Glance endpoints elsewhere, `http(s)://host[:port][/path]`, that images may be copied from; `region=` before one names it for `glance-download`; empty: none",
        default: Some(""),
    },
    Variable {
        name: "MAX_IMAGE_BYTES",
        functions: &[Api, Import, Function::Clone],
        meaning: "quota of an image's size and virtual size, bytes",
        default: Some("1099511627776"),
    },
    Variable {
        name: "IMAGES_PER_PROJECT",
        functions: &[Api],
        meaning: "quota of a project's images",
        default: Some("1000"),
    },
    Variable {
        name: "IMPORT_OUTPUT_FORMAT",
        functions: &[Import],
        meaning: "format that imported disks are stored in where `disk_format` isn't given: `as-is`, `raw` or `qcow2`",
        default: Some("as-is"),
    },
    Variable {
        name: "HASH_BEFORE_ACTIVE_BYTES",
        functions: &[Import],
        meaning: "images up to this many bytes become active with `checksum` and `os_hash_value`; larger ones get them later",
        default: Some("137438953472"),
    },
];
