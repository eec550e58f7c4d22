//! What the operator decides, read once from the environment.
//!
//! Goal: nothing after cold start looks at the environment; each function has a
//! struct with exactly what it needs. [`VARIABLES`] is the one list of names,
//! held by tests against the table of docs/deployment.md and template.yaml.
//!
//! Invariants:
//! - A variable that is missing or can't be read stops the function with its name.
//! - An empty value is a value not given: templates can't leave variables out.
//! - The development identity never starts against AWS itself.

mod variables;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use image_tasks_domain::GlanceEndpoints;
use image_tasks_domain::address::AddressPolicy;
use image_tasks_domain::export_input::ExportPolicy;
use image_tasks_domain::import_input::OutputFormat;
use image_tasks_domain::regions::Regions;
use image_tasks_domain::source::{SourcePolicy, is_bucket_name};
use url::{Host, Url};

use crate::step_functions::StateMachines;

pub use self::variables::{Function, VARIABLES, Variable};

/// A variable that is missing or can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not given.
    #[error("environment variable {0} is not set")]
    Missing(&'static str),
    /// Given, but not usable.
    #[error("environment variable {name} is '{value}', but {problem}")]
    Invalid {
        /// Which.
        name: &'static str,
        /// As given.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// How callers are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Tokens of a Keystone.
    Keystone {
        /// Its URL, without `/v3` and without a slash at its end.
        url: String,
        /// How long what it said of a token counts.
        cache: Duration,
    },
    /// API Gateway's IAM authorizer.
    Iam {
        /// Parameter that maps principals to projects; `None`: the account is the one project.
        projects: Option<String>,
    },
    /// The caller says who it is; on a developer's machine only.
    Development,
}

/// Where tasks and images are, which every function needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stores {
    /// DynamoDB table of tasks.
    pub tasks_table: String,
    /// DynamoDB table of images.
    pub images_table: String,
    /// Bucket of image objects.
    pub images_bucket: String,
    /// From a task's end to its expiry.
    pub task_ttl: Duration,
    /// Namespace of metrics; `None`: there are none.
    pub metrics_namespace: Option<String>,
    /// Endpoint that replaces S3's own, if one is configured: emulators want the bucket in the path.
    pub s3_endpoint: Option<String>,
}

/// What the api function is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiConfig {
    /// Where tasks and images are.
    pub stores: Stores,
    /// State machines of tasks.
    pub machines: StateMachines,
    /// Scheme and host that clients see; `None`: as the request has them.
    pub public_endpoint: Option<String>,
    /// How callers are known.
    pub identity: Identity,
    /// Which sources are allowed.
    pub sources: SourcePolicy,
    /// Where exports may go.
    pub receivers: ExportPolicy,
    /// The regions of this cloud.
    pub regions: Regions,
    /// The Glances elsewhere that images may be copied from.
    pub glances: GlanceEndpoints,
    /// DynamoDB table of callers' tokens.
    pub credentials_table: String,
    /// Bucket where uploads wait.
    pub work_bucket: String,
    /// Largest image, bytes.
    pub max_image_bytes: u64,
    /// Most images of a project.
    pub images_per_project: usize,
}

/// What the clone function is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneConfig {
    /// Where tasks and images are.
    pub stores: Stores,
    /// Bucket of plans and spooled sources.
    pub work_bucket: String,
    /// The regions of this cloud.
    pub regions: Regions,
    /// The Glances elsewhere that images may be copied from.
    pub glances: GlanceEndpoints,
    /// DynamoDB table of callers' tokens.
    pub credentials_table: String,
    /// Which addresses may be connected to.
    pub addresses: AddressPolicy,
    /// Largest image, bytes.
    pub max_image_bytes: u64,
    /// How long a source whose server is busy is waited for.
    pub source_wait: Duration,
    /// Authorities that are trusted of sources beside the public ones, in PEM; may be empty.
    pub source_ca: String,
}

/// What the export function is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportConfig {
    /// Where tasks and images are.
    pub stores: Stores,
    /// Bucket of plans and blobs' indexes.
    pub work_bucket: String,
    /// Where exports may go.
    pub receivers: ExportPolicy,
}

