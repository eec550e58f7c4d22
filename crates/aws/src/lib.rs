//! Adapters of the domain's and the flows' ports: DynamoDB, S3, Step Functions,
//! Keystone, Parameter Store, sources over HTTP and S3; and the configuration that builds them.
//!
//! Invariants:
//! - The environment is read once, in [`config`]; clients are made once, in [`clients`].
//! - No table is scanned. Records change under conditions only.
//! - Bodies are streams; no part is ever held whole.

pub mod clients;
pub mod clock;
pub mod config;
pub mod dynamo;
mod exact;
mod failures;
pub mod keystone;
pub mod lambda;
mod metrics;
mod parameter;
pub mod regions;
pub mod s3;
mod small_answer;
pub mod sources;
pub mod step_functions;
mod stores;
pub mod telemetry;

pub use clients::Clients;
pub use clock::SystemClock;
pub use config::{
    ApiConfig, CloneConfig, ConfigError, ExportConfig, Identity, ImportConfig, LifecycleConfig, Stores,
};
pub use dynamo::{DynamoImages, DynamoTasks};
pub use keystone::Keystone;
pub use metrics::Metrics;
pub use parameter::ProjectsParameter;
pub use regions::AwsRegions;
pub use s3::{S3Images, S3Objects, S3Receivers};
pub use sources::{AllowedSources, Patience};
pub use step_functions::{StateMachines, StepFunctions};
