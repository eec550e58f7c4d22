//! A tenant of the local stack: what the end-to-end tests do and look at.
//!
//! Everything goes over the wire: requests to the API's public endpoint, reads
//! of S3, DynamoDB and Step Functions by the SDK. Waiting is polling; a test
//! that waits for what never comes is ended by the test runner.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "test support: a panic is the test's failure"
)]

use std::process::Command;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use bytes::Bytes;
use futures::StreamExt;
use image_tasks_local::{HASH_BEFORE_ACTIVE, Stack, pattern};
use md5::{Digest, Md5};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use sha2::Sha512;

/// Polls before what should have been removed counts as left behind.
const POLLS: u32 = 300;

/// A tenant with its own token, on the running stack.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// The stack.
    pub stack: Stack,
    token: String,
    http: reqwest::Client,
}

/// What a user was answered.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Header `Location`.
    pub location: Option<String>,
    /// Body.
    pub body: Value,
}

impl Tenant {
    /// A member of `project`.
    #[must_use]
    pub fn new(project: &str) -> Self {
        let stack = Stack::from_env().expect("the local stack");
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { stack, token: format!("tester:{project}"), http }
    }

    /// Its token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The same client with another token; an empty one sends none.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// The same client in another region.
    #[must_use]
    pub fn in_region(&self, region: &str) -> Self {
        let stack = self.stack.in_region(region).expect("a region of the local stack");
        Self { stack, ..self.clone() }
    }

    /// One request to the API.
    pub async fn request(&self, method: Method, path: &str, body: Option<String>) -> Response {
        let mut request = self.http.request(method, format!("{}{path}", self.stack.endpoint()));
        if !self.token.is_empty() {
            request = request.header("X-Auth-Token", &self.token);
        }
        if let Some(body) = body {
            request = request.header("Content-Type", "application/json").body(body);
        }
        request.send().await.expect("the API answers")
    }

