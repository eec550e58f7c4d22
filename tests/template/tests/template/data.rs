//! Tables, buckets and logs: indexes as the docs name them, nothing public, nothing kept for ever by neglect.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use template_tests::{Docs, StateMachine, Template, code_spans};

const TABLE: &str = "AWS::DynamoDB::Table";
const BUCKET: &str = "AWS::S3::Bucket";

/// Key attributes, then projected ones; `None` projects all.
type Index = (Vec<String>, Option<BTreeSet<String>>);

fn strings(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
}

fn deployed_indexes(template: &Template, table: &str) -> BTreeMap<String, Index> {
    let indexes = template.at(&format!("/Resources/{table}/Properties/GlobalSecondaryIndexes"));
    indexes
        .as_array()
        .unwrap()
        .iter()
        .map(|index| {
            let keys = index["KeySchema"].as_array().unwrap();
            assert_eq!(
                keys.iter().map(|k| k["KeyType"].as_str().unwrap()).collect::<Vec<_>>(),
                ["HASH", "RANGE"]
            );
            let keys = keys.iter().map(|k| k["AttributeName"].as_str().unwrap().to_owned()).collect();
            let projection = &index["Projection"];
            let projected = match projection["ProjectionType"].as_str().unwrap() {
                "ALL" => None,
                "KEYS_ONLY" => Some(BTreeSet::new()),
                "INCLUDE" => Some(strings(&projection["NonKeyAttributes"]).into_iter().collect()),
                other => unreachable!("{other}"),
            };
            (index["IndexName"].as_str().unwrap().to_owned(), (keys, projected))
        })
        .collect()
}

fn attributes(text: &str) -> BTreeSet<String> {
    code_spans(text).iter().flat_map(|span| span.split(", ")).map(str::to_owned).collect()
}

#[test]
fn the_indexes_of_tasks_are_those_of_the_document() {
    let docs = Docs::load();
    let heading = "### Indexes of tasks";
    let shown = docs
        .section(heading)
        .lines()
        .find_map(|line| line.strip_prefix("\"What a list shows\":"))
        .map(attributes)
        .expect("what a list shows");

    let documented: BTreeMap<String, Index> = docs
        .table(heading)
        .iter()
        .map(|row| {
            let keys: Vec<String> = code_spans(row[1]).iter().map(|s| (*s).to_owned()).collect();
            let mut projected = match row[2] {
                "what a list shows" | "same" => shown.clone(),
                own => attributes(own),
            };
            // A key of the index is in it anyway, and must not be named again.
            projected.retain(|attribute| !keys.contains(attribute));
            (code_spans(row[0])[0].to_owned(), (keys, Some(projected)))
        })
        .collect();

    assert_eq!(deployed_indexes(&Template::load(), "TasksTable"), documented);
}

#[test]
fn the_indexes_of_images_are_those_of_the_document() {
    let docs = Docs::load();
    let rows = docs.section("### images").lines().filter(|line| line.starts_with("| `"));
    let documented: BTreeMap<String, Index> = rows
        .map(|row| {
            assert!(row.contains(" | all | "), "{row}");
            let spans = code_spans(row);
            let key = spans[1..3].iter().map(|name| (*name).to_owned()).collect();
            (spans[0].to_owned(), (key, None))
        })
        .collect();
    assert_eq!(deployed_indexes(&Template::load(), "ImagesTable"), documented);
}

#[test]
fn tables_have_the_default_key_are_recoverable_and_on_demand() {
    let template = Template::load();
    for (id, table) in template.resources(TABLE) {
        // The key that AWS owns is free and in nobody's way; one in this account can't be used by another account's clones
        // (DynamoDB developer guide, "Encryption at rest").
        assert!(table["SSESpecification"].is_null(), "{id}");
        // A backup would keep a caller's token long after its task.
        let recoverable = &table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"];
        assert_eq!(*recoverable == true, id != "CredentialsTable", "{id}");
        assert_eq!(table["BillingMode"], "PAY_PER_REQUEST", "{id}");
        assert_eq!(table["KeySchema"], json!([{ "AttributeName": "id", "KeyType": "HASH" }]), "{id}");
    }
    assert_eq!(template.resources(TABLE).count(), 3);
}

