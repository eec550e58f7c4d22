//! The configuration against the environment and against docs/deployment.md.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::Function::{Api, Export, Import, Lifecycle};
use super::variables::ALL;
use super::*;

/// Enough for every function.
fn given() -> BTreeMap<&'static str, &'static str> {
    [
        ("TASKS_TABLE", "tasks"),
        ("IMAGES_TABLE", "images"),
        ("IMAGES_BUCKET", "images-bucket"),
        ("WORK_BUCKET", "work-bucket"),
        ("CREDENTIALS_TABLE", "credentials"),
        ("IMPORT_STATE_MACHINE_ARN", "arn:aws:states:eu-west-1:1:stateMachine:import"),
        ("EXPORT_STATE_MACHINE_ARN", "arn:aws:states:eu-west-1:1:stateMachine:export"),
        ("CLONE_STATE_MACHINE_ARN", "arn:aws:states:eu-west-1:1:stateMachine:clone"),
        ("AWS_REGION", "us-east-1"),
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
            Function::Clone => drop(CloneConfig::read(&env).unwrap()),
            Lifecycle => drop(LifecycleConfig::read(&env).unwrap()),
        }
        let listed: BTreeSet<_> =
            VARIABLES.iter().filter(|v| v.functions.contains(function)).map(|v| v.name.to_owned()).collect();
        let asked: BTreeSet<_> = asked.take().into_iter().filter(|n| !n.starts_with("AWS_")).collect();
        assert_eq!(asked, listed, "{function:?}");
    }
}

