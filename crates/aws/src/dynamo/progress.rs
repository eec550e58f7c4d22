//! The `ProgressStore` port: an item of a few hundred bytes for each task, beside it in its table and in none of its indexes.
//!
//! An item: `id` = `progress#{task id}`, `stages` (BOOL), `staged_done`, `staged_total`, `copied_done`, `copied_total`,
//! `hashed_done`, `hashed_total` (N: the meters of `Progress`), `expires_at_epoch` (TTL). A write of it costs one write
//! unit (DynamoDB developer guide, "Write capacity units": 1 KB each), where the task's own item may cost 400.

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use image_tasks_domain::ports::{ProgressStore, StoreResult};
use image_tasks_domain::{Meter, Progress, Report, Step, TaskId, Timestamp};

use super::item::{number, text, unsigned};
use super::tasks::DynamoTasks;
use super::write::update;

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
        let Some(item) = self.item(progress_id(id)).await? else { return Ok(Progress::default()) };
        let meter = |step| {
            let (done, total) = meter_names(step);
            StoreResult::Ok(Meter { done: unsigned(&item, done)?, total: unsigned(&item, total)? })
        };
        Ok(Progress {
            stages: item.get("stages").and_then(|v| v.as_bool().ok()).copied().unwrap_or_default(),
            staged: meter(Step::Staged)?,
            copied: meter(Step::Copied)?,
            hashed: meter(Step::Hashed)?,
        })
    }
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