/// What the import function is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportConfig {
    /// Where tasks and images are.
    pub stores: Stores,
    /// Bucket of plans and spooled sources.
    pub work_bucket: String,
    /// Which sources are allowed.
    pub sources: SourcePolicy,
    /// Largest image, bytes.
    pub max_image_bytes: u64,
    /// Images up to this many bytes become active with their hashes.
    pub hash_before_active: u64,
    /// Format that disks are stored in where nobody asks for one.
    pub output: OutputFormat,
    /// DynamoDB table of callers' tokens.
    pub credentials_table: String,
    /// How long a source whose server is busy is waited for.
    pub source_wait: Duration,
    /// Authorities that are trusted of sources beside the public ones, in PEM; may be empty.
    pub source_ca: String,
}

/// What the lifecycle function is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LifecycleConfig {
    /// Where tasks and images are.
    pub stores: Stores,
    /// Bucket of plans and spooled sources.
    pub work_bucket: String,
    /// DynamoDB table of callers' tokens.
    pub credentials_table: String,
    /// State machines of tasks.
    pub machines: StateMachines,
    /// Where exports may go.
    pub exports: ExportPolicy,
}

impl ApiConfig {
    /// From the environment.
    ///
    /// # Errors
    /// The first variable that is missing or can't be used.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::read(&environment)
    }

    fn read(env: Env<'_>) -> Result<Self, ConfigError> {
        let public = text(env, "PUBLIC_ENDPOINT")?;
        if !public.is_empty() && !is_origin(&public) {
            return Err(invalid("PUBLIC_ENDPOINT", &public, "it must be http(s)://host[:port] and no more"));
        }
        Ok(Self {
            stores: stores(env)?,
            machines: machines(env)?,
            public_endpoint: Some(public).filter(|p| !p.is_empty()),
            identity: identity(env)?,
            sources: sources(env)?,
            receivers: receivers(env)?,
            regions: regions(env)?,
            glances: glances(env)?,
            credentials_table: text(env, "CREDENTIALS_TABLE")?,
            work_bucket: text(env, "WORK_BUCKET")?,
            max_image_bytes: number(env, "MAX_IMAGE_BYTES")?,
            images_per_project: usize::try_from(number(env, "IMAGES_PER_PROJECT")?).unwrap_or(usize::MAX),
        })
    }
}

impl ImportConfig {
    /// From the environment.
    ///
    /// # Errors
    /// The first variable that is missing or can't be used.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::read(&environment)
    }

    fn read(env: Env<'_>) -> Result<Self, ConfigError> {
        let output = text(env, "IMPORT_OUTPUT_FORMAT")?;
        Ok(Self {
            stores: stores(env)?,
            work_bucket: text(env, "WORK_BUCKET")?,
            sources: sources(env)?,
            max_image_bytes: number(env, "MAX_IMAGE_BYTES")?,
            hash_before_active: number(env, "HASH_BEFORE_ACTIVE_BYTES")?,
            credentials_table: text(env, "CREDENTIALS_TABLE")?,
            source_wait: Duration::from_secs(number(env, "SOURCE_WAIT_SECONDS")?),
            source_ca: text(env, "SOURCE_CA_PEM")?,
            output: OutputFormat::from_name(&output)
                .ok_or_else(|| invalid("IMPORT_OUTPUT_FORMAT", &output, "it must be as-is, raw or qcow2"))?,
        })
    }
}

impl ExportConfig {
    /// From the environment.
    ///
    /// # Errors
    /// The first variable that is missing or can't be used.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::read(&environment)
    }

    fn read(env: Env<'_>) -> Result<Self, ConfigError> {
        Ok(Self { stores: stores(env)?, work_bucket: text(env, "WORK_BUCKET")?, receivers: receivers(env)? })
    }
}

impl CloneConfig {
    /// From the environment.
    ///
    /// # Errors
    /// The first variable that is missing or can't be used.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::read(&environment)
    }

    fn read(env: Env<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            stores: stores(env)?,
            work_bucket: text(env, "WORK_BUCKET")?,
            regions: regions(env)?,
            glances: glances(env)?,
            credentials_table: text(env, "CREDENTIALS_TABLE")?,
            addresses: addresses(env)?,
            max_image_bytes: number(env, "MAX_IMAGE_BYTES")?,
            source_wait: Duration::from_secs(number(env, "SOURCE_WAIT_SECONDS")?),
            source_ca: text(env, "SOURCE_CA_PEM")?,
        })
    }
}