#[test]
fn the_document_has_the_same_table() {
    let document = include_str!("../../../../docs/deployment.md");
    let section = document.split("\n## ").find(|s| s.starts_with("Configuration")).unwrap();
    let rows: Vec<String> = section.lines().filter(|l| l.starts_with("| `")).map(str::to_owned).collect();
    let expected: Vec<String> = VARIABLES
        .iter()
        .map(|v| {
            let names: Vec<_> = v.functions.iter().map(|f| format!("{f:?}").to_lowercase()).collect();
            let functions = if v.functions.len() == ALL.len() { "all".to_owned() } else { names.join(", ") };
            let default = match (v.name, v.default) {
                ("MAX_IMAGE_BYTES", Some("1099511627776")) => "1 TiB".to_owned(),
                ("HASH_BEFORE_ACTIVE_BYTES", Some("137438953472")) => "128 GiB".to_owned(),
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
        assert_eq!(CloneConfig::read(&env).err(), wanted(Function::Clone).then(|| missing.clone()));
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
        ("IAM_PROJECTS", "projects"),
        ("IAM_PROJECTS", "/projects?"),
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
fn the_output_format_is_one_of_three() {
    let read = |value: &'static str| {
        let mut all = given();
        all.insert("IMPORT_OUTPUT_FORMAT", value);
        ImportConfig::read(&|name| all.get(name).map(|v| (*v).to_owned())).map(|config| config.output)
    };
    assert_eq!(read(""), Ok(OutputFormat::AsIs));
    for format in OutputFormat::ALL {
        assert_eq!(read(format.name()), Ok(format));
    }
    for value in ["vmdk", "RAW", "as_is"] {
        assert!(read(value).is_err_and(|e| e.to_string().contains("as-is, raw or qcow2")), "{value}");
    }
}

#[test]
fn regions_are_read_and_what_is_wrong_with_them_is_told() {
    assert_eq!(api(&[]).unwrap().regions.names(), ["us-east-1"]);
    let one = r#"[{"region":"eu-west-1","endpoint":"https://eu.example.com","images_bucket":"images-eu","images_table":"images"}]"#;
    assert_eq!(api(&[("REGIONS", one)]).unwrap().regions.names(), ["us-east-1", "eu-west-1"]);
    let (no_list, no_table) = (one.trim_matches(['[', ']']), one.replace("\"images\"", "\"no table\""));
    for (value, told) in [
        (no_list, "it is no list of regions"),
        (no_table.as_str(), "the images_table of eu-west-1 is neither"),
    ] {
        let mut all = given();
        all.insert("REGIONS", value);
        let refused = ApiConfig::read(&|name| all.get(name).map(|v| (*v).to_owned())).unwrap_err();
        let text = refused.to_string();
        assert!(text.starts_with("environment variable REGIONS is '"), "{text}");
        assert!(text.contains(told), "{text}");
    }
}

#[test]
fn glances_elsewhere_are_endpoints() {
    assert_eq!(api(&[]).unwrap().glances.urls().count(), 0);
    let two = api(&[("GLANCE_ENDPOINTS", "https://a.example:9292/, https://b.example/image")]).unwrap();
    assert_eq!(two.glances.urls().collect::<Vec<_>>(), ["https://a.example:9292", "https://b.example/image"]);
    let refused = api(&[("GLANCE_ENDPOINTS", "a.example")]).unwrap_err().to_string();
    assert!(refused.starts_with("environment variable GLANCE_ENDPOINTS is 'a.example', but "), "{refused}");
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
        assert!(api(&[("IDENTITY", "development"), ("AWS_ENDPOINT_URL", endpoint)]).is_err(), "{endpoint}");
    }
    assert!(api(&[("IDENTITY", "development")]).is_err());
}

#[test]
fn keystone_is_named_by_a_url_that_tokens_can_be_sent_to() {
    let keystone = |url: &'static str, seconds: &'static str| {
        let vars = [("IDENTITY", "keystone"), ("KEYSTONE_URL", url), ("KEYSTONE_CACHE_SECONDS", seconds)];
        api(&vars).map(|config| config.identity)
    };
    for (given, read) in [
        ("https://keystone.example.org:5000", "https://keystone.example.org:5000"),
        ("https://keystone.example.org:5000/v3", "https://keystone.example.org:5000"),
        ("https://cloud.example.org/identity/v3/", "https://cloud.example.org/identity"),
        ("http://127.0.0.1:5000/", "http://127.0.0.1:5000"),
    ] {
        let cache = Duration::from_secs(60);
        assert_eq!(keystone(given, ""), Ok(Identity::Keystone { url: read.to_owned(), cache }), "{given}");
    }
    for url in [
        "",
        "keystone.example.org",
        "http://keystone.example.org",
        "https://user@keystone.example.org",
        "https://keystone.example.org?x",
        "https://keystone.example.org#x",
        "ftp://keystone.example.org",
    ] {
        let refused = keystone(url, "").unwrap_err();
        assert!(matches!(refused, ConfigError::Invalid { name: "KEYSTONE_URL", .. }), "{url}: {refused}");
    }
    for seconds in ["-1", "3601", "a minute"] {
        let refused = keystone("https://keystone.example.org", seconds).unwrap_err();
        assert!(refused.to_string().contains("from 0 to 3600"), "{refused}");
    }
    let Ok(Identity::Keystone { cache, .. }) = keystone("https://keystone.example.org", "0") else {
        panic!()
    };
    assert_eq!(cache, Duration::ZERO);
}

#[test]
fn principals_are_mapped_where_a_parameter_is_named() {
    let identity = api(&[("IAM_PROJECTS", "/images/projects")]).unwrap().identity;
    assert_eq!(identity, Identity::Iam { projects: Some("/images/projects".to_owned()) });
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
    assert_eq!(config.identity, Identity::Iam { projects: None });
    assert_eq!(config.public_endpoint, None);
    assert_eq!(config.max_image_bytes, 1 << 40);
    assert_eq!(config.stores.s3_endpoint, None);
    assert_eq!(config.sources.buckets, ["a-1".to_owned(), "b-2".to_owned()].into());
    assert_eq!(config.receivers.region("here"), Ok(None));
    assert_eq!(config.receivers.region("there"), Ok(Some("eu-west-1")));
}
