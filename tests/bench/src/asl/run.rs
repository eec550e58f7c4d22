//! An execution.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use super::definition::{Catcher, Choice, Fail, Flow, Jitter, Map, Retrier, Rule, State, Task};
use super::path::Scope;
use super::{Invoke, MAX_EVENTS, MAX_PAYLOAD, Thrown};

/// Most iterations of an inline map at once (developer guide, "Using Map state in Inline mode").
const MAX_INLINE: usize = 40;

/// A state's output, and where to go with it; nowhere at the end.
type Left<'a> = Result<(Value, Option<&'a str>), Thrown>;

pub(super) struct Run<'r, 'a> {
    invoke: &'r Invoke<'a>,
    context: Value,
    events: AtomicU64,
    visited: Mutex<Vec<String>>,
    random: AtomicU64,
}

impl<'r, 'a> Run<'r, 'a> {
    pub(super) fn new(name: &str, input: &Value, invoke: &'r Invoke<'a>) -> Self {
        let id = format!("arn:aws:states:us-east-1:000000000000:execution:machine:{name}");
        Self {
            invoke,
            context: json!({"Execution": {"Id": id, "Name": name, "Input": input}}),
            events: AtomicU64::new(0),
            visited: Mutex::default(),
            random: AtomicU64::new(
                name.bytes().fold(0, |seed: u64, byte| seed.rotate_left(7) ^ u64::from(byte)),
            ),
        }
    }

    pub(super) async fn whole(&self, flow: &Flow<'_>, input: Value) -> Result<Value, Thrown> {
        self.count(1)?;
        fits(&input)?;
        self.flow(flow, &self.context, input).await
    }

    /// How many events there were, and which states.
    pub(super) fn ended(self) -> (u64, Vec<String>) {
        let events = self.events.into_inner() + 1;
        (events.min(MAX_EVENTS), self.visited.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn flow<'f>(
        &'f self,
        flow: &'f Flow<'f>,
        context: &'f Value,
        mut data: Value,
    ) -> BoxFuture<'f, Result<Value, Thrown>> {
        async move {
            let mut name = flow.start;
            loop {
                self.visited.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
                self.count(1)?;
                let (output, next) = self.state(&flow.states[name], context, data).await?;
                self.count(1)?;
                fits(&output)?;
                match next {
                    Some(next) => (name, data) = (next, output),
                    None => return Ok(output),
                }
            }
        }
        .boxed()
    }