impl LifecycleConfig {
    /// From the environment.
    ///
    /// # Errors
    /// The first variable that is missing or can't be used.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::read(&environment)
    }

    fn read(env: Env<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            stores: stores(env)?,
            work_bucket: text(env, "WORK_BUCKET")?,
            credentials_table: text(env, "CREDENTIALS_TABLE")?,
            machines: machines(env)?,
            exports: receivers(env)?,
        })
    }
}

type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

#[expect(clippy::disallowed_methods, reason = "this is the one place where the environment is read")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn text(env: Env<'_>, name: &'static str) -> Result<String, ConfigError> {
    let given = env(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let default = VARIABLES.iter().find(|v| v.name == name).and_then(|v| v.default);
    given.or(default.map(str::to_owned)).ok_or(ConfigError::Missing(name))
}

fn number(env: Env<'_>, name: &'static str) -> Result<u64, ConfigError> {
    let value = text(env, name)?;
    match value.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(invalid(name, &value, "it must be a whole number above 0")),
    }
}

fn stores(env: Env<'_>) -> Result<Stores, ConfigError> {
    let hours = number(env, "TASK_TTL_HOURS")?;
    let seconds = hours
        .checked_mul(3600)
        .ok_or_else(|| invalid("TASK_TTL_HOURS", &hours.to_string(), "it is too large"))?;
    Ok(Stores {
        tasks_table: text(env, "TASKS_TABLE")?,
        images_table: text(env, "IMAGES_TABLE")?,
        images_bucket: text(env, "IMAGES_BUCKET")?,
        task_ttl: Duration::from_secs(seconds),
        metrics_namespace: Some(text(env, "METRICS_NAMESPACE")?).filter(|name| !name.is_empty()),
        s3_endpoint: endpoint(env, "AWS_ENDPOINT_URL_S3").or_else(|| endpoint(env, "AWS_ENDPOINT_URL")),
    })
}

fn sources(env: Env<'_>) -> Result<SourcePolicy, ConfigError> {
    let listed = text(env, "SOURCE_BUCKETS")?;
    let mut buckets = BTreeSet::new();
    for bucket in items(&listed) {
        if !is_bucket_name(bucket) {
            return Err(invalid("SOURCE_BUCKETS", &listed, &format!("'{bucket}' is not a bucket name")));
        }
        buckets.insert(bucket.to_owned());
    }
    Ok(SourcePolicy { addresses: addresses(env)?, buckets })
}

fn addresses(env: Env<'_>) -> Result<AddressPolicy, ConfigError> {
    let listed = text(env, "SOURCE_ALLOW_NETWORKS")?;
    let mut networks = Vec::new();
    for network in items(&listed) {
        let parsed = network.parse().map_err(|_| {
            invalid(
                "SOURCE_ALLOW_NETWORKS",
                &listed,
                &format!("'{network}' is not a network such as 10.1.0.0/16"),
            )
        })?;
        networks.push(parsed);
    }
    Ok(AddressPolicy::new(networks))
}

fn glances(env: Env<'_>) -> Result<GlanceEndpoints, ConfigError> {
    let listed = text(env, "GLANCE_ENDPOINTS")?;
    GlanceEndpoints::parse(&listed).map_err(|problem| invalid("GLANCE_ENDPOINTS", &listed, &problem))
}

