//! The local stack's Lambda refuses what AWS's does: without that, no test here shows what an answer may hold.

use std::io::{Cursor, Write as _};

use base64::Engine as _;
use image_tasks_e2e::{Tenant, pause};
use serde_json::{Value, json};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// Lambda developer guide, "Lambda quotas": 6 MB.
const MOST: usize = 6 << 20;

/// Answers a text of as many bytes as it is asked for, in quotes.
const CODE: &[u8] = b"def handler(event, context):\n    return 'x' * (event - 2)\n";

#[tokio::test]
async fn answers_above_6_megabytes_are_refused() {
    let tenant = Tenant::new("answers-of-lambda");
    let functions = format!("{}/2015-03-31/functions", tenant.stack.coordinates().aws_endpoint);
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file("large.py", SimpleFileOptions::default()).unwrap();
    zip.write_all(CODE).unwrap();
    let zip = base64::engine::general_purpose::STANDARD.encode(zip.finish().unwrap().into_inner());
    let http = reqwest::Client::new();
    let function = json!({
        "FunctionName": "large",
        "Runtime": "python3.11",
        "Handler": "large.handler",
        "Role": "arn:aws:iam::000000000000:role/none",
        "Code": {"ZipFile": zip},
    });
    let made = http.post(&functions).body(function.to_string()).send().await.unwrap();
    assert!(made.status().is_success(), "{}", made.text().await.unwrap());
    let ask = async |bytes: usize| {
        let url = format!("{functions}/large/invocations");
        let answer = http.post(url).body(bytes.to_string()).send().await.unwrap();
        let failed = answer.headers().contains_key("X-Amz-Function-Error");
        (failed, answer.text().await.unwrap())
    };
    // A new function isn't active at once.
    loop {
        let known = http.get(format!("{functions}/large")).send().await.unwrap().text().await.unwrap();
        if serde_json::from_str::<Value>(&known).unwrap()["Configuration"]["State"] == "Active" {
            break;
        }
        pause().await;
    }
    let (failed, answer) = ask(MOST).await;
    assert!(!failed && answer.len() == MOST, "{}", &answer[..answer.len().min(500)]);
    let (failed, answer) = ask(MOST + 1).await;
    assert!(
        failed && answer.contains("Function.ResponseSizeTooLarge"),
        "{}",
        &answer[..answer.len().min(500)]
    );
}