    async fn state<'s>(&self, state: &'s State, context: &Value, data: Value) -> Left<'s> {
        let scope = Scope { data: &data, context };
        match state {
            State::Task(task) => {
                let result = self.retried(&task.retry, || self.attempt(task, scope)).await;
                let output = result.and_then(|result| task.result_path.put(data.clone(), result));
                caught(output, &task.catch, data, task.next.as_deref())
            }
            State::Map(map) => {
                let result = self.retried(&map.retry, || self.map(map, scope)).await;
                let output = result.and_then(|result| map.result_path.put(data.clone(), result));
                caught(output, &map.catch, data, map.next.as_deref())
            }
            State::Choice(choice) => {
                let next = chosen(choice, scope)?;
                Ok((data, Some(next)))
            }
            State::Pass(pass) => {
                let result = match (&pass.result, &pass.parameters) {
                    (Some(result), _) => result.clone(),
                    (None, Some(parameters)) => parameters.fill(scope)?,
                    (None, None) => data.clone(),
                };
                Ok((pass.result_path.put(data, result)?, pass.next.as_deref()))
            }
            State::Wait(wait) => {
                let seconds = match &wait.seconds_path {
                    Some(path) => scope.get(path)?.as_u64(),
                    None => wait.seconds,
                };
                let seconds =
                    seconds.ok_or_else(|| Thrown::runtime("SecondsPath leads to no whole number"))?;
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                Ok((data, wait.next.as_deref()))
            }
            State::Succeed(_) => Ok((data, None)),
            State::Fail(fail) => Err(failed(fail, scope)?),
        }
    }

    /// One call of a Task state's function.
    async fn attempt(&self, task: &Task, scope: Scope<'_>) -> Result<Value, Thrown> {
        let payload = task.parameters.as_ref().map_or_else(|| Ok(scope.data.clone()), |p| p.fill(scope))?;
        fits(&payload)?;
        // Scheduled and started.
        self.count(2)?;
        let limit = task.timeout_seconds.map_or(Duration::MAX, Duration::from_secs);
        let answer = tokio::time::timeout(limit, (self.invoke)(&task.resource, payload)).await;
        self.count(1)?;
        let answer = answer.unwrap_or_else(|_| Err(Thrown::new("States.Timeout", "")))?;
        fits(&answer)?;
        Ok(answer)
    }

    /// All iterations of a Map state. The first that fails drops the others.
    async fn map(&self, map: &Map, scope: Scope<'_>) -> Result<Value, Thrown> {
        let items = map.items_path.as_ref().map_or(Ok(scope.data), |path| scope.get(path))?;
        let items = items.as_array().ok_or_else(|| Thrown::runtime("ItemsPath leads to no array"))?;
        self.count(1)?;
        let at_once = if map.max_concurrency == 0 { MAX_INLINE } else { map.max_concurrency.min(MAX_INLINE) };
        let mut iterations = Vec::new();
        for (index, item) in items.iter().enumerate() {
            iterations.push(self.iteration(map, scope, index, item));
        }
        let ended = futures::stream::iter(iterations).buffer_unordered(at_once).try_collect::<Vec<_>>().await;
        self.count(1)?;
        let mut outputs = ended?;
        outputs.sort_by_key(|(index, _)| *index);
        Ok(outputs.into_iter().map(|(_, output)| output).collect())
    }

    async fn iteration(
        &self,
        map: &Map,
        scope: Scope<'_>,
        index: usize,
        item: &Value,
    ) -> Result<(usize, Value), Thrown> {
        let mut context = scope.context.clone();
        context["Map"] = json!({"Item": {"Index": index, "Value": item}});
        let within = Scope { context: &context, ..scope };
        let input = map.item_selector.as_ref().map_or_else(|| Ok(item.clone()), |s| s.fill(within))?;
        self.count(1)?;
        fits(&input)?;
        let output = self.flow(&map.processor(), &context, input).await;
        self.count(1)?;
        Ok((index, output?))
    }

    /// Tries until it works, or until no retrier takes the error. Each retrier counts for itself.
    async fn retried<F: Future<Output = Result<Value, Thrown>>>(
        &self,
        retry: &[Retrier],
        attempt: impl Fn() -> F,
    ) -> Result<Value, Thrown> {
        let mut retried = vec![0; retry.len()];
        loop {
            let thrown = match attempt().await {
                Ok(result) => return Ok(result),
                Err(thrown) => thrown,
            };
            let taker = retry.iter().position(|retrier| matches(&retrier.error_equals, &thrown.error));
            let Some(n) = taker.filter(|n| retried[*n] < retry[*n].max_attempts) else { return Err(thrown) };
            let most = retry[n].delay(retried[n]);
            retried[n] += 1;
            let wait = match retry[n].jitter_strategy {
                Jitter::None => most,
                Jitter::Full => most.mul_f64(self.fraction()),
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// A number from 0 to 1, by SplitMix64.
    fn fraction(&self) -> f64 {
        let mut z = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as f64 / u64::MAX as f64
    }

    /// Writes so many events into the history. A full one ends the execution.
    fn count(&self, events: u64) -> Result<(), Thrown> {
        if self.events.fetch_add(events, Ordering::Relaxed) + events < MAX_EVENTS {
            return Ok(());
        }
        Err(Thrown::runtime("The execution reached the maximum number of history events (25000)."))
    }
}

fn fits(payload: &Value) -> Result<(), Thrown> {
    let len = payload.to_string().len();
    if len <= MAX_PAYLOAD {
        return Ok(());
    }
    Err(Thrown::new(
        "States.DataLimitExceeded",
        format!("a payload has {len} bytes, {MAX_PAYLOAD} are allowed"),
    ))
}

/// Whether a list of names takes an error. None takes `States.Runtime`; only its name takes `States.DataLimitExceeded`.
fn matches(names: &[String], error: &str) -> bool {
    let wild = error != "States.DataLimitExceeded";
    error != "States.Runtime"
        && names.iter().any(|name| match name.as_str() {
            "States.ALL" => wild,
            "States.TaskFailed" => wild && error != "States.Timeout",
            name => name == error,
        })
}

fn caught<'s>(
    output: Result<Value, Thrown>,
    catch: &'s [Catcher],
    input: Value,
    next: Option<&'s str>,
) -> Left<'s> {
    let thrown = match output {
        Ok(output) => return Ok((output, next)),
        Err(thrown) => thrown,
    };
    match catch.iter().find(|catcher| matches(&catcher.error_equals, &thrown.error)) {
        Some(catcher) => Ok((catcher.result_path.put(input, thrown.output())?, Some(&catcher.next))),
        None => Err(thrown),
    }
}

fn chosen<'c>(choice: &'c Choice, scope: Scope<'_>) -> Result<&'c str, Thrown> {
    for rule in &choice.choices {
        if let (Some(next), true) = (&rule.next, holds(rule, scope)?) {
            return Ok(next);
        }
    }
    let none = || Thrown::new("States.NoChoiceMatched", "no rule of the Choice holds");
    choice.default.as_deref().ok_or_else(none)
}

/// Whether a rule holds. A value of another type than the operator's equals nothing; one that is missing is an error.
fn holds(rule: &Rule, scope: Scope<'_>) -> Result<bool, Thrown> {
    let all = |rules: &[Rule], wanted: bool| {
        for rule in rules {
            if holds(rule, scope)? != wanted {
                return Ok(!wanted);
            }
        }
        Ok(wanted)
    };
    if let Some(rules) = &rule.and {
        return all(rules, true);
    }
    if let Some(rules) = &rule.or {
        return all(rules, false);
    }
    if let Some(rule) = &rule.not {
        return Ok(!holds(rule, scope)?);
    }
    let Some(path) = &rule.variable else { return Err(Thrown::runtime("a rule without a Variable")) };
    if let Some(present) = rule.is_present {
        return Ok(scope.find(path).is_some() == present);
    }
    let value = scope.get(path)?;
    Ok(rule.is_null.is_some_and(|null| value.is_null() == null)
        || rule.string_equals.as_deref().is_some_and(|text| value.as_str() == Some(text))
        || rule.numeric_equals.is_some_and(|number| value.as_f64() == Some(number))
        || rule.boolean_equals.is_some_and(|truth| value.as_bool() == Some(truth)))
}

fn failed(fail: &Fail, scope: Scope<'_>) -> Result<Thrown, Thrown> {
    let text = |written: &Option<String>, path: &Option<_>| match path {
        Some(path) => match scope.get(path)?.as_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(Thrown::runtime("an error or cause is no string")),
        },
        None => Ok(written.clone().unwrap_or_default()),
    };
    Ok(Thrown { error: text(&fail.error, &fail.error_path)?, cause: text(&fail.cause, &fail.cause_path)? })
}
