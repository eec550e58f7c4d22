//! What ends badly is seen: by the lifecycle function, then by an operator.

use image_tasks_domain::FailureCode;
use serde_json::{Value, json};
use template_tests::Template;

#[test]
fn every_machine_that_ends_badly_calls_the_lifecycle_function() {
    let template = Template::load();
    let rule = template.at("/Resources/ExecutionEndedRule/Properties");
    let pattern = &rule["EventPattern"];
    assert_eq!(pattern["detail"]["status"], json!(["FAILED", "TIMED_OUT", "ABORTED"]));
    let machines: Vec<Value> =
        template.resources("AWS::Serverless::StateMachine").map(|(id, _)| json!({ "Ref": id })).collect();
    assert_eq!(pattern["detail"]["stateMachineArn"], json!(machines));
    assert_eq!(rule["Targets"][0]["Arn"], json!({ "Fn::GetAtt": "LifecycleFunction.Arn" }));
    assert!(rule["Targets"][0]["DeadLetterConfig"]["Arn"].is_object());
}

#[test]
fn the_sweep_is_scheduled_with_the_input_of_the_sweep() {
    let template = Template::load();
    let rule = template.at("/Resources/SweepRule/Properties");
    assert_eq!(rule["ScheduleExpression"], "rate(5 minutes)");
    let input: Value = serde_json::from_str(rule["Targets"][0]["Input"].as_str().unwrap()).unwrap();
    assert_eq!(input, json!({ "phase": "sweep" }));
}

#[test]
fn a_rule_may_call_what_it_targets() {
    let template = Template::load();
    for (id, rule) in template.resources("AWS::Events::Rule") {
        let source = json!({ "Fn::GetAtt": format!("{id}.Arn") });
        let (_, permission) = template
            .resources("AWS::Lambda::Permission")
            .find(|(_, permission)| permission["SourceArn"] == source)
            .unwrap_or_else(|| panic!("{id} may call nothing"));
        let function = permission["FunctionName"]["Ref"].as_str().unwrap();
        assert_eq!(rule["Targets"][0]["Arn"]["Fn::GetAtt"], format!("{function}.Arn"), "{id}");
    }
}

#[test]
fn every_alarm_tells_the_topic_and_says_what_it_means() {
    let template = Template::load();
    let alarms: Vec<_> = template.resources("AWS::CloudWatch::Alarm").collect();
    for (id, alarm) in &alarms {
        assert_eq!(alarm["AlarmActions"], json!([{ "Ref": "AlarmTopicArn" }]), "{id}");
        assert!(alarm["AlarmDescription"].as_str().is_some_and(|d| d.len() > 15), "{id}");
        // Silence is good news, but of what comes all the time.
        let silence = if alarm["MetricName"] == "Sweeps" { "breaching" } else { "notBreaching" };
        assert_eq!(alarm["TreatMissingData"], silence, "{id}");
    }
    let metrics: Vec<_> = alarms.iter().map(|(_, alarm)| alarm["MetricName"].as_str().unwrap()).collect();
    for metric in [
        "TasksFailedByUs",
        "TasksRepaired",
        "ExecutionsFailed",
        "ExecutionsTimedOut",
        "Errors",
        "Throttles",
        "Sweeps",
        "ReadThrottleEvents",
        "WriteThrottleEvents",
        "5xx",
    ] {
        assert!(metrics.contains(&metric), "no alarm on {metric}");
    }
}

#[test]
fn failures_of_ours_are_counted_by_codes_that_exist() {
    let template = Template::load();
    let pattern = template.at("/Resources/TasksFailedByUsFilter/Properties/FilterPattern").as_str().unwrap();
    let codes: Vec<&str> = pattern.split('"').skip(1).step_by(2).collect();
    assert!(!codes.is_empty());
    for code in codes {
        assert!(FailureCode::from_name(code).is_some(), "{code}");
    }
}

#[test]
fn the_dashboard_is_json_over_resources_that_exist() {
    let template = Template::load();
    let body = template.at("/Resources/Dashboard/Properties/DashboardBody/Fn::Sub").as_str().unwrap();
    serde_json::from_str::<Value>(body).expect("JSON");
    for reference in body.split("${").skip(1).map(|rest| rest.split_once('}').unwrap().0) {
        let id = reference.split('.').next().unwrap();
        assert!(id.starts_with("AWS::") || !template.at(&format!("/Resources/{id}")).is_null(), "{id}");
    }
}

/// What is paid for by the month because it is there, in cents (Amazon CloudWatch pricing, us-east-1, before free tiers):
/// an alarm on a metric, a dashboard, a metric of our own.
const BY_THE_MONTH: [(&str, u64); 3] =
    [("AWS::CloudWatch::Alarm", 10), ("AWS::CloudWatch::Dashboard", 300), ("AWS::Logs::MetricFilter", 30)];

#[test]
fn what_costs_by_the_month_is_there_only_for_who_wants_to_be_told() {
    let template = Template::load();
    let mut cents = 0;
    for (id, resource) in template.all_resources() {
        let Some((_, price)) = BY_THE_MONTH.iter().find(|(of_type, _)| resource["Type"] == *of_type) else {
            continue;
        };
        assert_eq!(resource["Condition"], "HasAlarmTopic", "{id}");
        cents += price;
    }
    let held = json!({ "Fn::Not": [{ "Fn::Equals": [{ "Ref": "AlarmTopicArn" }, ""] }] });
    assert_eq!(*template.at("/Conditions/HasAlarmTopic"), held);
    assert_eq!(template.at("/Parameters/AlarmTopicArn/Default"), "");
    // Keys, secrets, endpoints and waiting capacity cost by the hour.
    let text = template.value().to_string();
    for costly in
        ["AWS::KMS::", "AWS::SecretsManager::", "AWS::EC2::", "ProvisionedConcurrency", "AWS::WAFv2::"]
    {
        assert!(!text.contains(costly), "{costly}");
    }
    let readme = std::fs::read_to_string(template_tests::repository_file("README.md")).unwrap();
    let told = format!("${}.{:02} a month", cents / 100, cents % 100);
    assert!(readme.contains(&told), "README.md does not say {told}");
}

#[test]
fn the_access_log_knows_a_request_as_its_client_does() {
    let template = Template::load();
    let format = template.at("/Resources/ApiStage/Properties/AccessLogSettings/Format").as_str().unwrap();
    let line: Value = serde_json::from_str(format).expect("a line is JSON");
    // The function answers `x-openstack-request-id: req-{its invocation's id}`.
    assert_eq!(line["request_id"], "req-$context.awsEndpointRequestId");
    // What a caller may keep secret is in none of them.
    for variable in line.as_object().unwrap().values() {
        let variable = variable.as_str().unwrap();
        assert!(!variable.contains("authorizer") && !variable.contains("queryString"), "{variable}");
    }
}
