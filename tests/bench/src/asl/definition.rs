//! The written form of a machine, and what is checked when it is loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::path::{Path, ResultPath, Template};

/// A file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Definition {
    #[serde(rename = "Comment")]
    _comment: Option<String>,
    start_at: String,
    pub timeout_seconds: Option<u64>,
    #[serde(deserialize_with = "states")]
    states: States,
}

pub(super) type States = BTreeMap<String, State>;

/// States with a first one: a machine, or what a map does with each item.
pub(super) struct Flow<'a> {
    pub start: &'a str,
    pub states: &'a States,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "Type")]
pub(super) enum State {
    Task(Task),
    Choice(Choice),
    Map(Box<Map>),
    Pass(Pass),
    Wait(Wait),
    Succeed(Nothing),
    Fail(Fail),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Task {
    pub resource: String,
    pub parameters: Option<Template>,
    #[serde(default)]
    pub result_path: ResultPath,
    pub timeout_seconds: Option<u64>,
    #[serde(default)]
    pub retry: Vec<Retrier>,
    #[serde(default)]
    pub catch: Vec<Catcher>,
    pub next: Option<String>,
    #[serde(default)]
    end: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Retrier {
    pub error_equals: Vec<String>,
    #[serde(default = "one")]
    interval_seconds: u64,
    #[serde(default = "three")]
    pub max_attempts: u32,
    #[serde(default = "two")]
    backoff_rate: f64,
    max_delay_seconds: Option<u64>,
    #[serde(default)]
    pub jitter_strategy: Jitter,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Jitter {
    #[default]
    None,
    Full,
}

const fn one() -> u64 {
    1
}

const fn three() -> u32 {
    3
}

const fn two() -> f64 {
    2.0
}

impl Retrier {
    /// How long to wait at most before the retry after so many by this retrier.
    pub(super) fn delay(&self, retried: u32) -> Duration {
        let whole = Duration::from_secs(self.interval_seconds).as_secs_f64()
            * self.backoff_rate.powi(i32::try_from(retried).unwrap_or(i32::MAX));
        let most = self.max_delay_seconds.map_or(Duration::MAX, Duration::from_secs);
        Duration::try_from_secs_f64(whole).unwrap_or(Duration::MAX).min(most)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Catcher {
    pub error_equals: Vec<String>,
    #[serde(default)]
    pub result_path: ResultPath,
    pub next: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Choice {
    pub choices: Vec<Rule>,
    pub default: Option<String>,
}

/// A test of the data. Exactly one of the operators is there.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Rule {
    pub variable: Option<Path>,
    pub string_equals: Option<String>,
    pub numeric_equals: Option<f64>,
    pub boolean_equals: Option<bool>,
    pub is_null: Option<bool>,
    pub is_present: Option<bool>,
    pub and: Option<Vec<Rule>>,
    pub or: Option<Vec<Rule>>,
    pub not: Option<Box<Rule>>,
    pub next: Option<String>,
}

impl Rule {
    fn check(&self, outermost: bool) -> Result<(), String> {
        let compares = [
            self.string_equals.is_some(),
            self.numeric_equals.is_some(),
            self.boolean_equals.is_some(),
            self.is_null.is_some(),
            self.is_present.is_some(),
        ];
        let joins = [self.and.is_some(), self.or.is_some(), self.not.is_some()];
        let count = |there: &[bool]| there.iter().filter(|there| **there).count();
        if count(&compares) + count(&joins) != 1 || (count(&compares) == 1) != self.variable.is_some() {
            return Err("a rule must have one operator, with a Variable where it compares".into());
        }
        if self.next.is_some() != outermost {
            return Err("Next belongs to a whole rule of a Choice".into());
        }
        let inner = self.and.iter().flatten().chain(self.or.iter().flatten()).chain(self.not.as_deref());
        inner.into_iter().try_for_each(|rule| rule.check(false))
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Map {
    pub items_path: Option<Path>,
    pub item_selector: Option<Template>,
    #[serde(default)]
    pub max_concurrency: usize,
    item_processor: Processor,
    #[serde(default)]
    pub result_path: ResultPath,
    #[serde(default)]
    pub retry: Vec<Retrier>,
    #[serde(default)]
    pub catch: Vec<Catcher>,
    pub next: Option<String>,
    #[serde(default)]
    end: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Processor {
    #[serde(rename = "ProcessorConfig")]
    _config: Option<Config>,
    start_at: String,
    #[serde(deserialize_with = "states")]
    states: States,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Config {
    #[serde(rename = "Mode")]
    _mode: Mode,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Mode {
    Inline,
}

impl Map {
    pub(super) fn processor(&self) -> Flow<'_> {
        Flow { start: &self.item_processor.start_at, states: &self.item_processor.states }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Pass {
    pub result: Option<Value>,
    pub parameters: Option<Template>,
    #[serde(default)]
    pub result_path: ResultPath,
    pub next: Option<String>,
    #[serde(default)]
    end: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Wait {
    pub seconds: Option<u64>,
    pub seconds_path: Option<Path>,
    pub next: Option<String>,
    #[serde(default)]
    end: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Nothing {}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Fail {
    pub error: Option<String>,
    pub cause: Option<String>,
    pub error_path: Option<Path>,
    pub cause_path: Option<Path>,
}

/// Without their comments. Says in which state an error is.
fn states<'de, D: Deserializer<'de>>(from: D) -> Result<States, D::Error> {
    let written = BTreeMap::<String, Value>::deserialize(from)?;
    let read = |(name, mut state): (String, Value)| {
        if let Some(fields) = state.as_object_mut() {
            fields.remove("Comment");
        }
        let state =
            serde_json::from_value(state).map_err(|e| D::Error::custom(format!("state {name}: {e}")))?;
        Ok((name, state))
    };
    written.into_iter().map(read).collect()
}

impl Definition {
    pub(super) fn flow(&self) -> Flow<'_> {
        Flow { start: &self.start_at, states: &self.states }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        self.flow().check()
    }
}

impl Flow<'_> {
    /// Every target is a state here, and every state is somewhere's target.
    fn check(&self) -> Result<(), String> {
        let mut reached = BTreeSet::from([self.start]);
        for (name, state) in self.states {
            state.check().map_err(|e| format!("state {name}: {e}"))?;
            reached.extend(state.targets());
        }
        if let Some(unknown) = reached.iter().find(|target| !self.states.contains_key(**target)) {
            return Err(format!("{unknown} is a target and no state"));
        }
        match self.states.keys().find(|name| !reached.contains(name.as_str())) {
            Some(lost) => Err(format!("state {lost} is never entered")),
            None => Ok(()),
        }
    }
}

impl State {
    fn targets(&self) -> Vec<&str> {
        let (next, mut targets) = match self {
            Self::Task(task) => (&task.next, catches(&task.catch)),
            Self::Map(map) => (&map.next, catches(&map.catch)),
            Self::Choice(choice) => {
                (&choice.default, choice.choices.iter().filter_map(|rule| rule.next.as_deref()).collect())
            }
            Self::Pass(pass) => (&pass.next, Vec::new()),
            Self::Wait(wait) => (&wait.next, Vec::new()),
            Self::Succeed(_) | Self::Fail(_) => return Vec::new(),
        };
        targets.extend(next.as_deref());
        targets
    }

    fn check(&self) -> Result<(), String> {
        let goes_on = |next: &Option<String>, end: bool| match next.is_some() != end {
            true => Ok(()),
            false => Err("exactly one of Next and End must be there".to_owned()),
        };
        match self {
            Self::Task(task) => {
                goes_on(&task.next, task.end)?;
                let name = task.resource.strip_prefix("${").and_then(|rest| rest.strip_suffix("Arn}"));
                if !name.is_some_and(|name| name.chars().all(char::is_alphanumeric)) {
                    return Err(format!("Resource {} is not the ARN of a function", task.resource));
                }
                check_handlers(&task.retry, &task.catch)
            }
            Self::Map(map) => {
                goes_on(&map.next, map.end)?;
                check_handlers(&map.retry, &map.catch)?;
                map.processor().check()
            }
            Self::Choice(choice) if choice.choices.is_empty() => Err("there are no Choices".into()),
            Self::Choice(choice) => choice.choices.iter().try_for_each(|rule| rule.check(true)),
            Self::Pass(pass) => goes_on(&pass.next, pass.end),
            Self::Wait(wait) if wait.seconds.is_some() == wait.seconds_path.is_some() => {
                Err("exactly one of Seconds and SecondsPath must be there".into())
            }
            Self::Wait(wait) => goes_on(&wait.next, wait.end),
            Self::Fail(fail)
                if (fail.error.is_some() && fail.error_path.is_some())
                    || (fail.cause.is_some() && fail.cause_path.is_some()) =>
            {
                Err("an error or cause is given twice".into())
            }
            Self::Fail(_) | Self::Succeed(_) => Ok(()),
        }
    }
}

fn catches(catch: &[Catcher]) -> Vec<&str> {
    catch.iter().map(|catcher| catcher.next.as_str()).collect()
}

/// Each names errors; `States.ALL` stands alone, in the last.
fn check_handlers(retry: &[Retrier], catch: &[Catcher]) -> Result<(), String> {
    let check = |lists: Vec<&Vec<String>>| {
        let last = lists.len().saturating_sub(1);
        let good = lists.iter().enumerate().all(|(n, names)| {
            let all = names.iter().any(|name| name == "States.ALL");
            !names.is_empty() && (!all || (names.len() == 1 && n == last))
        });
        if good { Ok(()) } else { Err("ErrorEquals: States.ALL must stand alone and last".to_owned()) }
    };
    check(retry.iter().map(|retrier| &retrier.error_equals).collect())?;
    check(catch.iter().map(|catcher| &catcher.error_equals).collect())
}
