//! `cargo bench -p image-tasks-api-function`: what one process of the api function does.
//!
//! The binary itself runs, fed over the Lambda Runtime API as Lambda feeds it, one event at a time, so a
//! rate is that of one concurrent execution. DynamoDB is dynoxide (SQLite in memory, in this process, tables as
//! in template.yaml); Step Functions answers at once. So the figures hold the function's own work, its SDK's and a
//! local database's, and no network. Nothing is asserted.
//!
//! `-- --binary target/release/api` measures another build, such as the one that is deployed. Size and cold start are told
//! of every function whose binary lies beside it.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark that can't be set up ends")]

mod aws;
mod runtime_api;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::process::{Child, Command};

use runtime_api::RuntimeApi;

/// Requests of a kind that are measured, after a tenth as many that are not.
const REQUESTS: usize = 2000;
/// Cold starts that are measured.
const STARTS: usize = 11;
/// The functions' binaries.
const FUNCTIONS: &[&str] = &["api", "import", "export", "clone", "lifecycle"];

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--binary").skip(1);
    let binary = arguments.next().map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_api")), PathBuf::from);
    let dynamodb = aws::dynamodb().await;
    let step_functions = aws::step_functions().await;
    let bench = Bench { binary, dynamodb, step_functions };

    println!("{}, median of {STARTS} starts", bench.binary.display());
    println!("function    binary     to the first event asked for");
    for name in FUNCTIONS {
        let binary = bench.binary.with_file_name(name);
        let Ok(found) = std::fs::metadata(&binary) else { continue };
        let ready = bench.cold_start(&binary, None).await;
        println!("{name:<10} {:>5.1} MiB   {ready:.1?}", as_f64(found.len()) / f64::from(1 << 20));
    }
    let event = get("/v2/tasks/00000000-0000-4000-8000-000000000000");
    let answered = bench.cold_start(&bench.binary, Some(&event)).await;
    println!("api answers its first event, which reads DynamoDB, after {answered:.1?}");
    bench.rates().await;
}

struct Bench {
    binary: PathBuf,
    dynamodb: String,
    step_functions: String,
}

impl Bench {
    fn spawn(&self, binary: &Path, runtime: &RuntimeApi) -> Child {
        Command::new(Path::new(".").join(binary))
            .env_clear()
            .envs([
                ("AWS_LAMBDA_RUNTIME_API", runtime.address.as_str()),
                ("AWS_LAMBDA_FUNCTION_NAME", "api"),
                ("AWS_LAMBDA_FUNCTION_VERSION", "1"),
                ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512"),
                ("AWS_LAMBDA_LOG_GROUP_NAME", "api"),
                ("AWS_LAMBDA_LOG_STREAM_NAME", "api"),
                ("AWS_REGION", "eu-west-1"),
                ("AWS_ACCESS_KEY_ID", "bench"),
                ("AWS_SECRET_ACCESS_KEY", "bench"),
                ("AWS_ENDPOINT_URL", self.step_functions.as_str()),
                ("AWS_ENDPOINT_URL_DYNAMODB", self.dynamodb.as_str()),
                ("TASKS_TABLE", "tasks"),
                ("IMAGES_TABLE", "images"),
                ("IMAGES_BUCKET", "images"),
                ("WORK_BUCKET", "work"),
                ("CREDENTIALS_TABLE", "credentials"),
                ("IMPORT_STATE_MACHINE_ARN", "arn:aws:states:eu-west-1:000000000000:stateMachine:import"),
                ("EXPORT_STATE_MACHINE_ARN", "arn:aws:states:eu-west-1:000000000000:stateMachine:export"),
                ("CLONE_STATE_MACHINE_ARN", "arn:aws:states:eu-west-1:000000000000:stateMachine:clone"),
                ("IDENTITY", "development"),
            ])
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    /// From the start of the process to its first request for an event, or to its answer of that event.
    async fn cold_start(&self, binary: &Path, event: Option<&Value>) -> Duration {
        let mut starts = Vec::new();
        for _ in 0..STARTS {
            let runtime = RuntimeApi::start().await;
            let begun = Instant::now();
            let mut function = self.spawn(binary, &runtime);
            let start = async {
                runtime.asked().await;
                if let Some(event) = event {
                    runtime.invoke(event).await;
                }
                starts.push(begun.elapsed());
            };
            while_running(&mut function, start).await;
        }
        median(&mut starts)
    }

    async fn rates(&self) {
        let runtime = RuntimeApi::start().await;
        let mut function = self.spawn(&self.binary, &runtime);
        let pid = function.id().unwrap();
        while_running(&mut function, Self::measure(&runtime, pid)).await;
    }

    async fn measure(runtime: &RuntimeApi, pid: u32) {
        let posted = runtime.invoke(&post()).await;
        assert_eq!(posted["statusCode"], 201, "{posted}");
        let task: Value = serde_json::from_str(posted["body"].as_str().unwrap()).unwrap();
        let one = task["self"].as_str().unwrap().to_owned();

        // The last figure: one Glance 33.0.0 worker on a like machine.
        println!("\nrequest           per s   p50      p99      per CPU-second   one Glance worker, per s");
        for (name, event, status, glance) in [
            ("GET versions", get("/versions"), 200, None),
            ("POST task", post(), 201, Some(17.0)),
            ("GET task", get(&one), 200, Some(195.0)),
            ("GET 25 tasks", get("/v2/tasks"), 200, Some(84.0)),
            ("POST, refused", refused(), 400, None),
        ] {
            for _ in 0..REQUESTS / 10 {
                assert_eq!(runtime.invoke(&event).await["statusCode"], status);
            }
            let cpu = cpu_time(pid);
            let begun = Instant::now();
            let mut times = Vec::with_capacity(REQUESTS);
            for _ in 0..REQUESTS {
                let asked = Instant::now();
                assert_eq!(runtime.invoke(&event).await["statusCode"], status);
                times.push(asked.elapsed());
            }
            let requests = as_f64(REQUESTS.try_into().unwrap());
            let rate = requests / begun.elapsed().as_secs_f64();
            let per_cpu = requests / (cpu_time(pid) - cpu).as_secs_f64();
            let peer = glance.map(|g| format!("{g} (ratio {:.0})", rate / g)).unwrap_or_default();
            let p50 = median(&mut times);
            let p99 = times.get(REQUESTS * 99 / 100).unwrap();
            println!("{name:<16} {rate:>6.0}   {p50:<8.1?} {p99:<8.1?} {per_cpu:<16.0} {peer}");
        }
        println!("\nmemory       {} at most", peak_memory(pid));
    }
}

/// Does the work, unless the function ends: then nobody would answer.
async fn while_running(function: &mut Child, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        ended = function.wait() => panic!("the function ended: {}", ended.unwrap()),
    }
}

