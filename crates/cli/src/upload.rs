//! `image-tasks upload`, and `import` of a file here: parts side by side straight into storage, resumable and checked,
//! then the import of what was uploaded.
//!
//! Invariants:
//! - The same command goes on with what an interrupted one did: same service, same file, same image asked for. Parts
//!   that were sent count only while the file still has their bytes.
//! - The service is told the CRC64NVME of the whole file, made of the bytes that were sent.
//! - A record that was made for a file is removed where the import of that file fails, as with other imports.

mod file;
mod parts;
mod state;

use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crc_fast::{CrcAlgorithm, checksum_combine};
use reqwest::Method;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::arguments::{Import, Upload};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::images;
use crate::output::{Output, size, text_of};
use crate::progress::Progress;
use crate::service::{Call, Service};
use crate::tasks;
use crate::wait::{Interrupts, until_ended};

use file::LocalFile;
use parts::Sending;
use state::{Begun, Line, State};

/// Parts side by side where nobody says how many.
const PARALLEL: u8 = 4;
/// The service may take so long to join parts, and to show a task that it started.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_millis(500);

/// What is asked for.
struct Asked {
    file: LocalFile,
    target: Target,
    parallel: u8,
    no_wait: bool,
    restart: bool,
}

/// Whose bytes they become.
enum Target {
    /// Those of an image that is made for them, with these attributes.
    New(Map<String, Value>),
    /// Those of this image, which has none.
    Image(String),
}

/// `image-tasks upload`.
pub(crate) async fn run(
    service: &Service,
    output: Output,
    environment: &Environment,
    asked: &Upload,
) -> Result<(), Failure> {
    let file = LocalFile::open(&asked.file)?;
    let mut record = asked.properties.members();
    let formats = [("disk_format", &asked.disk_format), ("container_format", &asked.container_format)];
    record.extend(
        formats.into_iter().filter_map(|(name, said)| Some((name.to_owned(), json!(said.as_ref()?)))),
    );
    let target = match &asked.image {
        Some(_) if !record.is_empty() => {
            let told = "the record of --image says what the image is: image-tasks image set changes it";
            return Err(Failure::Usage(told.to_owned()));
        }
        Some(image) => Target::Image(text_of(&images::resolve(service, image).await?, "id").to_owned()),
        None => Target::New(whole(record, &file)?),
    };
    let (parallel, no_wait, restart) = (asked.parallel, asked.no_wait, asked.restart);
    bring(service, output, environment, Asked { file, target, parallel, no_wait, restart }).await
}

/// `image-tasks import` of a file here.
pub(crate) async fn import(
    service: &Service,
    output: Output,
    environment: &Environment,
    file: &Path,
    asked: &Import,
) -> Result<(), Failure> {
    let file = LocalFile::open(file)?;
    let of_addresses = [
        ("--member", asked.member.is_some()),
        ("--sha512", asked.sha512.is_some()),
        ("--sha256", asked.sha256.is_some()),
        ("--md5", asked.md5.is_some()),
        ("--checksums-from", asked.checksums_from.is_some()),
        ("--header", !asked.headers.is_empty()),
        ("--idempotency-key", asked.waiting.idempotency_key.is_some()),
    ];
    if let Some((option, _)) = of_addresses.into_iter().find(|(_, given)| *given) {
        return Err(Failure::Usage(format!(
            "{option} is for what is imported from an address, not a file here"
        )));
    }
    let format = match (&asked.from_format, &asked.disk_format) {
        (Some(from), Some(to)) if from != to => {
            let told = format!("a file is stored as it is: {from} can be made {to} only from an address");
            return Err(Failure::Usage(told));
        }
        (from, to) => from.as_ref().or(to.as_ref()),
    };
    let mut record = asked.properties.members();
    let formats = [("disk_format", format), ("container_format", asked.container_format.as_ref())];
    record.extend(formats.into_iter().filter_map(|(name, said)| Some((name.to_owned(), json!(said?)))));
    let target = Target::New(whole(record, &file)?);
    let no_wait = asked.waiting.no_wait;
    bring(service, output, environment, Asked { file, target, parallel: PARALLEL, no_wait, restart: false })
        .await
}

