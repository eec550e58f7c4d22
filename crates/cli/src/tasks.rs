//! Commands that ask for tasks, and those about tasks that are there.

use std::fs;
use std::path::Path;

use clap::ValueEnum;
use reqwest::Method;
use serde_json::{Map, Value, json};
use url::form_urlencoded::Serializer;
use uuid::Uuid;

use crate::arguments::{CloneImage, Export, Import, TaskCommand, TaskFilter, Waiting};
use crate::failure::Failure;
use crate::images;
use crate::output::{Output, text_of};
use crate::secret::Secret;
use crate::service::{Call, Service};
use crate::wait::{Interrupts, until_ended};

/// The file here that an import is of, if it is of one.
pub(crate) fn file(asked: &Import) -> Result<Option<&Path>, Failure> {
    match asked.sources.as_slice() {
        [source] => Ok(is_file(source).then_some(Path::new(source))),
        several => match several.iter().find(|source| is_file(source)) {
            Some(file) => Err(Failure::Usage(format!("{file} is a file here: it is imported by itself"))),
            None => Ok(None),
        },
    }
}

/// One that is there, or one that is written as only a file is.
fn is_file(source: &str) -> bool {
    let path = Path::new(source);
    !source.contains("://")
        && (path.exists() || path.is_absolute() || path.starts_with(".") || path.starts_with(".."))
}

/// `import_from_headers`. No failure shows one: it may be a password.
fn headers(said: &[Secret]) -> Result<Map<String, Value>, Failure> {
    let mut headers = Map::new();
    for said in said {
        let lines = match said.expose().strip_prefix('@') {
            Some(file) => fs::read_to_string(file)
                .map_err(|error| Failure::Usage(format!("--header: {file} can't be read: {error}")))?,
            None => said.expose().to_owned(),
        };
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            let told = "--header: a header is NAME: VALUE, such as \"Authorization: Bearer ...\"";
            let (name, value) = line.split_once(':').ok_or_else(|| Failure::Usage(told.to_owned()))?;
            if headers.insert(name.trim().to_owned(), json!(value.trim())).is_some() {
                return Err(Failure::Usage(format!("--header: {} is there twice", name.trim())));
            }
        }
    }
    Ok(headers)
}

/// `image-tasks import` of what lies elsewhere.
pub(crate) async fn import(service: &Service, output: Output, asked: &Import) -> Result<(), Failure> {
    let mut properties = asked.properties.members();
    let formats = [("disk_format", &asked.disk_format), ("container_format", &asked.container_format)];
    properties.extend(
        formats.into_iter().filter_map(|(name, said)| Some((name.to_owned(), json!(said.as_ref()?)))),
    );
    let mut input = match asked.sources.as_slice() {
        [source] => json!({"import_from": source}),
        several => json!({"import_from": several}),
    };
    let headers = headers(&asked.headers)?;
    if !headers.is_empty() {
        input["import_from_headers"] = Value::Object(headers);
    }
    let texts = [
        ("import_from_format", &asked.from_format),
        ("import_from_member", &asked.member),
        ("checksum", &asked.md5),
        ("checksums_from", &asked.checksums_from),
    ];
    put(&mut input, &texts);
    for (algorithm, hash) in [("sha512", &asked.sha512), ("sha256", &asked.sha256)] {
        if let Some(hash) = hash {
            input["os_hash_algo"] = json!(algorithm);
            input["os_hash_value"] = json!(hash);
        }
    }
    if !properties.is_empty() {
        input["image_properties"] = Value::Object(properties);
    }
    run(service, output, "import", &input, &asked.waiting).await
}

/// `image-tasks export`.
pub(crate) async fn export(service: &Service, output: Output, asked: &Export) -> Result<(), Failure> {
    let image = images::resolve(service, &asked.image).await?;
    let mut input = json!({"image_uuid": text_of(&image, "id")});
    let name = |value: Option<clap::builder::PossibleValue>| value.map(|value| value.get_name().to_owned());
    let texts = [
        ("receiving_bucket", &asked.receiver.bucket),
        ("export_to", &asked.receiver.to),
        ("export_format", &name(asked.format.and_then(|format| format.to_possible_value()))),
        ("compression", &name(asked.compression.and_then(|kind| kind.to_possible_value()))),
    ];
    put(&mut input, &texts);
    run(service, output, "export", &input, &asked.waiting).await
}

