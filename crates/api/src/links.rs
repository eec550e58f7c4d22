//! Query strings in, links out.

use std::fmt::Write as _;

use http::Uri;
use http::request::Parts;
use http::uri::Authority;
use image_tasks_domain::InvalidInput;
use image_tasks_domain::input::quoted;
use image_tasks_domain::tasks::DEFAULT_LIMIT;
use url::form_urlencoded;

/// A request's query, decoded, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn of(uri: &Uri) -> Self {
        Self(form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect())
    }

    /// The value of a parameter; of a repeated one the last, as in Glance.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Every value of a parameter, in order.
    pub(crate) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Each parameter's name and last value.
    pub(crate) fn last_of_each(&self) -> impl Iterator<Item = (&str, &str)> {
        let is_last = |n: usize, name: &str| !self.0.iter().skip(n + 1).any(|(later, _)| later == name);
        let named = self.0.iter().enumerate().filter(move |(n, (name, _))| is_last(*n, name));
        named.map(|(_, (name, value))| (name.as_str(), value.as_str()))
    }

    /// `limit`: a whole number, however large.
    pub(crate) fn limit(&self) -> Result<usize, InvalidInput> {
        match self.get("limit") {
            None => Ok(DEFAULT_LIMIT),
            Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                Ok(digits.parse().unwrap_or(usize::MAX))
            }
            Some(other) => Err(InvalidInput::new(
                "limit",
                format!("must be a whole number from 0, not {}", quoted(other)),
            )),
        }
    }

    /// `path` with this query, but another marker or none.
    pub(crate) fn link(&self, path: &str, marker: Option<&str>) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.0.iter().filter(|(key, _)| key != "marker"));
        if let Some(marker) = marker {
            query.append_pair("marker", marker);
        }
        let mut link = path.to_owned();
        let query = query.finish();
        if !query.is_empty() {
            // Writing to a String can't fail.
            let _ = write!(link, "?{query}");
        }
        link
    }
}

/// Scheme and host that the client sees, without a trailing slash: as configured, else as the
/// request says. Empty, so that links become relative, where it says nothing usable.
pub(crate) fn endpoint(configured: Option<&str>, request: &Parts) -> String {
    if let Some(endpoint) = configured {
        return endpoint.to_owned();
    }
    let text = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok());
    let host = text("host").and_then(|host| host.parse::<Authority>().ok());
    let Some(host) = host.or_else(|| request.uri.authority().cloned()) else { return String::new() };
    let scheme = match text("x-forwarded-proto").or(request.uri.scheme_str()) {
        Some("http") => "http",
        _ => "https",
    };
    format!("{scheme}://{host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::of(&format!("/v2/tasks?{text}").parse().unwrap())
    }

    #[test]
    fn links_keep_the_query_but_not_the_marker() {
        let q = query("limit=2&marker=x&status=success&owner=a%26b+c&marker=y");
        assert_eq!(q.link("/v2/tasks", None), "/v2/tasks?limit=2&status=success&owner=a%26b+c");
        assert_eq!(q.link("/v2/tasks", Some("z")), "/v2/tasks?limit=2&status=success&owner=a%26b+c&marker=z");
        assert_eq!(query("marker=x").link("/v2/tasks", None), "/v2/tasks");
    }

    #[test]
    fn limits() {
        assert_eq!(query("").limit().unwrap(), 25);
        assert_eq!(query("limit=0").limit().unwrap(), 0);
        assert_eq!(query("limit=5&limit=7").limit().unwrap(), 7);
        assert_eq!(query("limit=99999999999999999999999").limit().unwrap(), usize::MAX);
        for bad in ["-1", "%2B1", "1.5", "ten", "", "1e3", "%00"] {
            assert_eq!(query(&format!("limit={bad}")).limit().unwrap_err().parameter, "limit", "{bad}");
        }
    }

    #[test]
    fn endpoints() {
        let request = |headers: &[(&str, &str)], uri: &str| {
            let mut builder = http::Request::builder().uri(uri);
            for (name, value) in headers {
                builder = builder.header(*name, *value);
            }
            builder.body(()).unwrap().into_parts().0
        };
        let seen = request(&[("host", "api.example:8443"), ("x-forwarded-proto", "http")], "/");
        assert_eq!(endpoint(None, &seen), "http://api.example:8443");
        assert_eq!(endpoint(Some("https://images.example"), &seen), "https://images.example");
        assert_eq!(endpoint(None, &request(&[("host", "api.example")], "/")), "https://api.example");
        assert_eq!(endpoint(None, &request(&[("host", "a/b c")], "http://other/")), "http://other");
        assert_eq!(endpoint(None, &request(&[], "/")), "");
    }
}
