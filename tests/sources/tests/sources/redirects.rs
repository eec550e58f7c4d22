//! Servers that lead elsewhere.

use image_tasks_domain::FailureCode::*;

use crate::server::{Asked, Reply, answer_of, serves};
use crate::{Ends, IMAGE, Row, good, well};

fn to(location: &str) -> Reply {
    answer_of("302 Found", &format!("Location: {location}"), b"")
}

/// Leads from where the source is said to be to there, with the server's address for `HOST`; anywhere else is the image.
fn leads(location: &'static str) -> impl Fn(&Asked) -> Reply + Send + Sync + 'static {
    move |asked| match asked.path.as_str() {
        "/x.img" => to(&location.replace("HOST", &asked.host.to_string())),
        _ => good(asked),
    }
}

/// Leads over so many paths.
fn hops(most: usize) -> impl Fn(&Asked) -> Reply + Send + Sync + 'static {
    move |asked| {
        let hop = asked.path.strip_prefix("/hop").map_or(0, |hop| hop.parse().unwrap());
        if hop < most { to(&format!("/hop{}", hop + 1)) } else { good(asked) }
    }
}

const FORBIDDEN: [(&str, &str); 8] = [
    ("a cloud's metadata", "http://169.254.169.254/latest/meta-data/"),
    ("a private network", "http://10.0.0.1/x.img"),
    ("this machine, by IPv6", "http://[::1]/x.img"),
    ("an address in an odd spelling", "http://2130706433/x.img"),
    ("an address with a user's name", "http://user@127.0.0.1/x.img"),
    ("another port of a public server", "http://192.0.2.1:22/x.img"),
    ("a file", "file:///etc/passwd"),
    ("a bucket", "s3://bucket/key"),
];

pub(crate) fn rows() -> Vec<Row> {
    let invalid = |words| Ends::Badly(SourceInvalid, words);
    let mut rows: Vec<_> = ["301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect"]
        .into_iter()
        .chain(["308 Permanent Redirect"])
        .map(|status| {
            Row::new(format!("leads elsewhere by `{status}`"), well(), move |asked| {
                match asked.path.as_str() {
                    "/x.img" => answer_of(status, "Location: /y.img", b""),
                    _ => good(asked),
                }
            })
        })
        .collect();
    rows.extend([
        Row::new("leads to `//host/path`", well(), leads("//HOST/y.img")),
        Row::new(
            "leads to a path with blanks and letters beyond ASCII",
            well(),
            leads("/b\u{fc}cher a/y.img"),
        ),
        Row::new("leads to an address with a fragment", well(), leads("/y.img#part")),
        Row::new("leads over five addresses", well(), hops(5)),
        Row::new("leads over six addresses", invalid("redirects more than 5 times"), hops(6)),
        Row::new("leads to itself", invalid("redirects more than 5 times"), leads("/x.img")),
        Row::new("leads elsewhere and says not where", invalid("without Location"), |_| {
            answer_of("302 Found", "", b"")
        }),
        Row::new("has choices and names none", invalid("without Location"), |_| {
            answer_of("300 Multiple Choices", "", b"")
        }),
        Row::new(
            "leads to what is no address",
            Ends::Badly(SourceInvalid, "redirects to no URL"),
            leads("http://"),
        ),
        Row::new("leads away once it is read", invalid("answered 302"), |asked| match asked.is_look() {
            true => good(asked),
            false => to("/y.img"),
        }),
        Row::new(
            "leads to another copy each time",
            Ends::Badly(SourceChanged, "changed while it was read"),
            |asked| match asked.path.as_str() {
                "/x.img" => to(&format!("/{}.img", asked.number)),
                copy => serves(asked, &IMAGE, &format!("ETag: \"{copy}\"")),
            },
        ),
    ]);
    rows.extend(FORBIDDEN.map(|(place, location)| {
        Row::new(format!("leads to {place}"), Ends::Badly(SourceForbidden, ""), leads(location))
    }));
    rows
}