#[test]
fn tasks_and_credentials_expire_and_images_do_not() {
    let template = Template::load();
    let docs = Docs::load();
    for (heading, table) in [("### tasks", "TasksTable"), ("### credentials", "CredentialsTable")] {
        let heading = docs.section(heading).lines().next().unwrap();
        let attribute = code_spans(heading).last().copied().unwrap();
        assert_eq!(
            *template.at(&format!("/Resources/{table}/Properties/TimeToLiveSpecification")),
            json!({ "AttributeName": attribute, "Enabled": true })
        );
    }
    assert!(template.at("/Resources/ImagesTable/Properties/TimeToLiveSpecification").is_null());
}

#[test]
fn images_outlive_the_stack() {
    let template = Template::load();
    for id in ["ImagesTable", "ImagesBucket"] {
        assert_eq!(template.at(&format!("/Resources/{id}/DeletionPolicy")), "Retain", "{id}");
        assert_eq!(template.at(&format!("/Resources/{id}/UpdateReplacePolicy")), "Retain", "{id}");
    }
    assert_eq!(template.at("/Resources/ImagesTable/Properties/DeletionProtectionEnabled"), true);
}

#[test]
fn buckets_are_private_encrypted_and_reached_by_tls_only() {
    let template = Template::load();
    for (id, bucket) in template.resources(BUCKET) {
        let block = bucket["PublicAccessBlockConfiguration"].as_object().unwrap();
        assert_eq!(block.len(), 4, "{id}");
        assert!(block.values().all(|on| on == true), "{id}");
        assert_eq!(
            bucket["OwnershipControls"]["Rules"],
            json!([{ "ObjectOwnership": "BucketOwnerEnforced" }]),
            "{id}"
        );
        assert!(bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"].is_array(), "{id}");

        let (_, policy) = template
            .resources("AWS::S3::BucketPolicy")
            .find(|(_, policy)| policy["Bucket"] == json!({ "Ref": id }))
            .expect("a policy");
        let deny = &policy["PolicyDocument"]["Statement"][0];
        assert_eq!(deny["Effect"], "Deny", "{id}");
        assert_eq!(deny["Principal"], "*", "{id}");
        assert_eq!(deny["Condition"], json!({ "Bool": { "aws:SecureTransport": "false" } }), "{id}");
        assert_eq!(
            deny["Resource"],
            json!([{ "Fn::GetAtt": format!("{id}.Arn") }, { "Fn::Sub": format!("${{{id}.Arn}}/*") }])
        );
    }
    assert_eq!(template.resources(BUCKET).count(), 2);
}

#[test]
fn leftovers_go_by_themselves_but_never_under_a_running_execution() {
    const DAY: u64 = 86_400;
    let template = Template::load();
    let mut shortest = u64::MAX;
    for (id, bucket) in template.resources(BUCKET) {
        let rules = bucket["LifecycleConfiguration"]["Rules"].as_array().unwrap();
        assert!(rules.iter().all(|rule| rule["Status"] == "Enabled"), "{id}");
        for rule in rules {
            let abort = rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"].as_u64();
            shortest = shortest.min(abort.expect("uploads are aborted"));
            shortest = shortest.min(rule["ExpirationInDays"].as_u64().unwrap_or(u64::MAX));
        }
        let expiring: Vec<_> = rules
            .iter()
            .filter(|rule| rule["ExpirationInDays"].is_u64())
            .map(|rule| rule["Prefix"].as_str().unwrap())
            .collect();
        let everything = rules.iter().filter(|rule| rule["Prefix"].is_null()).count();
        // A rule without a prefix would give up an upload of a client before its own rule does.
        let expected: (&[_], _) = if id == "WorkBucket" { (&["work/", "staging/"], 0) } else { (&[], 1) };
        assert_eq!((&expiring[..], everything), expected, "{id}");
    }
    for machine in StateMachine::load_all() {
        let timeout = machine.definition["TimeoutSeconds"].as_u64().unwrap();
        assert!(timeout < shortest * DAY, "{}", machine.id);
    }
}

#[test]
fn every_log_has_a_retention_and_every_function_a_log() {
    let template = Template::load();
    for (id, group) in template.resources("AWS::Logs::LogGroup") {
        assert_eq!(group["RetentionInDays"], json!({ "Ref": "LogRetentionDays" }), "{id}");
    }
    for (id, function) in template.resources("AWS::Serverless::Function") {
        let group = function["LoggingConfig"]["LogGroup"]["Ref"].as_str().expect(id);
        assert_eq!(template.at(&format!("/Resources/{group}/Type")), "AWS::Logs::LogGroup", "{id}");
    }
    assert_eq!(template.at("/Globals/Function/LoggingConfig/LogFormat"), "JSON");
}
