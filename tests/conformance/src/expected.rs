//! What a command has to show.

use std::collections::BTreeMap;

use serde_json::Value;

/// One line below a command.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    /// Whether the command is repeated until it shows this.
    pub until: bool,
    /// What it shows.
    pub what: What,
}

/// What a command shows.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// It fails, and says this text.
    Fails(String),
    /// It says this text.
    Says(String),
    /// Behind the path is this.
    Is(String, Value),
    /// The list or the text behind the path holds this.
    Has(String, Value),
    /// The list or the text behind the path doesn't hold this.
    Lacks(String, Value),
    /// The text behind the path has this name from now on.
    Named(String, String),
}

impl Expected {
    /// `[until] fails "..."`, `says "..."`, `path = JSON`, `path has JSON`, `path lacks JSON`, `path -> name`.
    ///
    /// # Errors
    /// It is none of these.
    pub fn read(text: &str) -> anyhow::Result<Self> {
        let (until, text) = match text.strip_prefix("until ") {
            Some(text) => (true, text),
            None => (false, text),
        };
        let json = |text: &str| {
            serde_json::from_str::<Value>(text).map_err(|error| anyhow::anyhow!("{text} is no JSON: {error}"))
        };
        let string =
            |text: &str| json(text)?.as_str().map(str::to_owned).ok_or_else(|| anyhow::anyhow!("{text}"));
        let what = if let Some(text) = text.strip_prefix("fails ") {
            What::Fails(string(text)?)
        } else if let Some(text) = text.strip_prefix("says ") {
            What::Says(string(text)?)
        } else if let Some((path, value)) = text.split_once(" = ") {
            What::Is(path.to_owned(), json(value)?)
        } else if let Some((path, value)) = text.split_once(" has ") {
            What::Has(path.to_owned(), json(value)?)
        } else if let Some((path, value)) = text.split_once(" lacks ") {
            What::Lacks(path.to_owned(), json(value)?)
        } else if let Some((path, name)) = text.split_once(" -> ") {
            What::Named(path.to_owned(), name.to_owned())
        } else {
            anyhow::bail!("{text:?} expects nothing that is known")
        };
        Ok(Self { until, what })
    }

    /// Whether what the command printed has to be read.
    #[must_use]
    pub fn reads(&self) -> bool {
        !matches!(self.what, What::Fails(_) | What::Says(_))
    }
}

/// What `{name}` stands for.
#[derive(Debug, Clone, Default)]
pub struct Names(BTreeMap<String, String>);

impl Names {
    /// A name for a text.
    pub fn set(&mut self, name: &str, text: &str) {
        self.0.insert(name.to_owned(), text.to_owned());
    }

    /// A text with its names replaced.
    #[must_use]
    pub fn fill(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
    }

    fn fill_in(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.fill(text)),
            Value::Array(items) => items.iter().map(|item| self.fill_in(item)).collect(),
            other => other.clone(),
        }
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Shown {
    /// Whether its exit code says so.
    pub succeeded: bool,
    /// All that it wrote.
    pub said: String,
    /// What it wrote to its standard output, if that can be read.
    pub printed: Option<Value>,
}

impl Shown {
    /// What differs from what is expected; names what has to be named.
    pub fn differs(&self, expected: &[Expected], names: &mut Names) -> Option<String> {
        if self.succeeded && expected.iter().any(|one| matches!(one.what, What::Fails(_))) {
            return Some("it succeeded".to_owned());
        }
        if !self.succeeded && !expected.iter().any(|one| matches!(one.what, What::Fails(_))) {
            return Some("it failed".to_owned());
        }
        expected.iter().find_map(|one| self.lacks(&one.what, names))
    }

