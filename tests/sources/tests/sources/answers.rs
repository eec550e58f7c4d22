//! Servers that don't answer, or not in HTTP.

use std::time::Duration;

use image_tasks_domain::FailureCode::*;

use crate::server::{Asked, Reply, Step, answer_as};
use crate::{Ends, Row, good, well};

fn bytes(text: &str) -> Vec<Step> {
    vec![Step::Send(text.as_bytes().to_vec())]
}

/// So many requests are treated so, the others well.
pub(crate) fn first(
    times: u64,
    bad: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
) -> impl Fn(&Asked) -> Reply + Send + Sync + 'static {
    move |asked| if asked.number < times { bad(asked) } else { good(asked) }
}

/// A good answer with this before it.
fn preceded(by: &'static str) -> impl Fn(&Asked) -> Reply + Send + Sync + 'static {
    move |asked| [bytes(by), good(asked)].concat()
}

pub(crate) fn rows() -> Vec<Row> {
    let unreachable = |words| Ends::Badly(SourceUnreachable, words);
    vec![
        Row::new("is as a server should be", well(), good),
        Row::new("has a name without an address", unreachable("no-such-name.invalid"), good)
            .at("http://no-such-name.invalid/x.img"),
        Row::new("refuses connections", unreachable("can't be connected to"), good)
            .at("http://127.0.0.1:1/x.img"),
        Row::new("takes the request and says nothing", unreachable("sent nothing for"), |_| vec![Step::Hang]),
        Row::new("closes the connection without an answer", unreachable("gave no answer"), |_| Vec::new()),
        Row::new("resets the connection", unreachable("gave no answer"), |_| vec![Step::Reset]),
        Row::new("resets four connections, then answers", well(), first(4, |_| vec![Step::Reset])),
        Row::new("says nothing once, then answers", well(), first(1, |_| vec![Step::Hang])),
        Row::new("does not speak HTTP", unreachable("gave no answer"), |_| bytes("SSH-2.0-OpenSSH_9.6\r\n")),
        Row::new("does not speak TLS where https is asked for", unreachable("can't be connected to"), good)
            .at("https://HOST/x.img"),
        Row::new("breaks off within the head", unreachable("gave no answer"), |_| {
            bytes("HTTP/1.1 200 OK\r\nETag: ")
        }),
        Row::new("sends a head without end", unreachable("gave no answer"), |_| {
            let line = format!("X-More: {}\r\n", "x".repeat(1000));
            [bytes("HTTP/1.1 200 OK\r\n"), bytes(&line.repeat(1000))].concat()
        }),
        Row::new(
            "sends its head a line a second, and never ends it",
            unreachable("sent nothing for"),
            |_| {
                let line = [bytes("X-More: x\r\n"), vec![Step::Pause(Duration::from_secs(1))]].concat();
                [bytes("HTTP/1.1 200 OK\r\n"), vec![line; 30].concat()].concat()
            },
        ),
        Row::new("says `100 Continue` before its answer", well(), preceded("HTTP/1.1 100 Continue\r\n\r\n")),
        Row::new(
            "says `103 Early Hints` before its answer",
            well(),
            preceded("HTTP/1.1 103 Early Hints\r\nLink: </x.css>\r\n\r\n"),
        ),
        Row::new("gives two lengths", unreachable("gave no answer"), |_| {
            answer_as("200 OK", "Content-Length: 3\nContent-Length: 4", b"abcd")
        }),
        Row::new("gives a negative length", unreachable("gave no answer"), |_| {
            answer_as("200 OK", "Content-Length: -1", b"abcd")
        }),
    ]
}
