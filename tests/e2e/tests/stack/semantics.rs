//! The requests and answers of SEMANTICS.md, as they stand there, asked of the local stack.
//!
//! A block of `http` is one request and its answer. Of the answer's body the members that the document shows are
//! compared, and of its headers those. `{name}` stands for a text: the first answer that has it says what it is. A
//! block marked `poll` is asked again while the answer's `status` is one that passes.

use std::collections::BTreeMap;

use bytes::Bytes;
use disk_image::ByteRange;
use image_tasks_e2e::{Tenant, pause};
use image_tasks_local::{Content, Source, SourceServer};
use reqwest::Method;
use serde_json::Value;

/// Where the document's sources lie.
const IMAGES: &str = "https://images.example.com";

/// States of tasks and images that don't last.
const PASSING: &[&str] = &["pending", "processing", "queued", "uploading", "importing"];

/// How an answer differs from the document's.
struct Difference {
    told: String,
    /// Whether it may be another one in a moment.
    passes: bool,
}

impl Difference {
    fn lasting(told: String) -> Self {
        Self { told, passes: false }
    }
}

struct Example {
    line: usize,
    polls: bool,
    request: Message,
    answer: Message,
}

/// The first line of a request or an answer, and what follows it.
#[derive(Debug)]
struct Message {
    first: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Message {
    fn read(text: &str) -> Self {
        let (head, body) = text.trim_end().split_once("\n\n").unwrap_or((text.trim_end(), ""));
        let mut lines = head.lines();
        let first = lines.next().unwrap().to_owned();
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no header: {line}"));
            (name.to_owned(), value.to_owned())
        });
        Self { first, headers: headers.collect(), body: body.to_owned() }
    }
}

fn examples(document: &str) -> Vec<Example> {
    let mut found = Vec::new();
    let mut lines = document.lines().enumerate();
    while let Some((line, opening)) = lines.next() {
        let Some(marks) = opening.strip_prefix("```http") else { continue };
        let block: Vec<_> = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
        let block = block.join("\n");
        let (request, answer) =
            block.split_once("\nHTTP/1.1 ").unwrap_or_else(|| panic!("no answer in line {}", line + 1));
        found.push(Example {
            line: line + 1,
            polls: marks.trim() == "poll",
            request: Message::read(request),
            answer: Message::read(answer),
        });
    }
    found
}

/// What `{name}` stands for.
#[derive(Clone, Default)]
struct Names(BTreeMap<String, String>);

impl Names {
    fn fill(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
    }

    /// Whether a text is what the document says; a name without a meaning gets one.
    fn matches(&mut self, said: &str, found: &str) -> bool {
        let said = self.fill(said);
        let Some((before, rest)) = said.split_once('{') else { return said == found };
        let Some((name, after)) = rest.split_once('}') else { return said == found };
        let meaning = found.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        let Some(meaning) = meaning.filter(|meaning| !meaning.is_empty()) else { return false };
        self.0.insert(name.to_owned(), meaning.to_owned());
        true
    }

    /// What differs from what the document says; `None` where nothing does.
    fn differs(&mut self, said: &Value, found: &Value, at: &str) -> Option<String> {
        match (said, found) {
            (Value::Object(said), Value::Object(found)) => said.iter().find_map(|(key, said)| {
                self.differs(said, found.get(key).unwrap_or(&Value::Null), &format!("{at}.{key}"))
            }),
            (Value::Array(said), Value::Array(found)) if said.len() == found.len() => {
                let mut pairs = said.iter().zip(found).enumerate();
                pairs.find_map(|(n, (said, found))| self.differs(said, found, &format!("{at}[{n}]")))
            }
            (Value::String(said), Value::String(found)) if self.matches(said, found) => None,
            (said, found) if said == found => None,
            (said, found) => Some(format!("{at} is {found}, not {said}")),
        }
    }