/// Sorts; gives the middle.
fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    *times.get(times.len() / 2).unwrap()
}

/// Far below 2^52, where it would be rounded.
fn as_f64(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap())
}

/// User and system time: fields 14 and 15 of /proc/pid/stat, in ticks of 10 ms (proc_pid_stat(5)).
fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, behind_name) = stat.rsplit_once(')').unwrap();
    let ticks: u64 = behind_name.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// `VmHWM` of /proc/pid/status.
fn peak_memory(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.unwrap_or_default().trim().to_owned()
}

fn get(path: &str) -> Value {
    event("GET", path, None)
}

fn post() -> Value {
    event(
        "POST",
        "/v2/tasks",
        Some(&json!({"type": "import", "input": {
            "import_from": "https://example.com/debian-13.qcow2", "import_from_format": "qcow2",
            "image_properties": {"name": "Debian 13", "os_distro": "debian", "tags": ["lts"]},
        }})),
    )
}

fn refused() -> Value {
    event(
        "POST",
        "/v2/tasks",
        Some(&json!({"type": "import", "input": {"import_from": "file:///etc/passwd"}})),
    )
}

/// API Gateway's event of a request (payload format 2.0), with the members that it always sends.
fn event(method: &str, path: &str, body: Option<&Value>) -> Value {
    json!({
        "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": "",
        "headers": {
            "accept": "*/*", "content-type": "application/json", "host": "api.execute-api.eu-west-1.amazonaws.com",
            "user-agent": "bench", "x-auth-token": "bench:bench", "x-forwarded-for": "192.0.2.1",
            "x-forwarded-port": "443", "x-forwarded-proto": "https",
        },
        "requestContext": {
            "accountId": "000000000000", "apiId": "api", "domainName": "api.execute-api.eu-west-1.amazonaws.com",
            "domainPrefix": "api", "requestId": "bench", "routeKey": "$default", "stage": "$default",
            "time": "01/Jan/2026:00:00:00 +0000", "timeEpoch": 1_767_225_600_000_u64,
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": "bench"},
        },
        "body": body.map(Value::to_string), "isBase64Encoded": false,
    })
}
