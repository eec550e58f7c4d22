//! Servers that lie or stall: what an import of each ends with. One table for the code and for its readers.
//!
//! Each row is a whole import, by the state machine as deployed and the real HTTP client. All rows run side by side, in real
//! time, since most of it is waiting.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::panic, reason = "tests")]

mod answers;
mod bodies;
mod objects;
mod redirects;
mod server;
mod statuses;
mod versions;
mod world;

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use futures::future::join_all;
use image_tasks_domain::{FailureCode, TaskStatus};
use serde_json::{Value, json};
use template_tests::Docs;

use server::{Asked, Behaves, Reply, serves};

/// A behaviour of a server.
struct Row {
    /// "The server ..."
    does: String,
    behaves: Behaves,
    /// Of the task, beside where the source is.
    input: Value,
    /// Where the source is said to be, with the server's address for `HOST`.
    at: &'static str,
    ends: Ends,
}

/// What its import ends with.
enum Ends {
    /// The image is these bytes.
    Well(Bytes),
    /// With this code and, among others, these words.
    Badly(FailureCode, &'static str),
}

impl Row {
    fn new(
        does: impl Into<String>,
        ends: Ends,
        behaves: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self {
            does: does.into(),
            behaves: Arc::new(behaves),
            input: json!({"import_from_format": "raw"}),
            at: "http://HOST/x.img",
            ends,
        }
    }

    fn with(self, input: Value) -> Self {
        Self { input, ..self }
    }

    fn at(self, at: &'static str) -> Self {
        Self { at, ..self }
    }

    /// As docs/sources.md has it.
    fn cells(&self) -> Vec<String> {
        let (ends, told) = match &self.ends {
            Ends::Well(_) => ("success".to_owned(), ""),
            Ends::Badly(code, words) => (format!("`{code}`"), *words),
        };
        vec![self.does.clone(), ends, told.to_owned()]
    }
}

/// An image without any signature.
static IMAGE: LazyLock<Bytes> =
    LazyLock::new(|| (0..200_000_u64).map(|n| u8::try_from(n * n % 251).unwrap()).collect());

fn well() -> Ends {
    Ends::Well(IMAGE.clone())
}

/// The image, as a good server answers.
fn good(asked: &Asked) -> Reply {
    serves(asked, &IMAGE, "ETag: \"v1\"")
}

fn rows() -> Vec<Row> {
    [answers::rows(), statuses::rows(), redirects::rows(), versions::rows(), bodies::rows()]
        .into_iter()
        .flatten()
        .collect()
}

/// What is wrong with how a row ended.
async fn wrong(row: &Row) -> Option<String> {
    let host = server::serve(Arc::clone(&row.behaves)).await;
    let mut input = row.input.clone();
    input["import_from"] = row.at.replace("HOST", &host.to_string()).into();
    let (task, image) = world::import(input).await;
    let is_right = match &row.ends {
        Ends::Well(bytes) => task.status == TaskStatus::Success && image.as_ref() == Some(bytes),
        Ends::Badly(code, words) => {
            let told = task.message.strip_prefix(&format!("{code}: "));
            image.is_none()
                && task.status == TaskStatus::Failure
                && told.is_some_and(|told| told.contains(words) && told.len() > 20)
        }
    };
    let image = image.map(|bytes| bytes.len());
    (!is_right).then(|| format!("{:?}: {:?} {image:?} {}", row.cells(), task.status, task.message))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_behaviour_has_its_end() {
    let rows = rows();
    let wrong: Vec<_> = join_all(rows.iter().map(wrong)).await.into_iter().flatten().collect();
    println!("{} behaviours of servers, {} end otherwise than they should", rows.len(), wrong.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_page_has_the_same_table() {
    let rows = rows();
    assert!(rows.len() >= 60);
    let docs = Docs::load();
    let page: Vec<Vec<String>> = docs
        .table("## Which behaviour ends how?")
        .into_iter()
        .map(|row| row.into_iter().map(str::to_owned).collect())
        .collect();
    let cells: Vec<_> = rows.iter().map(Row::cells).collect();
    let text: String = cells.iter().map(|row| format!("| {} |\n", row.join(" | ").trim_end())).collect();
    assert!(page == cells, "the table of docs/sources.md should be\n{text}");
}
