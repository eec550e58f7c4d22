//! The service's OpenAPI document, held against every answer that a wire test gets.

use std::panic::AssertUnwindSafe;
use std::sync::LazyLock;

use bytes::Bytes;
use futures::FutureExt as _;
use http::response::Parts;
use http::{Method, Request};
use serde_json::{Value, json};

use crate::schema;
use crate::service::Service;

/// Statuses of what isn't documented to be there: other versions, nobody, not here, not so, faults.
const ELSEWHERE: [u16; 7] = [300, 401, 403, 404, 405, 500, 503];

/// The document.
pub(crate) struct Contract {
    document: Value,
}

pub(crate) static CONTRACT: LazyLock<Contract> = LazyLock::new(|| {
    let request = Request::get("/v2/openapi.json").body(Bytes::new()).unwrap();
    let answer = Service::new().app.handle(request).now_or_never().expect("nothing to wait for");
    assert_eq!(answer.status().as_u16(), 200);
    Contract { document: serde_json::from_slice(answer.body()).unwrap() }
});

impl Contract {
    /// Every documented operation: method and path.
    pub(crate) fn operations(&self) -> Vec<(String, String)> {
        let paths = self.document["paths"].as_object().unwrap().iter();
        let of = |(path, item): (&String, &Value)| -> Vec<_> {
            let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
            methods.map(|method| (method.to_uppercase(), path.clone())).collect()
        };
        paths.flat_map(of).collect()
    }

    /// Fails where the answer isn't what the document says. `path` has no query.
    #[track_caller]
    pub(crate) fn check(&self, method: &Method, path: &str, parts: &Parts, body: &Bytes) {
        let status = parts.status.as_u16();
        let what = || format!("{method} {path} is answered {status}: {}", String::from_utf8_lossy(body));
        let Some(item) = self.item(path) else {
            assert!(ELSEWHERE.contains(&status), "not documented: {}", what());
            return self.check_error(status, body, &what);
        };
        let Some(operation) = item.get(method.as_str().to_ascii_lowercase()) else {
            assert!(ELSEWHERE.contains(&status), "no documented method: {}", what());
            if status == 405 {
                let allow = parts.headers["allow"].to_str().unwrap();
                for method in allow.split(", ") {
                    assert!(item.get(method.to_ascii_lowercase()).is_some(), "{allow} isn't documented");
                }
            }
            return self.check_error(status, body, &what);
        };
        let answer = self.resolved(&operation["responses"][status.to_string()]);
        assert!(answer.is_object(), "no documented status: {}", what());
        for (name, header) in answer["headers"].as_object().into_iter().flatten() {
            let is_there = parts.headers.contains_key(name.to_ascii_lowercase());
            assert!(is_there || self.resolved(header)["required"] != true, "no {name}: {}", what());
        }
        let Some(content) = answer["content"].as_object() else {
            assert!(body.is_empty(), "no documented body: {}", what());
            return;
        };
        let media = parts.headers["content-type"].to_str().unwrap().split(';').next().unwrap();
        let documented = content.get(media).unwrap_or_else(|| panic!("{media} isn't documented: {}", what()));
        if media == "application/json" {
            let reference = documented["schema"]["$ref"].as_str().unwrap();
            self.check_body(reference.rsplit('/').next().unwrap(), body, &what);
        }
    }

    /// What a documented path is: the one whose parts are the same, but for those that are named.
    fn item(&self, path: &str) -> Option<&Value> {
        let path = as_v2(path);
        let is_it = |documented: &str| {
            let (parts, found) = (documented.split('/'), path.split('/'));
            parts.clone().count() == found.clone().count()
                && parts
                    .zip(found)
                    .all(|(part, found)| part == found || (part.starts_with('{') && !found.is_empty()))
        };
        let mut paths = self.document["paths"].as_object().unwrap().iter();
        paths.find(|(documented, _)| is_it(documented)).map(|(_, item)| item)
    }

    fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#')) {
            Some(pointer) => self.document.pointer(pointer).expect("a component"),
            None => value,
        }
    }

    fn check_error(&self, status: u16, body: &Bytes, what: &dyn Fn() -> String) {
        self.check_body(if status == 300 { "versions" } else { "error" }, body, what);
    }

    fn check_body(&self, schema: &str, body: &Bytes, what: &dyn Fn() -> String) {
        let body: Value = serde_json::from_slice(body).unwrap_or_else(|e| panic!("{e}: {}", what()));
        let schema = &self.document["components"]["schemas"][schema];
        let errors = schema::errors(&self.document, schema, &body);
        assert!(errors.is_empty(), "not of its schema: {errors:?}\n{}", what());
    }
}

/// A path as it is documented: minor versions are the same API, and two paths may end with a slash.
fn as_v2(path: &str) -> String {
    let path = match path {
        "/v2/" | "/versions/" => path.trim_end_matches('/'),
        path => path,
    };
    let minor = path.strip_prefix("/v2.").and_then(|rest| rest.split_once('/'));
    match minor {
        Some((minor, rest)) if minor.parse().is_ok_and(|minor: u32| minor <= 17) => format!("/v2/{rest}"),
        _ => path.to_owned(),
    }
}

#[test]
fn an_answer_that_is_not_documented_is_seen() {
    let error = json!({"error": {"message": "m", "code": "404 Not Found", "title": "Not Found"}}).to_string();
    let answer = |path: &str, status: u16, body: &str| {
        let response = http::Response::builder()
            .status(status)
            .header("content-type", "application/json")
            .header("x-openstack-request-id", "req-x");
        let (parts, ()) = response.body(()).unwrap().into_parts();
        let body = Bytes::from(body.to_owned());
        std::panic::catch_unwind(AssertUnwindSafe(|| CONTRACT.check(&Method::GET, path, &parts, &body)))
            .is_ok()
    };
    assert!(answer("/v2/tasks/x", 404, &error));
    assert!(answer("/v2.3/tasks/x", 404, &error));
    assert!(!answer("/v2/tasks/x", 409, &error), "a status");
    assert!(!answer("/v2/tasks/x", 404, "{}"), "an error");
    assert!(!answer("/v2/tasks/x", 200, r#"{"id": "x"}"#), "a task");
    assert!(!answer("/v2/nonsense", 200, "{}"), "a path");
    assert!(!answer("/v2/tasks/x", 401, &error), "no header that says how");
}
