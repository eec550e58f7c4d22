//! What the operator decides, read once from the environment.
//!
//! Goal: nothing after cold start looks at the environment; each function has a
//! struct with exactly what it needs. [`VARIABLES`] is the one list of names,
//! held by tests against ARCHITECTURE.md's table and template.yaml.
//!
//! Invariants:
//! - A variable that is missing or can't be read stops the function with its name.
//! - An empty value is a value not given: templates can't leave variables out.
//! - The development identity never starts against AWS itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use image_tasks_domain::address::AddressPolicy;
use image_tasks_domain::export_input::ExportPolicy;
use image_tasks_domain::source::{SourcePolicy, is_bucket_name};
use url::{Host, Url};

use crate::step_functions::StateMachines;

/// A function that reads its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// The HTTP API.
    Api,
    /// The phases of an import.
    Import,
    /// The phases of an export.
    Export,
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

const ALL: &[Function] = &[Api, Import, Export, Lifecycle];

/// Every variable of our own. (`AWS_*` variables are the SDK's.)
pub const VARIABLES: &[Variable] = &[
    Variable { name: "TASKS_TABLE", functions: ALL, meaning: "DynamoDB table of tasks", default: None },
    Variable { name: "IMAGES_TABLE", functions: ALL, meaning: "DynamoDB table of images", default: None },
    Variable { name: "IMAGES_BUCKET", functions: ALL, meaning: "bucket of image objects", default: None },
    Variable {
        name: "WORK_BUCKET",
        functions: &[Import, Export, Lifecycle],
        meaning: "bucket of plans and staged sources",
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
        name: "TASK_TTL_HOURS",
        functions: ALL,
        meaning: "from a task's end to its expiry",
        default: Some("48"),
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
        meaning: "`iam` (API Gateway's IAM authorizer) or `development`",
        default: Some("iam"),
    },
    Variable {
        name: "SOURCE_BUCKETS",
        functions: &[Api, Import],
        meaning: "comma-separated buckets that `s3://` sources may name; empty: none",
        default: Some(""),
    },
    Variable {
        name: "SOURCE_ALLOW_NETWORKS",
        functions: &[Api, Import],
        meaning: "comma-separated CIDRs allowed as HTTP sources on any port, beyond public addresses on 80 and 443",
        default: Some(""),
    },
    Variable {
        name: "EXPORT_BUCKETS",
        functions: &[Api, Export, Lifecycle],
        meaning: "comma-separated buckets that may receive exports, `bucket@region` for one elsewhere; empty: none",
        default: Some(""),
    },
    Variable {
        name: "MAX_IMAGE_BYTES",
        functions: &[Api, Import],
        meaning: "quota of an image's size and virtual size, bytes",
        default: Some("1099511627776"),
    },
];

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// API Gateway's IAM authorizer.
    Iam,
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
    /// Largest image, bytes.
    pub max_image_bytes: u64,
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
    /// Bucket of plans and staged sources.
    pub work_bucket: String,
    /// Which sources are allowed.
    pub sources: SourcePolicy,
    /// Largest image, bytes.
    pub max_image_bytes: u64,
}