    fn lacks(&self, what: &What, names: &mut Names) -> Option<String> {
        let found = |path: &str| at(self.printed.as_ref().unwrap_or(&Value::Null), path);
        match what {
            What::Fails(text) | What::Says(text) => {
                let text = names.fill(text);
                (!self.said.contains(&text)).then(|| format!("it doesn't say {text:?}"))
            }
            What::Is(path, value) => {
                let (value, found) = (names.fill_in(value), found(path));
                (value != found).then(|| format!("{path} is {found}, not {value}"))
            }
            What::Has(path, value) => {
                let (value, found) = (names.fill_in(value), found(path));
                (!holds(&found, &value)).then(|| format!("{path} is {found}, without {value}"))
            }
            What::Lacks(path, value) => {
                let (value, found) = (names.fill_in(value), found(path));
                // Nothing at all is no list that could lack something.
                (found.is_null() || holds(&found, &value)).then(|| format!("{path} is {found}, with {value}"))
            }
            What::Named(path, name) => match found(path) {
                Value::String(text) => {
                    names.set(name, &text);
                    None
                }
                other => Some(format!("{path} is {other}, no text")),
            },
        }
    }
}

fn holds(found: &Value, value: &Value) -> bool {
    match (found, value) {
        (Value::Array(items), value) => items.contains(value),
        (Value::String(text), Value::String(part)) => text.contains(part.as_str()),
        _ => false,
    }
}

/// What is behind a path of names and numbers between dots: `*` is each item of a list, `length` the length of one.
fn at(value: &Value, path: &str) -> Value {
    let (step, rest) = match path.split_once('.') {
        Some((step, rest)) => (step, Some(rest)),
        None => (path, None),
    };
    let behind = match (value, step) {
        (Value::Array(items), "*") => {
            return items
                .iter()
                .map(|item| rest.map_or_else(|| item.clone(), |rest| at(item, rest)))
                .collect();
        }
        (Value::Array(items), "length") => Value::from(items.len()),
        (Value::Array(items), step) => {
            step.parse::<usize>().ok().and_then(|step| items.get(step)).cloned().unwrap_or_default()
        }
        (value, step) => value.get(step).cloned().unwrap_or_default(),
    };
    rest.map_or_else(|| behind.clone(), |rest| at(&behind, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(succeeded: bool, said: &str, printed: Value) -> Shown {
        Shown { succeeded, said: said.to_owned(), printed: Some(printed) }
    }

    fn holds(shown: &Shown, text: &str) -> bool {
        let mut names = Names::default();
        names.set("id", "7");
        shown.differs(&[Expected::read(text).unwrap()], &mut names).is_none()
    }

    #[test]
    fn expectations_hold_or_not() {
        let image =
            shown(true, "text", json!({"id": "7", "tags": ["a"], "properties": {"os": "x"}, "size": null}));
        for (text, expected) in [
            (r#"id = "{id}""#, true),
            (r#"id = "8""#, false),
            ("size = null", true),
            (r#"tags has "a""#, true),
            (r#"tags has "b""#, false),
            (r#"tags lacks "b""#, true),
            (r#"tags lacks "a""#, false),
            (r#"none lacks "a""#, false),
            ("tags.length = 1", true),
            (r#"properties.os = "x""#, true),
            (r#"says "te""#, true),
            (r#"says "no""#, false),
            (r#"fails "te""#, false),
            ("id -> image", true),
            ("size -> image", false),
        ] {
            assert_eq!(holds(&image, text), expected, "{text}");
        }
        let list = shown(true, "", json!([{"ID": "7"}, {"ID": "8"}]));
        assert!(holds(&list, r#"*.ID = ["7", "8"]"#));
        assert!(holds(&list, r#"*.ID has "{id}""#));
        assert!(holds(&list, r#"1.ID = "8""#));
        assert!(!holds(&list, r#"2.ID = "8""#));
        let failure = shown(false, "404: none", Value::Null);
        assert!(holds(&failure, r#"fails "404""#));
        assert!(!holds(&failure, r#"fails "403""#));
        assert!(!holds(&failure, r#"says "404""#));
    }

    #[test]
    fn what_is_named_is_filled_in() {
        let mut names = Names::default();
        let image = shown(true, "", json!({"id": "7"}));
        assert_eq!(image.differs(&[Expected::read("id -> image").unwrap()], &mut names), None);
        assert_eq!(names.fill("show {image}"), "show 7");
    }

    #[test]
    fn other_lines_are_refused() {
        for text in ["id", "id = x", "fails", "fails 7", "id == 7"] {
            assert!(Expected::read(text).is_err(), "{text}");
        }
        assert!(Expected::read(r#"until status = "success""#).unwrap().until);
    }
}
