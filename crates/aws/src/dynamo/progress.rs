//! The `ProgressStore` port: an item of a few hundred bytes for each task, beside it in its table and in none of its indexes.
//!
//! An item: `id` = `progress#{task id}`, `stages`, `waits` (BOOL), `staged_done`, `staged_total`, `copied_done`, `copied_total`,
//! `hashed_done`, `hashed_total` (N: the meters of `Progress`), `expires_at_epoch` (TTL). A write of it costs one write
//! unit (DynamoDB developer guide, "Write capacity units": 1 KB each), where the task's own item may cost 400.

use std::collections::HashMap;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes};
use image_tasks_domain::ports::{ProgressStore, StoreError, StoreResult};
use image_tasks_domain::{Meter, Progress, Report, Step, Task, TaskId, Timestamp};

use super::item::{Item, number, task, text, unsigned};
use super::tasks::DynamoTasks;
use super::write::update;
use crate::failures::store_error;

#[async_trait]
impl ProgressStore for DynamoTasks {
    async fn tell(&self, id: TaskId, report: &Report, until: Timestamp) -> StoreResult<()> {
        let mut set = vec!["expires_at_epoch = :until".to_owned()];
        let mut add = Vec::new();
        let mut write = self
            .client
            .update_item()
            .table_name(&self.tasks)
            .key("id", text(progress_id(id)))
            .expression_attribute_values(":until", number(until.epoch()));
        if report.stages {
            set.push("stages = :stages".to_owned());
            write = write.expression_attribute_values(":stages", AttributeValue::Bool(true));
        }
        if let Some(waits) = report.waits {
            set.push("waits = :waits".to_owned());
            write = write.expression_attribute_values(":waits", AttributeValue::Bool(waits));
        }
        for step in Step::ALL {
            let (done, total) = meter_names(step);
            if let Some(bytes) = report.total(step) {
                set.push(format!("{total} = :{total}"));
                write = write.expression_attribute_values(format!(":{total}"), number(bytes));
            }
            if report.done(step) > 0 {
                add.push(format!("{done} :{done}"));
                write = write.expression_attribute_values(format!(":{done}"), number(report.done(step)));
            }
        }
        let added = if add.is_empty() { String::new() } else { format!(" ADD {}", add.join(", ")) };
        update(write.update_expression(format!("SET {}{added}", set.join(", ")))).await
    }

    async fn told(&self, id: TaskId) -> StoreResult<Progress> {
        progress(self.item(progress_id(id)).await?.as_ref())
    }

    async fn shown(&self, id: TaskId) -> StoreResult<Option<Task>> {
        let keys = [id.to_string(), progress_id(id)].map(|id| HashMap::from([("id".to_owned(), text(id))]));
        let keys = KeysAndAttributes::builder().consistent_read(true).set_keys(Some(keys.into())).build();
        let keys = keys.map_err(|e| StoreError::Fault(e.into()))?;
        let got = self.client.batch_get_item().request_items(&self.tasks, keys).send().await;
        let got = got.map_err(store_error)?;
        let found: Vec<Item> = got.responses.into_iter().flat_map(HashMap::into_values).flatten().collect();
        let left = got.unprocessed_keys.into_iter().flat_map(HashMap::into_values).flat_map(|keys| keys.keys);
        with_progress(id, &found, &left.collect::<Vec<_>>())
    }
}

/// The task among what was found; `left` are the keys that DynamoDB was too busy for.
fn with_progress(id: TaskId, found: &[Item], left: &[Item]) -> StoreResult<Option<Task>> {
    let key = text(id);
    if with_key(left, &key).is_some() {
        return Err(StoreError::Unavailable("DynamoDB was too busy to read a task".into()));
    }
    let Some(shown) = with_key(found, &key).map(task).transpose()? else { return Ok(None) };
    let progress = progress(with_key(found, &text(progress_id(id)))).unwrap_or_else(|error| {
        tracing::warn!(task_id = %id, error = &error as &dyn std::error::Error, "no progress to show");
        Progress::default()
    });
    Ok(Some(Task { progress, ..shown }))
}

fn with_key<'a>(items: &'a [Item], key: &AttributeValue) -> Option<&'a Item> {
    items.iter().find(|item| item.get("id") == Some(key))
}

/// What an item tells; none tells nothing.
fn progress(item: Option<&Item>) -> StoreResult<Progress> {
    let Some(item) = item else { return Ok(Progress::default()) };
    let meter = |step| {
        let (done, total) = meter_names(step);
        StoreResult::Ok(Meter { done: unsigned(item, done)?, total: unsigned(item, total)? })
    };
    let flag = |name| item.get(name).and_then(|v| v.as_bool().ok()).copied().unwrap_or_default();
    Ok(Progress {
        stages: flag("stages"),
        waits: flag("waits"),
        staged: meter(Step::Staged)?,
        copied: meter(Step::Copied)?,
        hashed: meter(Step::Hashed)?,
    })
}

fn progress_id(id: TaskId) -> String {
    format!("progress#{id}")
}

/// The two attributes of a step's meter.
const fn meter_names(step: Step) -> (&'static str, &'static str) {
    match step {
        Step::Staged => ("staged_done", "staged_total"),
        Step::Copied => ("copied_done", "copied_total"),
        Step::Hashed => ("hashed_done", "hashed_total"),
    }
}

#[cfg(test)]
mod tests {
    use image_tasks_domain::{Progress, Task, TaskType, Timestamp};
    use serde_json::json;

    use super::super::item::{Item, task_item, text};
    use super::{StoreError, progress_id, with_progress};

    #[test]
    fn a_task_is_shown_though_its_progress_cannot_be_read() {
        let task = Task::pending(TaskType::Import, "p", json!({}), Timestamp::from_epoch(1));
        let id = task.id;
        let key = |id: String| Item::from([("id".to_owned(), text(id))]);
        let (item, its_progress) = (task_item(&task), key(progress_id(id)));
        let expected = Task { progress: Progress::default(), ..task };
        // Not there, not read, and not as it is written.
        for (found, left) in [
            (vec![item.clone()], vec![]),
            (vec![item.clone()], vec![its_progress.clone()]),
            (vec![its_progress.clone(), item], vec![]),
        ] {
            assert_eq!(with_progress(id, &found, &left).unwrap(), Some(expected.clone()));
        }
        let unread = with_progress(id, &[its_progress], &[key(id.to_string())]);
        assert!(matches!(unread, Err(StoreError::Unavailable(_))), "{unread:?}");
        assert_eq!(with_progress(id, &[], &[]).unwrap(), None);
    }
}