/// A record with the formats that its file has.
fn whole(mut record: Map<String, Value>, file: &LocalFile) -> Result<Map<String, Value>, Failure> {
    if !record.contains_key("disk_format") {
        let Some(format) = file.format() else {
            let told = "says no format that is known here: give --disk-format, raw for a raw disk";
            return Err(Failure::Usage(format!("{} {told}", file.path().display())));
        };
        record.insert("disk_format".to_owned(), json!(format));
    }
    record.entry("container_format").or_insert_with(|| json!("bare"));
    Ok(record)
}

async fn bring(
    service: &Service,
    output: Output,
    environment: &Environment,
    asked: Asked,
) -> Result<(), Failure> {
    let mut state = State::open(&state::directory(environment)?, &key_of(service, &asked))?;
    let mut interrupts = Interrupts::listen()?;
    let uploaded = tokio::select! {
        uploaded = uploaded(service, output, &asked, &mut state) => Some(uploaded?),
        () = interrupts.next() => None,
    };
    let Some(uploaded) = uploaded else { return Err(left(&asked, &state)) };
    let task = match uploaded {
        Uploaded::Importing(task) => task,
        Uploaded::Imported(image) => {
            state.remove()?;
            return if output.json { output.document(&image) } else { output.line(text_of(&image, "id")) };
        }
    };
    let image = state.image.clone();
    // The bytes are the service's now: the same command again would upload them again.
    state.remove()?;
    if asked.no_wait {
        return if output.json { output.document(&task) } else { output.line(text_of(&task, "id")) };
    }
    let task = until_ended(service, output, &mut interrupts, task).await?;
    if let (Target::New(_), Some(image), "failure") = (&asked.target, image, text_of(&task, "status")) {
        // Without bytes it is of no use. Where it can't be removed, a list shows it.
        let _left = service.ask(&Call::new(Method::DELETE, path_of(&image))).await;
    }
    tasks::ended(output, &task)
}

/// One upload for each service, file and image asked for.
fn key_of(service: &Service, asked: &Asked) -> String {
    let target = match &asked.target {
        Target::New(record) => json!({"record": record}),
        Target::Image(id) => json!({"image": id}),
    };
    let said = json!([service.endpoint(), asked.file.path().to_string_lossy(), target]);
    let mut key = hex::encode(Sha256::digest(said.to_string()));
    key.truncate(32);
    key
}

fn left(asked: &Asked, state: &State) -> Failure {
    let mut told = "Interrupted. The same command goes on; what was sent waits for 7 days".to_owned();
    if let (Target::New(_), Some(image)) = (&asked.target, &state.image) {
        told.push_str(&format!(". To give it up: image-tasks image delete {image}"));
    }
    Failure::Interrupted(told)
}

fn path_of(image: &str) -> String {
    format!("/v2/images/{image}")
}

/// What became of the bytes.
enum Uploaded {
    /// This task brings them in.
    Importing(Value),
    /// An earlier run of the command did all of it: the image.
    Imported(Value),
}

