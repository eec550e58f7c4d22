//! No emulator enforces IAM, so these tests do what they can: each role names its actions and resources.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeSet;

use serde_json::{Value, json};
use template_tests::Template;

const ROLE: &str = "AWS::IAM::Role";

/// Actions that know no resources (Service Authorization Reference, X-Ray and
/// CloudWatch Logs; Step Functions developer guide, "Using CloudWatch Logs").
const WITHOUT_RESOURCES: &[&str] = &[
    "xray:PutTraceSegments",
    "xray:PutTelemetryRecords",
    "xray:GetSamplingRules",
    "xray:GetSamplingTargets",
    "logs:CreateLogDelivery",
    "logs:GetLogDelivery",
    "logs:UpdateLogDelivery",
    "logs:DeleteLogDelivery",
    "logs:ListLogDeliveries",
    "logs:PutResourcePolicy",
    "logs:DescribeResourcePolicies",
    "logs:DescribeLogGroups",
];

fn list(value: &Value) -> Vec<&Value> {
    value.as_array().map_or_else(|| vec![value], |items| items.iter().collect())
}

/// Owner and body of every statement that allows something to a role.
fn allowed(template: &Template) -> Vec<(&str, &Value)> {
    let inline = template
        .resources(ROLE)
        .flat_map(|(id, role)| list(&role["Policies"]).into_iter().map(move |p| (id, &p["PolicyDocument"])));
    let attached = template.resources("AWS::IAM::Policy").map(|(id, policy)| (id, &policy["PolicyDocument"]));
    let statements: Vec<_> = inline
        .chain(attached)
        .flat_map(|(id, document)| list(&document["Statement"]).into_iter().map(move |s| (id, s)))
        .collect();
    assert!(statements.len() > 20, "only {} statements found", statements.len());
    assert!(statements.iter().all(|(_, s)| s["Effect"] == "Allow"));
    statements
}

fn actions(statement: &Value) -> Vec<&str> {
    list(&statement["Action"]).into_iter().map(|a| a.as_str().expect("an action is a string")).collect()
}

#[test]
fn no_action_is_a_pattern() {
    let template = Template::load();
    for (owner, statement) in allowed(&template) {
        for action in actions(statement) {
            assert!(!action.contains('*'), "{owner}: {action}");
            assert!(
                statement.get("NotAction").is_none() && statement.get("NotResource").is_none(),
                "{owner}"
            );
        }
    }
}

#[test]
fn every_resource_is_named_but_where_aws_has_none_to_name() {
    let template = Template::load();
    for (owner, statement) in allowed(&template) {
        if list(&statement["Resource"]).contains(&&json!("*")) {
            for action in actions(statement) {
                assert!(WITHOUT_RESOURCES.contains(&action), "{owner}: {action} on every resource");
            }
        }
        for resource in list(&statement["Resource"]) {
            let text = resource.to_string();
            let own = ["Fn::GetAtt", "${AWS::StackName}", ".Arn}", "SourceBuckets", "ExportBuckets"]
                .iter()
                .any(|p| text.contains(p));
            assert!(own || resource == "*", "{owner}: {text} names nothing of this stack");
        }
    }
}

#[test]
fn objects_are_reached_below_their_own_prefix_only() {
    let template = Template::load();
    for (owner, statement) in allowed(&template) {
        for resource in list(&statement["Resource"]) {
            let Some(text) = resource["Fn::Sub"].as_str() else { continue };
            if text.starts_with("${ImagesBucket") {
                assert_eq!(text, "${ImagesBucket.Arn}/images/*", "{owner}");
            }
            if text.starts_with("${WorkBucket") {
                assert_eq!(text, "${WorkBucket.Arn}/work/*", "{owner}");
            }
        }
    }
}

