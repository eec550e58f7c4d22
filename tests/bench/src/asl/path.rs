//! Reference paths, and the templates and results that use them.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Thrown;

/// `$.a.b` in a state's data, or `$$.a.b` in the context object.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Path {
    text: String,
    of_context: bool,
    names: Vec<String>,
}

impl TryFrom<String> for Path {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let refused = || format!("{text} is no path of names");
        let rest = text.strip_prefix('$').ok_or_else(refused)?;
        let of_context = rest.starts_with('$');
        let rest = rest.strip_prefix('$').unwrap_or(rest);
        let names: Vec<String> = match rest.strip_prefix('.') {
            Some(names) => names.split('.').map(str::to_owned).collect(),
            None if rest.is_empty() => Vec::new(),
            None => return Err(refused()),
        };
        let is_name = |name: &String| {
            !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-')
        };
        if !names.iter().all(is_name) {
            return Err(refused());
        }
        Ok(Self { text, of_context, names })
    }
}

/// What paths read: the state's data, and the context object.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub data: &'a Value,
    pub context: &'a Value,
}

impl<'a> Scope<'a> {
    /// What is there, if anything is.
    pub(super) fn find(self, path: &Path) -> Option<&'a Value> {
        let whole = if path.of_context { self.context } else { self.data };
        path.names.iter().try_fold(whole, |value, name| value.as_object()?.get(name))
    }

    /// What must be there. Step Functions ends the execution otherwise.
    pub(super) fn get(self, path: &Path) -> Result<&'a Value, Thrown> {
        self.find(path).ok_or_else(|| Thrown::runtime(format!("the path {} is not in the input", path.text)))
    }
}

/// Parameters and ItemSelector: JSON, where the value of a name that ends in `.$` is a path.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Value")]
pub(super) enum Template {
    Constant(Value),
    Path(Path),
    Object(Vec<(String, Template)>),
    Array(Vec<Template>),
}

impl TryFrom<Value> for Template {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        Ok(match value {
            Value::Object(fields) => Self::Object(fields.into_iter().map(field).collect::<Result<_, _>>()?),
            Value::Array(items) => {
                Self::Array(items.into_iter().map(Self::try_from).collect::<Result<_, _>>()?)
            }
            other => Self::Constant(other),
        })
    }
}

fn field((name, value): (String, Value)) -> Result<(String, Template), String> {
    let Some(plain) = name.strip_suffix(".$") else { return Ok((name, value.try_into()?)) };
    let Value::String(path) = value else { return Err(format!("{name} is {value} and must be a path")) };
    Ok((plain.to_owned(), Template::Path(path.try_into()?)))
}

impl Template {
    pub(super) fn fill(&self, scope: Scope<'_>) -> Result<Value, Thrown> {
        Ok(match self {
            Self::Constant(value) => value.clone(),
            Self::Path(path) => scope.get(path)?.clone(),
            Self::Array(items) => items.iter().map(|item| item.fill(scope)).collect::<Result<_, _>>()?,
            Self::Object(fields) => {
                let filled = fields.iter().map(|(name, value)| Ok((name.clone(), value.fill(scope)?)));
                Value::Object(filled.collect::<Result<_, Thrown>>()?)
            }
        })
    }
}

/// Where a result goes.
#[derive(Debug, Default, Deserialize)]
#[serde(try_from = "Option<Path>")]
pub(super) enum ResultPath {
    /// `$`, or not written: it is the output.
    #[default]
    Whole,
    /// null: nowhere, the output is the input.
    Nowhere,
    /// Into the input.
    At(Path),
}

impl TryFrom<Option<Path>> for ResultPath {
    type Error = String;

    fn try_from(path: Option<Path>) -> Result<Self, String> {
        match path {
            None => Ok(Self::Nowhere),
            Some(path) if path.of_context => {
                Err(format!("ResultPath {}: the context is not writable", path.text))
            }
            Some(path) if path.names.is_empty() => Ok(Self::Whole),
            Some(path) => Ok(Self::At(path)),
        }
    }
}

impl ResultPath {
    /// The output of a state with this input and result.
    pub(super) fn put(&self, mut input: Value, result: Value) -> Result<Value, Thrown> {
        let path = match self {
            Self::Whole => return Ok(result),
            Self::Nowhere => return Ok(input),
            Self::At(path) => path,
        };
        let mut place = &mut input;
        for name in &path.names {
            let Value::Object(fields) = place else {
                let cause = format!("{} leads through what is no object", path.text);
                return Err(Thrown::new("States.ResultPathMatchFailure", cause));
            };
            place = fields.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
        }
        *place = result;
        Ok(input)
    }
}