    /// One request with just these headers.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: Option<String>,
    ) -> Response {
        let mut request = self.http.request(method, format!("{}{path}", self.stack.endpoint()));
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        request.send().await.expect("the API answers")
    }

    /// GET of a JSON document.
    pub async fn get(&self, path: &str) -> Answer {
        answer(self.request(Method::GET, path, None).await).await
    }

    /// POST of a JSON document.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        answer(self.request(Method::POST, path, Some(body.to_string())).await).await
    }

    /// PUT of bytes to a URL that needs nothing else.
    pub async fn put(&self, url: &str, bytes: Vec<u8>) -> Response {
        self.http.put(url).body(bytes).send().await.expect("S3 answers")
    }

    /// POST of a task.
    pub async fn post_task(&self, body: &Value) -> Answer {
        self.post("/v2/tasks", body).await
    }

    /// POST of a task under an idempotency key.
    pub async fn post_task_with_key(&self, body: &Value, key: &str) -> Answer {
        let request = self.http.post(format!("{}/v2/tasks", self.stack.endpoint())).body(body.to_string());
        answer(
            request.header("X-Auth-Token", &self.token).header("Idempotency-Key", key).send().await.unwrap(),
        )
        .await
    }

    /// Asks for an import and gives the task as accepted.
    pub async fn import(&self, input: Value) -> Value {
        self.accepted("import", input).await
    }

    /// Asks for a task and gives it as accepted.
    pub async fn accepted(&self, task_type: &str, input: Value) -> Value {
        let accepted = self.post_task(&json!({"type": task_type, "input": input})).await;
        assert_eq!(accepted.status, StatusCode::CREATED, "{}", accepted.body);
        assert_eq!(accepted.body["status"], "pending");
        accepted.body
    }

    /// The task now.
    pub async fn task(&self, id: &Value) -> Value {
        let found = self.get(&format!("/v2/tasks/{}", id.as_str().unwrap())).await;
        assert_eq!(found.status, StatusCode::OK, "{}", found.body);
        found.body
    }

    /// Polls the task to its end, and holds what every poller relies on: status
    /// and progress never go back, `expires_at` stands exactly at the end.
    pub async fn ended(&self, task: &Value) -> Value {
        let mut last = (0, 0);
        loop {
            let now = self.task(&task["id"]).await;
            let rank = match now["status"].as_str().unwrap() {
                "pending" => 0,
                "processing" => 1,
                "success" | "failure" => 2,
                other => panic!("status {other}"),
            };
            let seen = (rank, now["progress"].as_u64().unwrap());
            assert!(seen.0 > last.0 || seen >= last, "went back from {last:?}: {now}");
            assert_eq!(rank == 2, now["expires_at"].is_string(), "{now}");
            last = seen;
            if rank == 2 {
                return now;
            }
            pause().await;
        }
    }

    /// Imports to the end; the task and its active image.
    pub async fn imported(&self, input: Value) -> (Value, Value) {
        self.made("import", input).await
    }

    /// Makes an image by a task of that type; the task and the active image, once it is hashed.
    pub async fn made(&self, task_type: &str, input: Value) -> (Value, Value) {
        let task = self.ended(&self.accepted(task_type, input).await).await;
        assert_eq!(task["status"], "success", "{task}");
        let id = task["result"]["image_id"].as_str().expect("an image id").to_owned();
        loop {
            let image = self.get(&format!("/v2/images/{id}")).await;
            assert_eq!(image.status, StatusCode::OK, "{}", image.body);
            assert_eq!(image.body["status"], "active", "{}", image.body);
            let waits = image.body["size"].as_u64().unwrap() > HASH_BEFORE_ACTIVE;
            if waits && image.body["checksum"].is_null() {
                pause().await;
                continue;
            }
            return (task, image.body);
        }
    }

    /// Imports to a failure; the task, after looking that nothing is left.
    pub async fn refused(&self, input: Value) -> Value {
        let task = self.ended(&self.import(input).await).await;
        assert_eq!(task["status"], "failure", "{task}");
        self.nothing_left(&task).await;
        task
    }

    /// The failures of calls in a task's execution, by what the state machine calls them.
    pub async fn failed_calls(&self, task: &Value) -> Vec<String> {
        let machines = self.stack.step_functions();
        let machine = self.stack.import_state_machine().replacen(":stateMachine:", ":execution:", 1);
        let execution = format!("{machine}:{}", task["id"].as_str().unwrap());
        let (mut errors, mut page) = (Vec::new(), None);
        loop {
            let history = machines.get_execution_history().execution_arn(&execution).max_results(1000);
            let history = history.set_next_token(page).send().await.unwrap();
            let failed = history.events().iter().filter_map(|event| event.task_failed_event_details());
            errors.extend(failed.map(|details| details.error().unwrap_or_default().to_owned()));
            page = history.next_token;
            if page.is_none() {
                return errors;
            }
        }
    }

    /// Lets no more than so many calls of a function run at once, in the first region; none: as many as there are.
    pub async fn reserve(&self, function: &str, calls: Option<u32>) {
        let name = self.stack.physical_id(function);
        let endpoint = &self.stack.coordinates().aws_endpoint;
        let url = format!("{endpoint}/2017-10-31/functions/{name}/concurrency");
        let request = match calls {
            Some(calls) => {
                let reserved = json!({"ReservedConcurrentExecutions": calls});
                self.http.put(url).body(reserved.to_string())
            }
            None => self.http.delete(url),
        };
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }

    /// The image's bytes, as a client gets them: redirected to S3 and streamed.
    pub async fn download(&self, image: &Value, mut chunk: impl FnMut(&Bytes)) {
        let path = format!("/v2/images/{}/file", image["id"].as_str().unwrap());
        let link = self.request(Method::GET, &path, None).await;
        assert_eq!(link.status(), StatusCode::FOUND);
        let url = link.headers()["location"].to_str().unwrap().to_owned();
        let response = self.http.get(url).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let mut body = response.bytes_stream();
        while let Some(bytes) = body.next().await {
            chunk(&bytes.unwrap());
        }
    }

    /// Holds the image's bytes against the pattern and its checksums against those of the pattern.
    pub async fn is_pattern(&self, image: &Value, seed: u64, size: u64) {
        let (mut md5, mut sha512, mut at) = (Md5::new(), Sha512::new(), 0u64);
        self.download(image, |bytes| {
            assert_eq!(pattern::bytes(seed, at, bytes.len()), bytes[..], "differs in the chunk at {at}");
            md5.update(bytes);
            sha512.update(bytes);
            at += bytes.len() as u64;
        })
        .await;
        assert_eq!(at, size);
        assert_eq!(image["size"], size);
        assert_eq!(image["checksum"], hex::encode(md5.finalize()));
        assert_eq!(image["os_hash_algo"], "sha512");
        assert_eq!(image["os_hash_value"], hex::encode(sha512.finalize()));
    }

    /// Key of an active image's object; the only one of its kind that any task has left.
    pub async fn object_key(&self, image: &Value) -> String {
        let prefix = format!("images/{}/", image["id"].as_str().unwrap());
        let listed = self.stack.s3().list_objects_v2().bucket(self.stack.images_bucket()).prefix(prefix);
        let listed = listed.send().await.unwrap();
        let keys: Vec<_> = listed.contents().iter().map(|object| object.key().unwrap()).collect();
        let objects: Vec<_> = keys.iter().filter(|key| !key.ends_with(".allocation")).collect();
        assert_eq!(objects.len(), 1, "{keys:?}");
        (*objects[0]).to_owned()
    }

    /// A failed task leaves no upload, no object, no work and no image record.
    pub async fn nothing_left(&self, task: &Value) {
        self.nothing_left_of_work(task).await;
        if let Some(image) = task["image_id"].as_str() {
            self.nothing_under(self.stack.images_bucket(), &format!("images/{image}/")).await;
            let found = self
                .stack
                .dynamodb()
                .get_item()
                .table_name(self.stack.images_table())
                .key("id", AttributeValue::S(image.to_owned()))
                .send()
                .await
                .unwrap();
            assert_eq!(found.item, None, "the image's record");
        }
    }

    /// A task that has ended leaves nothing in the work bucket.
    pub async fn nothing_left_of_work(&self, task: &Value) {
        let prefix = format!("work/{}/", task["id"].as_str().unwrap());
        self.nothing_under(self.stack.work_bucket(), &prefix).await;
    }

    /// The task ends before what it stored is removed: polls until the place is empty, and says what stays.
    pub async fn nothing_under(&self, bucket: &str, prefix: &str) {
        let s3 = self.stack.s3();
        for last in (0..POLLS).rev() {
            let objects = s3.list_objects_v2().bucket(bucket).prefix(prefix).send().await.unwrap();
            let uploads = s3.list_multipart_uploads().bucket(bucket).prefix(prefix).send().await.unwrap();
            if objects.contents().is_empty() && uploads.uploads().is_empty() {
                return;
            }
            assert!(last > 0, "left under {prefix}: {:?} {:?}", objects.contents(), uploads.uploads());
            pause().await;
        }
    }
}