/// Goes from where the upload is to a task that imports it.
async fn uploaded(
    service: &Service,
    output: Output,
    asked: &Asked,
    state: &mut State,
) -> Result<Uploaded, Failure> {
    let image = image(service, asked, state).await?;
    let id = text_of(&image, "id").to_owned();
    let begun = match (text_of(&image, "status"), state.upload.clone()) {
        ("uploading", Some(begun)) if !asked.restart && begun.size == asked.file.size() => begun,
        ("uploading", Some(_)) => restarted(service, asked, state, &id).await?,
        // Nobody else knows a record that was made for this file: the answer that named the upload was lost.
        ("uploading", None) if asked.restart || matches!(asked.target, Target::New(_)) => {
            restarted(service, asked, state, &id).await?
        }
        ("uploading", None) => {
            let told = "gets bytes by another command, or did on another machine; --restart gives that up";
            return Err(Failure::Here(format!("the image {id} {told}")));
        }
        // What was uploaded before was given up, or its import failed.
        ("queued", _) => begin(service, asked, state, &id).await?,
        ("importing", Some(begun)) => return Ok(Uploaded::Importing(task_of(service, &begun, &id).await?)),
        ("active", Some(_)) => return Ok(Uploaded::Imported(image)),
        (status, _) => {
            return Err(Failure::Here(format!(
                "the image {id} is {status}; bytes come only into one that is queued"
            )));
        }
    };
    let is_resumed = !state.sent.is_empty();
    let missing = begun.missing(&state.sent);
    let file = asked.file.path().file_name().unwrap_or_default().to_string_lossy();
    let mut progress = Progress::of_bytes(output, begun.size);
    if is_resumed {
        progress.say(&format!("Going on with {file}, image {id}: checking what was sent"));
    } else {
        let parts = missing.len();
        progress.say(&format!("Uploading {file} ({}, {parts} parts), image {id}", size(begun.size)));
    }
    let parallel = usize::from(asked.parallel);
    let sending = Sending { service, image: &id, file: &asked.file, parallel, progress: &progress };
    sending.check_sent(&begun, state).await?;
    let range = |number: &u32| begun.range(*number);
    progress.begin_at(state.sent.keys().map(range).map(|range| range.end - range.start).sum());
    if is_resumed {
        let parts = begun.missing(&state.sent).len();
        progress.say(&format!("Going on with {file}, image {id}: {parts} parts to send"));
    }
    let sending = Sending { service, image: &id, file: &asked.file, parallel, progress: &progress };
    if let Err(failure) = sending.send_missing(&begun, state).await {
        if matches!(failure, Failure::Absent(_)) {
            state.clear_upload()?;
        }
        return Err(failure);
    }
    asked.file.check_unchanged()?;
    progress.say("All parts are there; the service joins them");
    complete(service, &begun, state, &id).await?;
    drop(progress);
    imported(service, &begun, &id, is_resumed).await
}

/// The image that gets the bytes; made where there is none.
async fn image(service: &Service, asked: &Asked, state: &mut State) -> Result<Value, Failure> {
    let mut record = match (&asked.target, &state.image) {
        (Target::Image(id), known) => {
            if known.is_none() {
                state.write(Line::Image { id: id.clone() })?;
            }
            return service.get(&path_of(id)).await;
        }
        (Target::New(record), Some(known)) => match service.find(&path_of(known)).await? {
            Some(image) => return Ok(image),
            None => record.clone(),
        },
        (Target::New(record), None) => record.clone(),
    };
    state.clear()?;
    let id =
        record.entry("id").or_insert_with(|| json!(Uuid::new_v4())).as_str().unwrap_or_default().to_owned();
    // Before it is asked for: where the answer is lost, the image is found by it.
    state.write(Line::Image { id })?;
    let call = Call::new(Method::POST, "/v2/images").with_body("application/json", &Value::Object(record));
    match service.ask(&call).await {
        Ok(answer) => answer.json(),
        Err(failure @ Failure::Told(_)) => {
            // An id that is taken is somebody's image.
            state.clear()?;
            Err(failure)
        }
        Err(failure) => Err(failure),
    }
}

async fn restarted(
    service: &Service,
    asked: &Asked,
    state: &mut State,
    image: &str,
) -> Result<Begun, Failure> {
    match service.ask(&Call::new(Method::DELETE, format!("{}/upload", path_of(image)))).await {
        // Given up already: the beginning says whatever else is wrong.
        Ok(_) | Err(Failure::Told(_)) => begin(service, asked, state, image).await,
        Err(failure) => Err(failure),
    }
}