    /// Asks an example once; what differs.
    async fn ask(&mut self, tenant: &Tenant, example: &Example, served: &str) -> Option<Difference> {
        let here = |text: &str| text.replace(IMAGES, served);
        let first = self.fill(&example.request.first);
        let (method, path) = first.split_once(' ').unwrap();
        let headers = example.request.headers.iter();
        let headers: Vec<_> = headers.map(|(name, value)| (name.as_str(), self.fill(value))).collect();
        let body = (!example.request.body.is_empty()).then(|| here(&self.fill(&example.request.body)));
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let answer = if path.starts_with("http") {
            assert_eq!(method, Method::PUT, "a part's URL");
            tenant.put(path, body.unwrap_or_default().into_bytes()).await
        } else {
            tenant.ask(method, path, &headers, body).await
        };
        let status = answer.status().as_str().to_owned();
        let told = answer.headers().clone();
        let text = here(&answer.text().await.unwrap());
        let mut names = self.clone();
        let expected = example.answer.first.split(' ').next().unwrap();
        if status != expected {
            return Some(Difference::lasting(format!("status {status}, not {expected}: {text}")));
        }
        for (name, said) in &example.answer.headers {
            let found = told.get(name).map_or("", |value| value.to_str().unwrap());
            if !names.matches(said, found) {
                return Some(Difference::lasting(format!("header {name} is {found:?}, not {said:?}")));
            }
        }
        if !example.answer.body.is_empty() {
            let said: Value = serde_json::from_str(&here(&example.answer.body))
                .unwrap_or_else(|e| panic!("the answer of line {} is no JSON: {e}", example.line));
            let found: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
            if let Some(told) = names.differs(&said, &found, "body") {
                let passes = found["status"].as_str().is_some_and(|status| PASSING.contains(&status));
                return Some(Difference { told, passes });
            }
        }
        *self = names;
        None
    }
}

/// The files behind the document's source addresses.
fn sources(server: &SourceServer) -> String {
    let sound = disk_image_fixtures::sound();
    let sound = sound.iter().find(|image| image.name == "qcow2-v3").unwrap();
    let hostile = disk_image_fixtures::all();
    let hostile = hostile.iter().find(|image| image.name == "qcow2-backing-file").unwrap();
    for (path, file) in [("/disk.qcow2", &sound.file), ("/overlay.qcow2", &hostile.file)] {
        let bytes = Bytes::from(file.read(ByteRange { start: 0, end: file.len() }));
        server.serve(path, Source::new(Content::Bytes(bytes)));
    }
    let url = server.serve("/disk.img", Source::new(Content::Pattern { seed: 77, length: 1 << 20 }));
    url.trim_end_matches("/disk.img").to_owned()
}

#[tokio::test]
async fn each_request_of_the_document_is_answered_as_it_says() {
    let tenant = Tenant::new("semantics");
    let server = SourceServer::start().await.unwrap();
    let served = sources(&server);
    let examples = examples(include_str!("../../../../SEMANTICS.md"));
    assert!(examples.len() > 25, "{} examples", examples.len());
    let mut names = Names::default();
    names.0.insert("endpoint".to_owned(), tenant.stack.endpoint().to_owned());
    for example in &examples {
        loop {
            match names.ask(&tenant, example, &served).await {
                None => break,
                Some(difference) if difference.passes && example.polls => pause().await,
                Some(Difference { told, .. }) => {
                    panic!("SEMANTICS.md, line {}, {}: {told}", example.line, example.request.first)
                }
            }
        }
    }
}

#[test]
fn an_answer_that_differs_is_told() {
    let said = serde_json::json!({"id": "{task}", "tags": ["a"], "n": 1, "self": "/v2/tasks/{task}"});
    let found = |id: &str, n: u32| serde_json::json!({"id": "7", "tags": ["a"], "n": n, "self": format!("/v2/tasks/{id}"), "more": 0});
    assert_eq!(Names::default().differs(&said, &found("7", 1), "body"), None);
    assert!(Names::default().differs(&said, &found("8", 1), "body").is_some());
    assert!(Names::default().differs(&said, &found("7", 2), "body").is_some());
    assert!(Names::default().differs(&said, &serde_json::json!({}), "body").is_some());
}