async fn answer(response: Response) -> Answer {
    let status = response.status();
    let location = response.headers().get("location").map(|l| l.to_str().unwrap().to_owned());
    let text = response.text().await.unwrap();
    let body = if text.is_empty() {
        Value::Null
    } else {
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}, not JSON: {text}"))
    };
    Answer { status, location, body }
}

/// Between two polls.
pub async fn pause() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// Most memory that any process of a function ever held, bytes (`VmHWM`); 0 where there is none.
pub fn peak_memory(stack: &Stack, function: &str) -> u64 {
    let peaks = stack.function_processes(function).unwrap().into_iter();
    peaks.filter_map(|pid| memory(pid, "VmHWM:")).max().unwrap_or(0)
}

/// The processes of a function that hold more than so many bytes now (`VmRSS`).
pub fn processes_above(stack: &Stack, function: &str, bytes: u64) -> Vec<u32> {
    let mut processes = stack.function_processes(function).unwrap();
    processes.retain(|pid| memory(*pid, "VmRSS:").is_some_and(|held| held > bytes));
    processes
}

/// What proc(5) says of a process under that name, bytes; none once it is gone.
fn memory(pid: u32, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// CPU-seconds (user and system) that the processes of a function have used since they started.
pub fn cpu_seconds(stack: &Stack, function: &str) -> f64 {
    // proc(5): fields 14 and 15 of `stat`, in ticks, of which Linux has 100 a second; the name before them may hold blanks.
    let used = stack.function_processes(function).unwrap().into_iter().filter_map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        Some(fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?)
    });
    used.sum::<f64>() / 100.0
}

/// Runs `qemu-img`, which has to succeed.
pub fn qemu_img(arguments: &[&str]) {
    let run = Command::new("qemu-img").args(arguments).output().expect("qemu-img is installed");
    assert!(run.status.success(), "qemu-img {arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
}
