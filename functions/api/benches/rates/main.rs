//! `cargo bench -p image-tasks-api-function`: what one process of the api function does.
//!
//! The binary itself runs, fed over the Lambda Runtime API as Lambda feeds it, one event at a time, so a
//! rate is that of one concurrent execution. DynamoDB is dynoxide (SQLite in memory, in this process, tables as
//! in template.yaml); Step Functions answers at once, and so does the Keystone that is asked about the one token. So the
//! figures hold the function's own work, its SDK's and a local database's, and no network. Nothing is asserted.
//!
//! `-- --binary target/release/api` measures another build, such as the one that is deployed. Size and cold start are told
//! of every function whose binary lies beside it. `--beside other/api` measures that one too, in turns with the first, and
//! prints the first's rates as ratios to it: the build of the commit before, in the same profile. `--identity development`
//! is for builds that know no Keystone. `--row "GET task"` measures that row alone. Rows that the other build answers otherwise have no ratio.

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
/// Turns that two builds take with them.
const TURNS: usize = 8;
/// Images that there are.
const IMAGES: usize = 60;
/// Cold starts that are measured.
const STARTS: usize = 11;
/// The functions' binaries.
const FUNCTIONS: &[&str] = &["api", "import", "export", "clone", "lifecycle"];

#[tokio::main]
async fn main() {
    let argument = |name: &str| std::env::args().skip_while(|argument| argument != name).nth(1);
    let binary = argument("--binary").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_api")), PathBuf::from);
    let beside = argument("--beside").map(PathBuf::from);
    let identity = argument("--identity").unwrap_or_else(|| "keystone".to_owned());
    let row = argument("--row");
    let dynamodb = aws::dynamodb().await;
    let (step_functions, keystone) = (aws::step_functions().await, aws::keystone().await);
    let bench = Bench { binary, beside, identity, row, dynamodb, step_functions, keystone };

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
    beside: Option<PathBuf>,
    identity: String,
    row: Option<String>,
    dynamodb: String,
    step_functions: String,
    keystone: String,
}

/// A build at work.
struct Side {
    runtime: RuntimeApi,
    function: Child,
}

/// What requests of a kind took.
#[derive(Default)]
struct Measured {
    times: Vec<Duration>,
    /// Time of the processor.
    cpu: Duration,
}

impl Measured {
    fn rate(&self) -> f64 {
        as_f64(self.times.len().try_into().unwrap()) / self.times.iter().sum::<Duration>().as_secs_f64()
    }

    fn per_cpu(&self) -> f64 {
        as_f64(self.times.len().try_into().unwrap()) / self.cpu.as_secs_f64()
    }
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
                ("IDENTITY", self.identity.as_str()),
                ("KEYSTONE_URL", self.keystone.as_str()),
                ("KEYSTONE_CACHE_SECONDS", "3600"),
                ("IMAGES_PER_PROJECT", "1000000"),
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

    async fn side(&self, binary: &Path) -> Side {
        let runtime = RuntimeApi::start().await;
        let function = self.spawn(binary, &runtime);
        Side { runtime, function }
    }

    async fn rates(&self) {
        let mut sides = vec![self.side(&self.binary).await];
        if let Some(beside) = &self.beside {
            sides.push(self.side(beside).await);
        }
        let first = sides.first_mut().unwrap();
        let task = first.made(&post()).await;
        let mut image = String::new();
        for _ in 0..IMAGES {
            image = first.made(&image_record()).await;
            aws::activate(&self.dynamodb, image.rsplit('/').next().unwrap()).await;
        }
        // The last figure: one Glance 33.0.0 worker on a like machine, or the build beside this one.
        println!("\nrequest            per s   p50      p99      per CPU-second   beside");
        for (name, event, status, glance) in [
            ("GET versions", get("/versions"), 200, None),
            ("POST task", post(), 201, Some(17.0)),
            ("GET task", get(&task), 200, Some(195.0)),
            ("GET 25 tasks", get("/v2/tasks"), 200, Some(84.0)),
            ("POST, refused", refused(), 400, None),
            ("GET image", get(&image), 200, None),
            ("GET 25 images", get("/v2/images"), 200, None),
            ("GET images, none", get_with("/v2/images", "name=none"), 200, None),
            ("POST image", image_record(), 201, None),
        ] {
            if self.row.as_ref().is_some_and(|row| row != name) {
                continue;
            }
            let mut able = Vec::new();
            for (place, side) in sides.iter_mut().enumerate() {
                let answer = side.answer(&event).await;
                assert!(place > 0 || answer["statusCode"] == status, "{answer}");
                if answer["statusCode"] == status {
                    side.ask(&event, status, REQUESTS / 10).await;
                    able.push(side);
                }
            }
            let mut measured: Vec<_> = able.iter().map(|_| Measured::default()).collect();
            for turn in 0..TURNS {
                let mut pairs: Vec<_> = able.iter_mut().zip(&mut measured).collect();
                if turn % 2 == 1 {
                    pairs.reverse();
                }
                for (side, measured) in pairs {
                    let Measured { times, cpu } = side.ask(&event, status, REQUESTS / TURNS).await;
                    measured.times.extend(times);
                    measured.cpu += cpu;
                }
            }
            let first = measured.first_mut().unwrap();
            let p50 = median(&mut first.times);
            let p99 = *first.times.get(REQUESTS * 99 / 100).unwrap();
            let (rate, per_cpu) = (first.rate(), first.per_cpu());
            let peer = match (measured.get(1), glance) {
                (Some(other), _) => {
                    format!(
                        "ratio {:.2}, per CPU-second {:.2}",
                        rate / other.rate(),
                        per_cpu / other.per_cpu()
                    )
                }
                (None, Some(glance)) => format!("{glance} a Glance worker (ratio {:.0})", rate / glance),
                (None, None) => String::new(),
            };
            println!("{name:<17} {rate:>6.0}   {p50:<8.1?} {p99:<8.1?} {per_cpu:<16.0} {peer}");
        }
        println!("\nmemory       {} at most", peak_memory(sides.first().unwrap().pid()));
    }
}

impl Side {
    fn pid(&self) -> u32 {
        self.function.id().unwrap()
    }

    async fn answer(&mut self, event: &Value) -> Value {
        let mut answer = Value::Null;
        while_running(&mut self.function, async { answer = self.runtime.invoke(event).await }).await;
        answer
    }

    /// Where what a POST makes is.
    async fn made(&mut self, event: &Value) -> String {
        let made = self.answer(event).await;
        assert_eq!(made["statusCode"], 201, "{made}");
        let made: Value = serde_json::from_str(made["body"].as_str().unwrap()).unwrap();
        made["self"].as_str().unwrap().to_owned()
    }

    /// Asks so often, one after the other.
    async fn ask(&mut self, event: &Value, status: u16, requests: usize) -> Measured {
        let before = cpu_time(self.pid());
        let mut times = Vec::with_capacity(requests);
        let work = async {
            for _ in 0..requests {
                let asked = Instant::now();
                let answer = self.runtime.invoke(event).await;
                times.push(asked.elapsed());
                assert_eq!(answer["statusCode"], status, "{answer}");
            }
        };
        while_running(&mut self.function, work).await;
        Measured { times, cpu: cpu_time(self.pid()) - before }
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

fn get_with(path: &str, query: &str) -> Value {
    let mut asked = get(path);
    asked["rawQueryString"] = query.into();
    asked
}

fn image_record() -> Value {
    let record = json!({"name": "Debian 13", "disk_format": "qcow2", "container_format": "bare", "os_distro": "debian"});
    event("POST", "/v2/images", Some(&record))
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
