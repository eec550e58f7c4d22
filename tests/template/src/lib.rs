//! `template.yaml`, the state machines and the tables of `docs/`, read for tests.
//!
//! Invariant: what is read is what is deployed. Intrinsic functions are kept,
//! in their long form (`!Ref X` is `{"Ref": "X"}`), and nothing is resolved.

#![allow(clippy::expect_used, clippy::panic, reason = "a file that can't be read is a failed test")]

use std::fs;
use std::path::PathBuf;

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Value, json};

/// A file of the repository.
pub fn repository_file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(repository_file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The SAM template.
#[derive(Debug)]
pub struct Template(Value);

impl Template {
    /// `template.yaml`.
    pub fn load() -> Self {
        let text = read("template.yaml");
        let documents = Yaml::load_from_str(&text).expect("template.yaml is YAML");
        Self(to_json(&documents[0]))
    }

    /// The value at a JSON pointer; null where there is none.
    pub fn at(&self, pointer: &str) -> &Value {
        self.0.pointer(pointer).unwrap_or(&Value::Null)
    }

    /// The template's parameters, by name.
    pub fn parameters(&self) -> &Map<String, Value> {
        self.at("/Parameters").as_object().expect("Parameters")
    }

    /// Logical id and properties of each resource of this type.
    pub fn resources<'a>(&'a self, of_type: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.all_resources()
            .filter(move |(_, resource)| resource["Type"] == of_type)
            .map(|(id, resource)| (id, &resource["Properties"]))
    }

    /// Logical id and whole definition of each resource.
    pub fn all_resources(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.at("/Resources").as_object().expect("Resources").iter().map(|(id, r)| (id.as_str(), r))
    }

    /// The whole template.
    pub fn value(&self) -> &Value {
        &self.0
    }
}

fn to_json(node: &Yaml<'_>) -> Value {
    match node {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(value)) => json!(value),
        Yaml::Value(Scalar::Integer(value)) => json!(value),
        Yaml::Value(Scalar::FloatingPoint(value)) => json!(value.0),
        Yaml::Value(Scalar::String(value)) => json!(value),
        Yaml::Sequence(items) => items.iter().map(to_json).collect(),
        Yaml::Mapping(entries) => entries
            .iter()
            .map(|(key, value)| (key.as_str().expect("keys are strings").to_owned(), to_json(value)))
            .collect::<Map<_, _>>()
            .into(),
        Yaml::Tagged(tag, inner) => {
            let name = match tag.suffix.as_str() {
                short @ ("Ref" | "Condition") => short.to_owned(),
                function => format!("Fn::{function}"),
            };
            json!({ name: to_json(inner) })
        }
        Yaml::Representation(..) | Yaml::Alias(_) | Yaml::BadValue => {
            panic!("template.yaml: CloudFormation takes no {node:?}")
        }
    }
}

/// Where definitions of state machines lie.
const DEFINITIONS: &str = "infra/statemachines";

/// A state machine of the template.
#[derive(Debug)]
pub struct StateMachine {
    /// Its logical id.
    pub id: String,
    /// Its definition; what a function's ARN is substituted into names the function, as `ImportFunction`.
    pub definition: Value,
    /// Its role's logical id.
    pub role: String,
}

impl StateMachine {
    /// Every state machine of the template.
    pub fn load_all() -> Vec<Self> {
        let template = Template::load();
        let machines = template.resources("AWS::Serverless::StateMachine").map(|(id, properties)| {
            let path = properties["DefinitionUri"].as_str().expect("a path");
            let mut text = read(path);
            for (name, arn) in properties["DefinitionSubstitutions"].as_object().expect("substitutions") {
                let placeholder = format!("${{{name}}}");
                assert!(text.contains(&placeholder), "{id}: {path} has no {placeholder}");
                text = text.replace(&placeholder, resource_of_arn(arn));
            }
            let definition = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"));
            Self { id: id.to_owned(), definition, role: resource_of_arn(&properties["Role"]).to_owned() }
        });
        let machines: Vec<_> = machines.collect();
        assert_eq!(machines.len(), 3, "one for each type of task");
        machines
    }

    /// Paths of all definitions, from the repository's root.
    pub fn definitions() -> Vec<String> {
        fs::read_dir(repository_file(DEFINITIONS))
            .expect("state machines")
            .map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8"))
            .filter(|name| name.ends_with(".asl.json"))
            .map(|name| format!("{DEFINITIONS}/{name}"))
            .collect()
    }

    /// Every state, those inside a map too.
    pub fn states(&self) -> Vec<State<'_>> {
        let mut found = Vec::new();
        collect(&self.definition, None, &mut found);
        found
    }
}

/// The logical id that an ARN is taken of.
fn resource_of_arn(arn: &Value) -> &str {
    arn["Fn::GetAtt"].as_str().and_then(|of| of.strip_suffix(".Arn")).expect("the ARN of a resource")
}

/// A state of a machine.
#[derive(Debug, Clone, Copy)]
pub struct State<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its definition.
    pub body: &'a Value,
    /// The map around it.
    pub map: Option<&'a Value>,
}

fn collect<'a>(machine: &'a Value, map: Option<&'a Value>, found: &mut Vec<State<'a>>) {
    for (name, body) in machine["States"].as_object().expect("States") {
        found.push(State { name, body, map });
        if let Some(inner) = body.get("ItemProcessor") {
            collect(inner, Some(body), found);
        }
    }
}

/// The pages of `docs/`, the contract between the rooms.
#[derive(Debug)]
pub struct Docs(String);

impl Docs {
    /// All pages, those of its folders too, one behind the other.
    pub fn load() -> Self {
        let (mut text, mut folders) = (String::new(), vec![repository_file("docs")]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder of docs") {
                let path = entry.expect("an entry of docs").path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|name| name == "md") {
                    text += &fs::read_to_string(&path).expect("a page");
                    text.push('\n');
                }
            }
        }
        Self(text)
    }

    /// The text below this heading (with its `#`s), up to the next one of the same or a higher level.
    pub fn section(&self, heading: &str) -> &str {
        let start = self.0.find(&format!("\n{heading}")).unwrap_or_else(|| panic!("no section {heading:?}"));
        let body = &self.0[start + 1..];
        let level = heading.chars().take_while(|c| *c == '#').count();
        let end = (1..=level)
            .filter_map(|n| body.find(&format!("\n{} ", "#".repeat(n))))
            .min()
            .unwrap_or(body.len());
        &body[..end]
    }

    /// The rows of the first table below this heading, without its head.
    pub fn table(&self, heading: &str) -> Vec<Vec<&str>> {
        self.section(heading)
            .lines()
            .skip_while(|line| !line.starts_with('|'))
            .take_while(|line| line.starts_with('|'))
            .skip(2)
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect()
    }
}

/// The entries of a page of `docs/`: what the heading (`###`, names in code spans) is about, and the text below it.
pub fn entries(page: &str) -> Vec<(Vec<String>, String)> {
    let text = read(&format!("docs/{page}"));
    let names = |heading: &str| code_spans(heading).into_iter().map(str::to_owned).collect();
    text.split("\n### ")
        .skip(1)
        .map(|entry| {
            let (heading, body) = entry.split_once('\n').expect("a text below the heading");
            (names(heading), body.split("\n## ").next().unwrap_or_default().to_owned())
        })
        .collect()
}

/// What stands between backticks.
pub fn code_spans(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}