fn identity(env: Env<'_>) -> Result<Identity, ConfigError> {
    let keystone = text(env, "KEYSTONE_URL")?;
    let seconds = text(env, "KEYSTONE_CACHE_SECONDS")?;
    let projects = text(env, "IAM_PROJECTS")?;
    match text(env, "IDENTITY")?.as_str() {
        "keystone" => {
            let cache = seconds.parse().ok().filter(|seconds| *seconds <= 3600).map(Duration::from_secs);
            Ok(Identity::Keystone {
                url: keystone_url(&keystone).map_err(|why| invalid("KEYSTONE_URL", &keystone, why))?,
                cache: cache.ok_or_else(|| {
                    invalid("KEYSTONE_CACHE_SECONDS", &seconds, "it must be a whole number from 0 to 3600")
                })?,
            })
        }
        "iam" => {
            let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'.' | b'-');
            let is_path = projects.starts_with('/') && projects.bytes().all(is_name);
            if !projects.is_empty() && !is_path {
                return Err(invalid(
                    "IAM_PROJECTS",
                    &projects,
                    "it must be a parameter's name such as /images/projects",
                ));
            }
            Ok(Identity::Iam { projects: Some(projects).filter(|name| !name.is_empty()) })
        }
        "development" if is_loopback(&endpoint(env, "AWS_ENDPOINT_URL")) => Ok(Identity::Development),
        value @ "development" => Err(invalid(
            "IDENTITY",
            value,
            "AWS_ENDPOINT_URL is not a loopback address: on AWS, callers must prove who they are",
        )),
        value => Err(invalid("IDENTITY", value, "it must be iam, keystone or development")),
    }
}

/// Where Keystone is, as an operator writes it: `OS_AUTH_URL` often ends with `/v3`.
fn keystone_url(text: &str) -> Result<String, &'static str> {
    const SHAPE: &str = "it must be https://host[:port][/path], with IDENTITY=keystone";
    let url = Url::parse(text).map_err(|_| SHAPE)?;
    let bare = url.username().is_empty() && url.password().is_none();
    if !bare || url.host().is_none() || url.query().is_some() || url.fragment().is_some() {
        return Err(SHAPE);
    }
    match url.scheme() {
        "https" => {}
        // Tokens travel there.
        "http" if is_loopback(&Some(text.to_owned())) => {}
        "http" => return Err("tokens would be sent to it in clear text: it must begin with https://"),
        _ => return Err(SHAPE),
    }
    let base = url.as_str().trim_end_matches('/');
    Ok(base.strip_suffix("/v3").unwrap_or(base).trim_end_matches('/').to_owned())
}

fn machines(env: Env<'_>) -> Result<StateMachines, ConfigError> {
    Ok(StateMachines {
        import: text(env, "IMPORT_STATE_MACHINE_ARN")?,
        export: text(env, "EXPORT_STATE_MACHINE_ARN")?,
        clone: text(env, "CLONE_STATE_MACHINE_ARN")?,
    })
}

/// Lambda says where it runs (Lambda developer guide, "Defined runtime environment variables").
fn regions(env: Env<'_>) -> Result<Regions, ConfigError> {
    let here = text(env, "AWS_REGION")?;
    let listed = text(env, "REGIONS")?;
    Regions::from_json(here, &listed).map_err(|problem| invalid("REGIONS", &listed, &problem))
}

fn receivers(env: Env<'_>) -> Result<ExportPolicy, ConfigError> {
    let listed = text(env, "EXPORT_BUCKETS")?;
    let mut buckets = BTreeMap::new();
    for item in items(&listed) {
        let (bucket, region) = match item.split_once('@') {
            Some((bucket, region)) => (bucket, Some(region)),
            None => (item, None),
        };
        let is_region = |region: &str| {
            !region.is_empty()
                && region.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        };
        if !is_bucket_name(bucket) || region.is_some_and(|region| !is_region(region)) {
            return Err(invalid(
                "EXPORT_BUCKETS",
                &listed,
                &format!("'{item}' is neither bucket nor bucket@region"),
            ));
        }
        buckets.insert(bucket.to_owned(), region.map(str::to_owned));
    }
    Ok(ExportPolicy { buckets })
}

fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn endpoint(env: Env<'_>, name: &str) -> Option<String> {
    env(name).filter(|value| !value.is_empty())
}

fn is_loopback(endpoint: &Option<String>) -> bool {
    let Some(url) = endpoint.as_deref().and_then(|text| Url::parse(text).ok()) else { return false };
    match url.host() {
        Some(Host::Ipv4(ip)) => IpAddr::from(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::from(ip).is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn is_origin(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == text
    })
}

pub(crate) fn invalid(name: &'static str, value: &str, problem: &str) -> ConfigError {
    ConfigError::Invalid { name, value: value.to_owned(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests;