/// What the lifecycle function is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LifecycleConfig {
    /// Where tasks and images are.
    pub stores: Stores,
    /// Bucket of plans and staged sources.
    pub work_bucket: String,
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
        let identity = match text(env, "IDENTITY")?.as_str() {
            "iam" => Identity::Iam,
            "development" if is_loopback(&endpoint(env, "AWS_ENDPOINT_URL")) => Identity::Development,
            value @ "development" => {
                return Err(invalid(
                    "IDENTITY",
                    value,
                    "AWS_ENDPOINT_URL is not a loopback address: on AWS, callers must prove who they are",
                ));
            }
            value => return Err(invalid("IDENTITY", value, "it must be iam or development")),
        };
        let public = text(env, "PUBLIC_ENDPOINT")?;
        if !public.is_empty() && !is_origin(&public) {
            return Err(invalid("PUBLIC_ENDPOINT", &public, "it must be http(s)://host[:port] and no more"));
        }
        Ok(Self {
            stores: stores(env)?,
            machines: machines(env)?,
            public_endpoint: Some(public).filter(|p| !p.is_empty()),
            identity,
            sources: sources(env)?,
            receivers: receivers(env)?,
            max_image_bytes: number(env, "MAX_IMAGE_BYTES")?,
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
        Ok(Self {
            stores: stores(env)?,
            work_bucket: text(env, "WORK_BUCKET")?,
            sources: sources(env)?,
            max_image_bytes: number(env, "MAX_IMAGE_BYTES")?,
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
    Ok(SourcePolicy { addresses: AddressPolicy::new(networks), buckets })
}

fn machines(env: Env<'_>) -> Result<StateMachines, ConfigError> {
    Ok(StateMachines {
        import: text(env, "IMPORT_STATE_MACHINE_ARN")?,
        export: text(env, "EXPORT_STATE_MACHINE_ARN")?,
    })
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

fn invalid(name: &'static str, value: &str, problem: &str) -> ConfigError {
    ConfigError::Invalid { name, value: value.to_owned(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use super::*;

    /// Enough for every function.
    fn given() -> BTreeMap<&'static str, &'static str> {
        [
            ("TASKS_TABLE", "tasks"),
            ("IMAGES_TABLE", "images"),
            ("IMAGES_BUCKET", "images-bucket"),
            ("WORK_BUCKET", "work-bucket"),
            ("IMPORT_STATE_MACHINE_ARN", "arn:aws:states:eu-west-1:1:stateMachine:import"),
            ("EXPORT_STATE_MACHINE_ARN", "arn:aws:states:eu-west-1:1:stateMachine:export"),
        ]
        .into()
    }

    fn api(vars: &[(&'static str, &'static str)]) -> Result<ApiConfig, ConfigError> {
        let mut all = given();
        all.extend(vars.iter().copied());
        ApiConfig::read(&|name| all.get(name).map(|v| (*v).to_owned()))
    }

    #[test]
    fn each_function_reads_exactly_the_variables_listed_for_it() {
        for function in ALL {
            let asked = RefCell::new(BTreeSet::new());
            let all = given();
            let env = |name: &str| {
                asked.borrow_mut().insert(name.to_owned());
                all.get(name).map(|v| (*v).to_owned())
            };
            match function {
                Api => drop(ApiConfig::read(&env).unwrap()),
                Import => drop(ImportConfig::read(&env).unwrap()),
                Export => drop(ExportConfig::read(&env).unwrap()),
                Lifecycle => drop(LifecycleConfig::read(&env).unwrap()),
            }
            let listed: BTreeSet<_> = VARIABLES
                .iter()
                .filter(|v| v.functions.contains(function))
                .map(|v| v.name.to_owned())
                .collect();
            let asked: BTreeSet<_> = asked.take().into_iter().filter(|n| !n.starts_with("AWS_")).collect();
            assert_eq!(asked, listed, "{function:?}");
        }
    }

    #[test]
    fn the_document_has_the_same_table() {
        let document = include_str!("../../../ARCHITECTURE.md");
        let section = document.split("\n## ").find(|s| s.starts_with("Configuration")).unwrap();
        let rows: Vec<String> = section.lines().filter(|l| l.starts_with("| `")).map(str::to_owned).collect();
        let expected: Vec<String> = VARIABLES
            .iter()
            .map(|v| {
                let names: Vec<_> = v.functions.iter().map(|f| format!("{f:?}").to_lowercase()).collect();
                let functions =
                    if v.functions.len() == ALL.len() { "all".to_owned() } else { names.join(", ") };
                let default = match (v.name, v.default) {
                    ("MAX_IMAGE_BYTES", Some("1099511627776")) => "1 TiB".to_owned(),
                    (_, None) => "required".to_owned(),
                    (_, Some("")) => "empty".to_owned(),
                    (_, Some(text)) if text.parse::<u64>().is_ok() => text.to_owned(),
                    (_, Some(text)) => format!("`{text}`"),
                };
                format!("| `{}` | {functions} | {} | {default} |", v.name, v.meaning)
            })
            .collect();
        assert_eq!(rows, expected);
    }

    #[test]
    fn missing_variables_are_named() {
        for variable in VARIABLES.iter().filter(|v| v.default.is_none()) {
            let mut all = given();
            all.remove(variable.name);
            let env = |name: &str| all.get(name).map(|v| (*v).to_owned());
            let wanted = |f| variable.functions.contains(&f);
            let missing = ConfigError::Missing(variable.name);
            assert_eq!(ApiConfig::read(&env).err(), wanted(Api).then(|| missing.clone()));
            assert_eq!(ImportConfig::read(&env).err(), wanted(Import).then(|| missing.clone()));
            assert_eq!(ExportConfig::read(&env).err(), wanted(Export).then(|| missing.clone()));
            assert_eq!(LifecycleConfig::read(&env).err(), wanted(Lifecycle).then_some(missing));
        }
    }

    #[test]
    fn values_that_cannot_be_used_are_named() {
        for (name, value) in [
            ("TASK_TTL_HOURS", "0"),
            ("TASK_TTL_HOURS", "two days"),
            ("TASK_TTL_HOURS", "18446744073709551615"),
            ("MAX_IMAGE_BYTES", "-1"),
            ("IDENTITY", "none"),
            ("PUBLIC_ENDPOINT", "https://images.example.com/"),
            ("PUBLIC_ENDPOINT", "images.example.com"),
            ("SOURCE_BUCKETS", "good,Bad"),
            ("EXPORT_BUCKETS", "good,bad@"),
            ("EXPORT_BUCKETS", "good,bad@EU"),
            ("EXPORT_BUCKETS", "Bad@eu-west-1"),
            ("SOURCE_ALLOW_NETWORKS", "10.0.0.0/33"),
            ("SOURCE_ALLOW_NETWORKS", "10.0.0.1"),
        ] {
            match api(&[(name, value)]) {
                Err(ConfigError::Invalid { name: named, .. }) => assert_eq!(named, name),
                other => panic!("{name}={value}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_development_identity_needs_a_loopback_endpoint() {
        for endpoint in ["http://127.0.0.1:4566", "http://localhost:4566", "http://[::1]:4566"] {
            let config = api(&[("IDENTITY", "development"), ("AWS_ENDPOINT_URL", endpoint)]).unwrap();
            assert_eq!(config.identity, Identity::Development);
        }
        for endpoint in
            ["", "https://dynamodb.eu-west-1.amazonaws.com", "http://127.0.0.1.example.com", "nonsense"]
        {
            assert!(
                api(&[("IDENTITY", "development"), ("AWS_ENDPOINT_URL", endpoint)]).is_err(),
                "{endpoint}"
            );
        }
        assert!(api(&[("IDENTITY", "development")]).is_err());
    }

    #[test]
    fn empty_values_are_defaults() {
        let config = api(&[
            ("TASK_TTL_HOURS", ""),
            ("IDENTITY", ""),
            ("SOURCE_BUCKETS", " a-1 , b-2,"),
            ("EXPORT_BUCKETS", "here, there@eu-west-1"),
            ("AWS_ENDPOINT_URL_S3", ""),
        ])
        .unwrap();
        assert_eq!(config.stores.task_ttl, Duration::from_secs(48 * 3600));
        assert_eq!(config.identity, Identity::Iam);
        assert_eq!(config.public_endpoint, None);
        assert_eq!(config.max_image_bytes, 1 << 40);
        assert_eq!(config.stores.s3_endpoint, None);
        assert_eq!(config.sources.buckets, ["a-1".to_owned(), "b-2".to_owned()].into());
        assert_eq!(config.receivers.region("here"), Ok(None));
        assert_eq!(config.receivers.region("there"), Ok(Some("eu-west-1")));
    }
}
