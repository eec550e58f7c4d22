//! A handle on the running stack for tests: SDK clients, functions' processes.

use std::fs;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};

use crate::{Coordinates, Deployment, StackError};

/// The running stack, seen from one region.
#[derive(Debug, Clone)]
pub struct Stack {
    coordinates: Coordinates,
    deployment: Deployment,
}

macro_rules! physical {
    ($($(#[$doc:meta])* $name:ident = $logical:literal;)*) => {
        impl Stack {
            $(
                $(#[$doc])*
                ///
                /// # Panics
                /// The template has no such resource.
                #[must_use]
                pub fn $name(&self) -> &str { self.physical_id($logical) }
            )*
        }
    };
}

physical! {
    /// Name of the tasks table.
    tasks_table = "TasksTable";
    /// Name of the images table.
    images_table = "ImagesTable";
    /// Name of the bucket of images.
    images_bucket = "ImagesBucket";
    /// Name of the bucket of plans and spooled sources.
    work_bucket = "WorkBucket";
    /// ARN of the import state machine.
    import_state_machine = "ImportStateMachine";
    /// ARN of the export state machine.
    export_state_machine = "ExportStateMachine";
    /// ARN of the clone state machine.
    clone_state_machine = "CloneStateMachine";
}

impl Stack {
    /// The stack that `cargo local test` started, in its first region.
    ///
    /// # Errors
    /// There is none, or its coordinates are damaged.
    pub fn from_env() -> Result<Self, StackError> {
        let coordinates = Coordinates::from_env()?;
        let deployment = coordinates.deployments.first().cloned().ok_or(StackError::Empty)?;
        Ok(Self { coordinates, deployment })
    }

    /// The same stack seen from another of its regions.
    #[must_use]
    pub fn in_region(&self, region: &str) -> Option<Self> {
        let deployment = self.coordinates.deployments.iter().find(|d| d.region == region)?.clone();
        Some(Self { coordinates: self.coordinates.clone(), deployment })
    }

    /// Everything that the runner wrote down.
    #[must_use]
    pub fn coordinates(&self) -> &Coordinates {
        &self.coordinates
    }

    /// This region's deployment.
    #[must_use]
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// Public URL of the API, without a trailing slash.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.deployment.endpoint
    }

    /// Physical id of a resource by its logical id in `template.yaml`.
    ///
    /// # Panics
    /// The template has no such resource: the test names something else than the template.
    #[must_use]
    pub fn physical_id(&self, logical: &str) -> &str {
        let found = self.deployment.physical_id(logical);
        assert!(found.is_some(), "template.yaml deployed no {logical}");
        found.unwrap_or_default()
    }

    /// DynamoDB in this region.
    #[must_use]
    pub fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        aws_sdk_dynamodb::Client::new(&self.sdk_config(&self.coordinates.aws_endpoint))
    }

    /// Step Functions in this region.
    #[must_use]
    pub fn step_functions(&self) -> aws_sdk_sfn::Client {
        aws_sdk_sfn::Client::new(&self.sdk_config(&self.coordinates.aws_endpoint))
    }

    /// S3 in this region.
    #[must_use]
    pub fn s3(&self) -> aws_sdk_s3::Client {
        aws_sdk_s3::Client::new(&self.sdk_config(&self.coordinates.s3_endpoint))
    }

    fn sdk_config(&self, endpoint: &str) -> SdkConfig {
        let credentials = Credentials::new("test", "test", None, None, "local stack");
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(self.deployment.region.clone()))
            .endpoint_url(endpoint)
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .build()
    }

    /// Processes that now stand for a function, by its logical id: one for each
    /// concurrent invocation, kept warm afterwards. To kill one is to end its
    /// invocation with `Runtime.ExitError`.
    ///
    /// # Errors
    /// `/proc` can't be listed.
    ///
    /// # Panics
    /// The template has no such function.
    pub fn function_processes(&self, logical: &str) -> std::io::Result<Vec<u32>> {
        let name = format!("AWS_LAMBDA_FUNCTION_NAME={}", self.physical_id(logical));
        let region = format!("AWS_REGION={}", self.deployment.region);
        let endpoint = format!("AWS_ENDPOINT_URL={}", self.coordinates.aws_endpoint);
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A process may end between the listing and the read; others' are unreadable.
            let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
            let has = |wanted: &str| environment.split(|byte| *byte == 0).any(|one| one == wanted.as_bytes());
            if has(&name) && has(&region) && has(&endpoint) {
                found.push(pid);
            }
        }
        Ok(found)
    }

    /// Kills every process of a function at once (SIGKILL) and says how many.
    ///
    /// # Errors
    /// `/proc` can't be listed.
    ///
    /// # Panics
    /// The template has no such function.
    pub fn kill_function(&self, logical: &str) -> std::io::Result<usize> {
        let processes = self.function_processes(logical)?;
        Ok(processes.into_iter().filter(|pid| Self::kill_process(*pid)).count())
    }

    /// Kills one process of a function (SIGKILL); whether it was there.
    #[must_use]
    pub fn kill_process(pid: u32) -> bool {
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        let gone = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
        matches!(gone, Some(Ok(())))
    }
}
