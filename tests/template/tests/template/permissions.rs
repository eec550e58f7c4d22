//! No emulator enforces IAM, so these tests do what they can: each role names its actions and resources.

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
            let own = [
                "Fn::GetAtt",
                "${AWS::StackName}",
                ".Arn}",
                "SourceBuckets",
                "ExportBuckets",
                "CloneSourceTableArns",
                "SourceKeyArns",
                "ExportKeyArns",
                "${IamProjects}",
            ]
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
                let own = ["${WorkBucket.Arn}/work/*", "${WorkBucket.Arn}/staging/*"];
                assert!(own.contains(&text), "{owner}: {text}");
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
        .filter(|(_, t)| t["GlobalSecondaryIndexes"].is_array())
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

/// What the API does with uploads; a part's URL carries it.
const STAGING: &[&str] = &[
    "s3:GetObject",
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
];

#[test]
fn the_api_deletes_images_and_their_records_and_writes_uploads_alone() {
    let template = Template::load();
    let statements = list(template.at("/Resources/ApiRole/Properties/Policies/0/PolicyDocument/Statement"));
    let mut found = BTreeSet::new();
    for statement in statements {
        for action in actions(statement).into_iter().filter(|action| action.starts_with("s3:")) {
            let (own, below): (&[_], _) = match statement["Sid"].as_str() {
                Some("Staging") => (STAGING, "${WorkBucket.Arn}/staging/*"),
                _ => (&["s3:GetObject", "s3:DeleteObject"], "${ImagesBucket.Arn}/images/*"),
            };
            assert!(own.contains(&action), "{action}");
            assert_eq!(statement["Resource"], json!({"Fn::Sub": below}), "{action}");
            found.insert(action);
        }
        if statement["Sid"] == "Images" {
            assert_eq!(statement["Resource"], json!({"Fn::GetAtt": "ImagesTable.Arn"}));
            assert!(actions(statement).contains(&"dynamodb:DeleteItem"));
        }
    }
    assert_eq!(found, BTreeSet::from_iter(STAGING.iter().copied()));
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
fn every_route_but_discovery_asks_who_calls() {
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
    let unserved = ["v1", "v1.0", "v1.1", "v3"].map(|version| format!("GET /{version}/{{proxy+}}"));
    let mut discovery = BTreeSet::from(["GET /", "GET /{version}", "GET /v2/openapi.json"]);
    discovery.extend(unserved.iter().map(String::as_str));
    assert_eq!(open, discovery);
    assert_eq!(
        *template.at("/Conditions/IamIdentity"),
        json!({ "Fn::Equals": [{ "Ref": "Identity" }, "iam"] })
    );
    // With any other identity the function alone asks.
    assert_eq!(template.at("/Parameters/Identity/Default"), "iam");
    assert_eq!(*template.at("/Parameters/Identity/AllowedValues"), json!(["iam", "keystone", "development"]));
}

#[test]
fn the_api_reads_the_one_parameter_that_maps_principals_where_there_is_one() {
    let template = Template::load();
    let policy = template.at("/Resources/ApiProjectsPolicy/Properties");
    assert_eq!(policy["Roles"], json!([{ "Ref": "ApiRole" }]));
    let statements = list(&policy["PolicyDocument"]["Statement"]);
    assert_eq!(statements.len(), 1);
    assert_eq!(actions(statements[0]), ["ssm:GetParameter"]);
    let arn = "arn:${AWS::Partition}:ssm:${AWS::Region}:${AWS::AccountId}:parameter${IamProjects}";
    assert_eq!(statements[0]["Resource"], json!({ "Fn::Sub": arn }));
    // A name begins with a slash, and holds nothing that IAM reads as a pattern.
    let pattern = template.at("/Parameters/IamProjects/AllowedPattern");
    assert_eq!(*pattern, "^((/[A-Za-z0-9_.-]+)+)?$");
    assert_eq!(*template.at("/Resources/ApiProjectsPolicy/Condition"), "HasIamProjects");
    let given = json!({ "Fn::Not": [{ "Fn::Equals": [{ "Ref": "IamProjects" }, ""] }] });
    assert_eq!(
        *template.at("/Conditions/HasIamProjects"),
        json!({ "Fn::And": [{ "Condition": "IamIdentity" }, given] })
    );
    let reading: Vec<_> = allowed(&template)
        .into_iter()
        .filter(|(_, statement)| actions(statement).iter().any(|action| action.starts_with("ssm:")))
        .map(|(owner, _)| owner)
        .collect();
    assert_eq!(reading, ["ApiProjectsPolicy"]);
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

/// What an intrinsic function gives with these parameters.
fn resolved(value: &Value, parameters: &[(&str, &str)]) -> Value {
    let text = |value: &Value| resolved(value, parameters).as_str().expect("a text").to_owned();
    let Value::Object(map) = value else {
        return value.as_array().map_or_else(
            || value.clone(),
            |items| items.iter().map(|item| resolved(item, parameters)).collect(),
        );
    };
    let (function, argument) = map.iter().next().expect("an intrinsic function");
    match function.as_str() {
        "Ref" => {
            let (_, given) = parameters.iter().find(|(name, _)| argument == name).expect("a parameter");
            json!(given)
        }
        "Fn::Split" => text(&argument[1]).split(argument[0].as_str().unwrap()).collect::<Vec<_>>().into(),
        "Fn::Join" => {
            let items = resolved(&argument[1], parameters);
            let items: Vec<_> = list(&items).into_iter().map(|item| item.as_str().unwrap()).collect();
            json!(items.join(argument[0].as_str().unwrap()))
        }
        "Fn::Sub" => {
            let given = argument[1].as_object().expect("names and values");
            let whole = argument[0].as_str().unwrap().to_owned();
            json!(given.iter().fold(whole, |t, (name, v)| t.replace(&format!("${{{name}}}"), &text(v))))
        }
        other => unreachable!("{other}"),
    }
}

/// Sid and resources of each statement of a policy.
fn resources(template: &Template, policy: &str, parameters: &[(&str, &str)]) -> Vec<(String, Value)> {
    let statements = template.at(&format!("/Resources/{policy}/Properties/PolicyDocument/Statement"));
    list(statements)
        .into_iter()
        .map(|s| (s["Sid"].as_str().unwrap().to_owned(), resolved(&s["Resource"], parameters)))
        .collect()
}

#[test]
fn other_regions_are_read_below_images_and_nothing_else() {
    let template = Template::load();
    let tables =
        "arn:aws:dynamodb:eu-west-1:123456789012:table/a,arn:aws:dynamodb:us-east-1:123456789012:table/b";
    let parameters = [("CloneSourceBuckets", "images-a,images-b"), ("CloneSourceTableArns", tables)];
    assert_eq!(
        resources(&template, "CloneSourceBucketsPolicy", &parameters),
        [
            (
                "ReadImages".to_owned(),
                json!(["arn:aws:s3:::images-a/images/*", "arn:aws:s3:::images-b/images/*"])
            ),
            ("MissingImages".to_owned(), json!(["arn:aws:s3:::images-a", "arn:aws:s3:::images-b"])),
        ]
    );
    assert_eq!(
        resources(&template, "CloneSourceTablesPolicy", &parameters),
        [("ReadRecords".to_owned(), json!(tables.split(',').collect::<Vec<_>>()))]
    );
    let mut seen = 0;
    for (id, policy) in template.resources("AWS::IAM::Policy") {
        if !policy.to_string().contains("CloneSource") {
            continue;
        }
        assert_eq!(policy["Roles"], json!([{ "Ref": "CloneRole" }]), "{id}");
        for statement in list(&policy["PolicyDocument"]["Statement"]) {
            for action in actions(statement) {
                assert!(
                    ["s3:GetObject", "s3:ListBucket", "dynamodb:GetItem"].contains(&action),
                    "{id}: {action}"
                );
                seen += 1;
            }
        }
        // An empty list would be a statement without resources, which IAM refuses.
        let condition = template.at(&format!("/Resources/{id}/Condition")).as_str().expect(id);
        let held = template.at(&format!("/Conditions/{condition}")).to_string();
        let parameter =
            parameters.iter().find(|(name, _)| held.contains(name)).expect("a condition on the list");
        assert!(policy.to_string().contains(parameter.0), "{id}");
        assert_eq!(
            template.at(&format!("/Parameters/{}/Default", parameter.0)),
            "",
            "no other region by default"
        );
    }
    assert_eq!(seen, 3);
    assert_eq!(template.at("/Parameters/Regions/Default"), "");
    // Nobody but the clone function reads elsewhere.
    for (id, role) in template.resources(ROLE) {
        assert!(!role.to_string().contains("CloneSource"), "{id}");
    }
}

#[test]
fn lists_of_buckets_become_resources() {
    let template = Template::load();
    for (policy, parameter) in [
        ("ImportSourcesPolicy", "SourceBuckets"),
        ("ExportReceiversPolicy", "ExportBuckets"),
        ("LifecycleReceiversPolicy", "ExportBuckets"),
    ] {
        let found = resources(&template, policy, &[(parameter, "one,two")]);
        let found: Vec<_> = found.into_iter().map(|(_, resources)| resources).collect();
        assert_eq!(
            found,
            [
                json!(["arn:aws:s3:::one/*", "arn:aws:s3:::two/*"]),
                json!(["arn:aws:s3:::one", "arn:aws:s3:::two"])
            ],
            "{policy}"
        );
    }
}

#[test]
fn keys_are_used_through_s3_by_who_needs_them_and_only_where_they_are_named() {
    let template = Template::load();
    let keys = "arn:aws:kms:eu-west-1:123456789012:key/a,arn:aws:kms:eu-west-1:210987654321:key/b";
    let expected = [
        ("ImportSourceKeysPolicy", "ImportRole", "SourceKeyArns", "HasSourceKeys", vec!["kms:Decrypt"]),
        (
            "ExportReceiverKeysPolicy",
            "ExportRole",
            "ExportKeyArns",
            "HasExportKeys",
            vec!["kms:GenerateDataKey", "kms:Decrypt"],
        ),
    ];
    for (policy, role, parameter, condition, allowed) in &expected {
        let found = resources(&template, policy, &[(parameter, keys)]);
        assert_eq!(found, [("ThroughS3".to_owned(), json!(keys.split(',').collect::<Vec<_>>()))]);
        let properties = template.at(&format!("/Resources/{policy}/Properties"));
        assert_eq!(properties["Roles"], json!([{ "Ref": role }]));
        let statement = &properties["PolicyDocument"]["Statement"][0];
        assert_eq!(actions(statement), *allowed);
        assert_eq!(
            statement["Condition"],
            json!({ "StringLike": { "kms:ViaService": "s3.*.amazonaws.com" } })
        );
        // Without a key there is no policy: IAM refuses a statement without resources.
        assert_eq!(*template.at(&format!("/Resources/{policy}/Condition")), json!(condition));
        let held = json!({ "Fn::Not": [{ "Fn::Equals": [{ "Ref": parameter }, ""] }] });
        assert_eq!(*template.at(&format!("/Conditions/{condition}")), held);
        assert_eq!(template.at(&format!("/Parameters/{parameter}/Default")), "");
    }
    let using: Vec<_> = allowed(&template)
        .into_iter()
        .filter(|(_, statement)| actions(statement).iter().any(|action| action.starts_with("kms:")))
        .map(|(owner, _)| owner)
        .collect();
    assert_eq!(using, ["ExportReceiverKeysPolicy", "ImportSourceKeysPolicy"]);
}
