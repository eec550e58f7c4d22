//! Where the running stack is: written by the runner, read by tests.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The variable that holds the path of the coordinates' JSON file.
pub const COORDINATES_VARIABLE: &str = "IMAGE_TASKS_LOCAL";

/// In the directory of logs: each request to S3, a JSON object a line.
pub const S3_REQUESTS: &str = "s3-requests.jsonl";
/// In the directory of logs: which calls S3 shall hold or fail, a file for each disturbance.
pub const S3_DISTURBANCES: &str = "s3-disturbances";

/// `HashBeforeActiveBytes` of the stack that tests run on, so that some of their images are larger.
pub const HASH_BEFORE_ACTIVE: u64 = 1 << 30;

/// Why there is no stack to test against.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// Not started by the runner.
    #[error("{COORDINATES_VARIABLE} isn't set: run these tests with `cargo local test`")]
    NotRunning,
    /// The coordinates can't be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// Of the coordinates.
        path: PathBuf,
        /// What was wrong.
        source: std::io::Error,
    },
    /// The runner deployed nothing.
    #[error("the stack has no deployment")]
    Empty,
}

/// A running local stack.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Coordinates {
    /// MiniStack: everything but S3. What `AWS_ENDPOINT_URL` is in functions.
    pub aws_endpoint: String,
    /// LocalStack's S3. What `AWS_ENDPOINT_URL_S3` is in functions.
    pub s3_endpoint: String,
    /// Keystone, without a version.
    pub keystone_endpoint: String,
    /// A `clouds.yaml` for it.
    pub clouds: PathBuf,
    /// Where programs are installed: a virtual environment of Python for each file of pins.
    pub tools: PathBuf,
    /// `image-tasks`, as it was built with what is deployed.
    pub command_line: PathBuf,
    /// A bucket outside the stacks, allowed as a source of imports.
    pub source_bucket: String,
    /// A bucket outside the stacks, allowed to receive exports; in the first region.
    pub export_bucket: String,
    /// Where a Glance elsewhere is that images may be cloned from, once a test serves one there.
    pub glance_address: SocketAddr,
    /// Directory of the emulators' and deployments' logs.
    pub logs: PathBuf,
    /// One for each region; the first is where single-region tests run.
    pub deployments: Vec<Deployment>,
}

/// `template.yaml` as deployed in one region.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Deployment {
    /// AWS name of the region.
    pub region: String,
    /// CloudFormation stack.
    pub stack: String,
    /// Public URL of the API, without a trailing slash.
    pub endpoint: String,
    /// A bucket of this region outside the stacks, allowed to receive exports from every region.
    pub export_bucket: String,
    /// Resources by logical id.
    pub resources: BTreeMap<String, Resource>,
}

/// One resource of a stack.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Resource {
    /// CloudFormation type, `AWS::DynamoDB::Table`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Physical id: a name, an ARN or an id, as CloudFormation defines it for the type.
    pub id: String,
}

impl Coordinates {
    /// Of the stack that the runner started these tests on.
    ///
    /// # Errors
    /// There is none, or its coordinates are damaged.
    #[expect(
        clippy::disallowed_methods,
        reason = "the test's one look at its environment; not part of a function"
    )]
    pub fn from_env() -> Result<Self, StackError> {
        let path: PathBuf = std::env::var(COORDINATES_VARIABLE).map_err(|_| StackError::NotRunning)?.into();
        fs::read(&path)
            .and_then(|text| Ok(serde_json::from_slice(&text)?))
            .map_err(|source| StackError::Unreadable { path, source })
    }
}

impl Deployment {
    /// Physical id of a resource of the template.
    #[must_use]
    pub fn physical_id(&self, logical: &str) -> Option<&str> {
        self.resources.get(logical).map(|resource| resource.id.as_str())
    }

    /// Physical ids of every resource of a type, in the order of their logical ids.
    pub fn of_type<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a str> {
        self.resources.values().filter(move |r| r.kind == kind).map(|r| r.id.as_str())
    }
}