/// `image-tasks clone`.
pub(crate) async fn clone(service: &Service, output: Output, asked: &CloneImage) -> Result<(), Failure> {
    let is_url = asked.image.contains("://");
    let mut input = match &asked.from_region {
        Some(region) if !is_url => json!({"source_region": region, "image_uuid": asked.image}),
        None if is_url => json!({"source_image_url": asked.image}),
        Some(_) => return Err(Failure::Usage("a URL names its region: leave --from-region out".to_owned())),
        None => {
            let why = "say where the image is: --from-region with its id, or its URL (image-tasks regions lists both)";
            return Err(Failure::Usage(why.to_owned()));
        }
    };
    if asked.allow_duplicate {
        input["allow_duplicate"] = json!(true);
    }
    let properties = asked.properties.members();
    if !properties.is_empty() {
        input["image_properties"] = Value::Object(properties);
    }
    run(service, output, "clone", &input, &asked.waiting).await
}

fn put(input: &mut Value, texts: &[(&str, &Option<String>)]) {
    for (name, text) in texts {
        if let Some(text) = text {
            input[*name] = json!(text);
        }
    }
}

/// Asks for a task and, unless told otherwise, waits for its end.
async fn run(
    service: &Service,
    output: Output,
    task_type: &str,
    input: &Value,
    waiting: &Waiting,
) -> Result<(), Failure> {
    let mut interrupts = Interrupts::listen()?;
    // With a key the POST can be sent again where its answer is lost.
    let key = waiting.idempotency_key.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
    let body = json!({"type": task_type, "input": input});
    let call =
        Call::new(Method::POST, "/v2/tasks").with_body("application/json", &body).with_idempotency_key(key);
    let task = tokio::select! {
        answer = service.ask(&call) => answer?.json()?,
        () = interrupts.next() => {
            let why = "It isn't known whether the task was made. To see: image-tasks task list";
            return Err(Failure::Interrupted(why.to_owned()));
        }
    };
    if waiting.no_wait {
        return if output.json { output.document(&task) } else { output.line(text_of(&task, "id")) };
    }
    let task = until_ended(service, output, &mut interrupts, task).await?;
    ended(output, &task)
}

/// Prints what came of a task: the image's id, or where the export lies.
pub(crate) fn ended(output: Output, task: &Value) -> Result<(), Failure> {
    let (status, message) = (text_of(task, "status"), text_of(task, "message"));
    if output.json {
        output.document(task)?;
    }
    if status != "success" {
        return Err(Failure::Told(message.to_owned()));
    }
    if !message.is_empty() {
        output.note(message);
    }
    let result = &task["result"];
    let product = [&result["image_id"], &result["export_location"]].into_iter().find_map(Value::as_str);
    match product {
        Some(product) if !output.json => output.line(product),
        _ => Ok(()),
    }
}

/// `image-tasks task`.
pub(crate) async fn command(service: &Service, output: Output, command: &TaskCommand) -> Result<(), Failure> {
    match command {
        TaskCommand::List(filter) => list(service, output, filter).await,
        TaskCommand::Show { task } => output.record(&service.get(&path_of(task)?).await?),
        TaskCommand::Watch { task } => {
            let mut interrupts = Interrupts::listen()?;
            let task = service.get(&path_of(task)?).await?;
            let task = until_ended(service, output, &mut interrupts, task).await?;
            ended(output, &task)
        }
        TaskCommand::Cancel { task, no_wait } => cancel(service, output, task, *no_wait).await,
    }
}

async fn cancel(service: &Service, output: Output, id: &str, no_wait: bool) -> Result<(), Failure> {
    let mut interrupts = Interrupts::listen()?;
    let path = path_of(id)?;
    service.ask(&Call::new(Method::POST, format!("{path}/cancel"))).await?;
    let mut task = service.get(&path).await?;
    if !no_wait {
        // From the 202 on the task can't succeed: its failure is what was asked for.
        task = until_ended(service, output, &mut interrupts, task).await?;
    }
    if output.json { output.document(&task) } else { output.line(text_of(&task, "message")) }
}

async fn list(service: &Service, output: Output, filter: &TaskFilter) -> Result<(), Failure> {
    let mut query = Serializer::new(String::new());
    let said = [("type", &filter.task_type), ("status", &filter.status)];
    query.extend_pairs(said.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))));
    let tasks = images::pages(service, "/v2/tasks", "tasks", query, filter.limit).await?;
    output.list(&tasks, &["id", "type", "status", "created_at", "image_id"])
}

/// Where a task is. An id has no character that a path would take for something else.
fn path_of(task: &str) -> Result<String, Failure> {
    match Uuid::try_parse(task) {
        Ok(_) => Ok(format!("/v2/tasks/{task}")),
        Err(_) => Err(Failure::Usage(format!("{task:?} is no task's id"))),
    }
}