async fn begin(service: &Service, asked: &Asked, state: &mut State, image: &str) -> Result<Begun, Failure> {
    let body = json!({"size": asked.file.size()});
    let call =
        Call::new(Method::POST, format!("{}/upload", path_of(image))).with_body("application/json", &body);
    let answer = service.ask(&call).await?.json()?;
    let number = |member: &str| answer[member].as_u64().filter(|number| *number > 0);
    let (upload_id, size, part_size) = (text_of(&answer, "upload_id"), number("size"), number("part_size"));
    let (Some(size), Some(part_size), false) = (size, part_size, upload_id.is_empty()) else {
        return Err(Failure::Unreachable("the service doesn't say how the file is cut".to_owned()));
    };
    let begun = Begun { upload_id: upload_id.to_owned(), size, part_size };
    state.write(Line::Begun(begun.clone()))?;
    Ok(begun)
}

/// Has the parts joined. Again is the same as once, so it is asked again while the service still joins them.
async fn complete(service: &Service, begun: &Begun, state: &mut State, image: &str) -> Result<(), Failure> {
    let parts = state.sent.iter().map(|(number, sent)| json!({"part_number": number, "etag": sent.etag}));
    let crc64nvme = state.sent.iter().fold(0, |crc, (number, sent)| {
        let range = begun.range(*number);
        checksum_combine(CrcAlgorithm::Crc64Nvme, crc, sent.crc64nvme, range.end - range.start)
    });
    let body = json!({
        "upload_id": begun.upload_id,
        "parts": parts.collect::<Vec<_>>(),
        "crc64nvme": STANDARD.encode(crc64nvme.to_be_bytes()),
    });
    let call = Call::new(Method::POST, format!("{}/upload/complete", path_of(image)));
    let call = call.with_body("application/json", &body).repeatable();
    let since = Instant::now();
    loop {
        match service.ask(&call).await {
            Err(Failure::Unreachable(_)) if since.elapsed() < LONGEST_WAIT => tokio::time::sleep(PAUSE).await,
            Err(failure @ Failure::Told(_)) => {
                // These parts don't make the file: the same command sends all of them again.
                state.write(Line::Begun(begun.clone()))?;
                return Err(failure);
            }
            answer => return answer.map(drop),
        }
    }
}

/// Has the staged bytes imported; the task. One that an earlier run asked for isn't asked for again.
async fn imported(
    service: &Service,
    begun: &Begun,
    image: &str,
    is_resumed: bool,
) -> Result<Uploaded, Failure> {
    if is_resumed && let Some(task) = found(service, begun, image).await? {
        return Ok(Uploaded::Importing(task));
    }
    let body = json!({"method": {"name": "glance-direct"}});
    let call = Call::new(Method::POST, format!("{}/import", path_of(image)));
    service.ask(&call.with_body("application/json", &body)).await?;
    Ok(Uploaded::Importing(task_of(service, begun, image).await?))
}

/// The task that brings this upload in. A list may lag behind.
async fn task_of(service: &Service, begun: &Begun, image: &str) -> Result<Value, Failure> {
    let since = Instant::now();
    loop {
        if let Some(task) = found(service, begun, image).await? {
            return Ok(task);
        }
        if since.elapsed() > LONGEST_WAIT {
            let told = "the import was asked for, but its task isn't listed: image-tasks task list";
            return Err(Failure::Unreachable(told.to_owned()));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Among the image's tasks, which has it from its acceptance.
async fn found(service: &Service, begun: &Begun, image: &str) -> Result<Option<Value>, Failure> {
    let mut list = service.get(&format!("{}/tasks", path_of(image))).await?;
    let Value::Array(tasks) = list["tasks"].take() else { return Ok(None) };
    Ok(tasks.into_iter().find(|task| text_of(&task["input"], "staged") == begun.upload_id))
}