#[test]
fn index_permissions_name_indexes_that_exist() {
    let template = Template::load();
    let mut named = BTreeSet::new();
    for (owner, statement) in allowed(&template) {
        for resource in list(&statement["Resource"]) {
            let Some((table, index)) =
                resource["Fn::Sub"].as_str().and_then(|t| t.split_once(".Arn}/index/"))
            else {
                continue;
            };
            let table = table.trim_start_matches("${");
            let indexes = template.at(&format!("/Resources/{table}/Properties/GlobalSecondaryIndexes"));
            assert!(list(indexes).iter().any(|i| i["IndexName"] == index), "{owner}: {table} has no {index}");
            assert_eq!(actions(statement), ["dynamodb:Query"], "{owner}: an index is only queried");
            named.insert((table, index));
        }
    }
    let all: BTreeSet<_> = template
        .resources("AWS::DynamoDB::Table")
        .flat_map(|(id, t)| {
            list(&t["GlobalSecondaryIndexes"])
                .into_iter()
                .map(move |i| (id, i["IndexName"].as_str().unwrap()))
        })
        .collect();
    assert_eq!(named, all, "an index that nobody may query");
}

#[test]
fn nobody_scans_a_table() {
    let template = Template::load();
    for (owner, statement) in allowed(&template) {
        assert!(!actions(statement).contains(&"dynamodb:Scan"), "{owner}");
    }
}

#[test]
fn each_function_has_a_role_of_its_own() {
    let template = Template::load();
    let mut roles = BTreeSet::new();
    for (id, function) in template.resources("AWS::Serverless::Function") {
        let role = function["Role"]["Fn::GetAtt"].as_str().unwrap_or_else(|| panic!("{id} has no role"));
        assert!(roles.insert(role), "{role} is shared");
        assert!(function.get("Policies").is_none(), "{id}: permissions belong to the role");
    }
    for (id, role) in template.resources(ROLE) {
        assert!(role.get("ManagedPolicyArns").is_none(), "{id}: AWS's own policies are wider than needed");
        for statement in list(&role["AssumeRolePolicyDocument"]["Statement"]) {
            let principal = statement["Principal"]["Service"].as_str().expect("one service");
            assert!(["lambda.amazonaws.com", "states.amazonaws.com"].contains(&principal), "{id}");
        }
    }
}

#[test]
fn functions_are_invoked_by_named_sources_only() {
    let template = Template::load();
    let permissions: Vec<_> = template.resources("AWS::Lambda::Permission").collect();
    assert!(!permissions.is_empty());
    for (id, permission) in permissions {
        assert_eq!(permission["Action"], "lambda:InvokeFunction", "{id}");
        assert!(permission["SourceArn"].is_object(), "{id} lets any resource of the service in");
    }
}

#[test]
fn every_route_but_the_versions_document_asks_who_calls() {
    let template = Template::load();
    let mut open = BTreeSet::new();
    for (id, route) in template.resources("AWS::ApiGatewayV2::Route") {
        let key = route["RouteKey"].as_str().unwrap();
        match &route["AuthorizationType"] {
            Value::String(kind) if kind == "NONE" => {
                open.insert(key);
            }
            other => assert_eq!(*other, json!({ "Fn::If": ["IamIdentity", "AWS_IAM", "NONE"] }), "{id}"),
        }
    }
    assert_eq!(open, BTreeSet::from(["GET /", "GET /versions"]));
    assert_eq!(
        *template.at("/Conditions/IamIdentity"),
        json!({ "Fn::Equals": [{ "Ref": "Identity" }, "iam"] })
    );
    assert_eq!(template.at("/Parameters/Identity/Default"), "iam");
}

#[test]
fn resource_policies_allow_nobody_but_services_of_this_stack() {
    let template = Template::load();
    for kind in ["AWS::SQS::QueuePolicy", "AWS::S3::BucketPolicy"] {
        for (id, policy) in template.resources(kind) {
            for statement in list(&policy["PolicyDocument"]["Statement"]) {
                if statement["Effect"] == "Allow" {
                    assert!(statement["Principal"]["Service"].is_string(), "{id}");
                    assert!(statement["Condition"]["ArnEquals"]["aws:SourceArn"].is_object(), "{id}");
                }
            }
        }
    }
}
