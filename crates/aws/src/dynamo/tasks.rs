//! The `TaskStore` port.

use std::cmp::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem,
};
use image_tasks_domain::ports::{
    Created, IdempotencyKey, OpenTask, StoreError, StoreResult, TaskPage, TaskQuery, TaskSort, TaskStore,
};
use image_tasks_domain::{Progress, Secret, Task, TaskId, Timestamp};

use super::credentials::HAS_CREDENTIAL;
use super::item::{
    Item, MAX_NEW_TASK, SHARDS, created_sort, integer, item_size, number, open_task, string, task, task_id,
    task_item, text, updated_sort,
};
use super::merge::{Each, Filter, Found, Merge, Partition};
use super::write::{Outcome, put_action, refused, transact};
use crate::failures::store_error;
use crate::metrics::Metrics;

/// How long an idempotency key is remembered.
const KEY_TTL: Duration = Duration::from_secs(24 * 3600);

/// Tasks, and the transactions of tasks with their images, in DynamoDB.
#[derive(Debug, Clone)]
pub struct DynamoTasks {
    pub(super) client: Client,
    pub(super) tasks: String,
    pub(super) images: String,
    /// Where callers' tokens are kept; none for a function whose tasks bring none.
    pub(super) credentials: Option<String>,
    /// Told of each task that ends.
    pub(super) metrics: Metrics,
}

impl DynamoTasks {
    /// In these tables.
    pub fn new(client: Client, tasks_table: impl Into<String>, images_table: impl Into<String>) -> Self {
        Self {
            client,
            tasks: tasks_table.into(),
            images: images_table.into(),
            credentials: None,
            metrics: Metrics::default(),
        }
    }

    /// With the table of callers' tokens, which only functions have that write or read them.
    #[must_use]
    pub fn with_credentials(self, table: impl Into<String>) -> Self {
        Self { credentials: Some(table.into()), ..self }
    }

    /// Counts the tasks that end.
    #[must_use]
    pub fn with_metrics(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// A task's or a key's item as it is now.
    pub(super) async fn item(&self, id: impl ToString) -> StoreResult<Option<Item>> {
        let get = self.client.get_item().table_name(&self.tasks).key("id", text(id)).consistent_read(true);
        Ok(get.send().await.map_err(store_error)?.item)
    }

    /// Writes the item that remembers a key.
    fn remember(&self, new: &Task, key: &IdempotencyKey) -> StoreResult<TransactWriteItem> {
        let put = Put::builder()
            .table_name(&self.tasks)
            .item("id", text(key_id(key)))
            .item("task_id", text(new.id))
            .item("body_sha256", text(&key.body_sha256))
            .item("expires_at_epoch", number(new.created_at.plus(KEY_TTL).epoch()))
            .condition_expression("attribute_not_exists(id) OR expires_at_epoch <= :now")
            .expression_attribute_values(":now", number(new.created_at.epoch()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        put_action(put)
    }

    /// A page of one task at most.
    async fn list_one(&self, query: &TaskQuery, id: TaskId) -> StoreResult<TaskPage> {
        let found = TaskStore::get(self, id).await?;
        let items_read = usize::from(found.is_some());
        let tasks: Vec<Task> = found.into_iter().filter(|t| shows(query, t)).map(listed).collect();
        Ok(TaskPage { tasks, items_read, ..TaskPage::default() })
    }

    /// An order that an index has.
    async fn list_indexed(&self, query: &TaskQuery, order: Order) -> StoreResult<TaskPage> {
        let merge = self.merge(query, order);
        let Found { items, more, read, last } = merge.page(query.limit).await?;
        let tasks = items.iter().map(task).collect::<StoreResult<_>>()?;
        let last_read = last.map(|key| task_id(&key)).transpose()?;
        Ok(TaskPage { tasks, more, items_read: read, last_read })
    }

    /// Any other order: every listed item of the tenant (for an admin: of all tenants) is read, and no more
    /// than two pages are held. Given up where there are too many.
    async fn list_sorted(&self, query: &TaskQuery) -> StoreResult<TaskPage> {
        let keep = query.limit.saturating_add(1);
        let mut page: Vec<Task> = Vec::new();
        let unmarked = TaskQuery { after: None, ..query.clone() };
        let Each { read: items_read, whole } = self
            .merge(&unmarked, Order::Created)
            .each(|item| {
                let task = task(&item)?;
                if shows(query, &task) {
                    page.push(task);
                }
                if page.len() >= keep.saturating_mul(2) {
                    page.sort_by(|a, b| order(query, a, b));
                    page.truncate(keep);
                }
                Ok(())
            })
            .await?;
        if !whole {
            return Ok(TaskPage { more: true, items_read, ..TaskPage::default() });
        }
        page.sort_by(|a, b| order(query, a, b));
        let more = page.len() > query.limit;
        page.truncate(query.limit);
        Ok(TaskPage { tasks: page, more, items_read, last_read: None })
    }

    fn merge(&self, query: &TaskQuery, order: Order) -> Merge<'_> {
        let partitions = match (&query.owner, order) {
            (Some(owner), Order::Created) => vec![Partition::new("owner-created", "owner", owner)],
            (Some(owner), Order::Updated) => vec![Partition::new("owner-updated", "owner", owner)],
            (None, Order::Created) => shards("all-created", "shard"),
            (None, Order::Updated) => shards("all-updated", "shard"),
        };
        let mut filter = Filter::default();
        filter.clauses.push("(attribute_not_exists(#expires) OR #expires > :now)".to_owned());
        filter.names.push(("#expires".to_owned(), "expires_at".to_owned()));
        filter.values.push((":now".to_owned(), number(query.now.epoch())));
        if let Some(task_type) = query.task_type {
            filter.equals("type", text(task_type.name()));
        }
        if let Some(status) = query.status {
            filter.equals("status", text(status.name()));
        }
        let behind = query.after.as_ref().map(|task| match order {
            Order::Created => created_sort(task.created_at, task.id),
            Order::Updated => updated_sort(task.updated_at, task.created_at, task.id),
        });
        Merge {
            client: &self.client,
            table: &self.tasks,
            partitions,
            sort: match order {
                Order::Created => "created_sort",
                Order::Updated => "updated_sort",
            },
            behind,
            descending: query.descending,
            filter,
        }
    }
}

#[async_trait]
impl TaskStore for DynamoTasks {
    async fn create(
        &self,
        task: &Task,
        key: Option<&IdempotencyKey>,
        token: Option<&Secret>,
    ) -> StoreResult<Created> {
        let mut item = task_item(task);
        if token.is_some() {
            item.insert(HAS_CREDENTIAL.to_owned(), AttributeValue::Bool(true));
        }
        let (bytes, most) = (item_size(&item), MAX_NEW_TASK);
        if bytes > most {
            return Ok(Created::TooLarge { bytes, most });
        }
        let put = Put::builder()
            .table_name(&self.tasks)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(id)");
        let mut actions = vec![put_action(put)?];
        if let Some(key) = key {
            actions.push(self.remember(task, key)?);
        }
        if let Some(token) = token {
            actions.push(self.kept(task, token)?);
        }
        let Outcome::Refused(reasons) = transact(&self.client, actions).await? else {
            return Ok(Created::New);
        };
        match key {
            Some(key) if refused(&reasons, 1) => {
                let none = || StoreError::Fault("a key is taken, but its item is not shown".into());
                before(reasons.get(1).and_then(CancellationReason::item).ok_or_else(none)?, key)
            }
            _ => Err(StoreError::Conflict),
        }
    }

    async fn get(&self, id: TaskId) -> StoreResult<Option<Task>> {
        self.item(id).await?.as_ref().map(task).transpose()
    }

    async fn list(&self, query: &TaskQuery) -> StoreResult<TaskPage> {
        if query.limit == 0 {
            return Ok(TaskPage::default());
        }
        match (query.id, query.sort) {
            (Some(id), _) => self.list_one(query, id).await,
            (None, TaskSort::CreatedAt) => self.list_indexed(query, Order::Created).await,
            (None, TaskSort::UpdatedAt) => self.list_indexed(query, Order::Updated).await,
            // One tenant's tasks have one owner: what orders them are the ties.
            (None, TaskSort::Owner) if query.owner.is_some() => {
                self.list_indexed(query, Order::Created).await
            }
            (None, _) => self.list_sorted(query).await,
        }
    }

    async fn remembered(&self, key: &IdempotencyKey, now: Timestamp) -> StoreResult<Option<Created>> {
        let Some(item) = self.item(key_id(key)).await? else { return Ok(None) };
        // DynamoDB deletes late.
        if integer(&item, "expires_at_epoch")? <= now.epoch() {
            return Ok(None);
        }
        before(&item, key).map(Some)
    }

    async fn unsettled(
        &self,
        created_before: Timestamp,
        after: Option<&OpenTask>,
        limit: usize,
    ) -> StoreResult<Vec<OpenTask>> {
        let mut open: Vec<OpenTask> = Vec::new();
        // A page may end before its limit though there is more.
        loop {
            let behind = open.last().or(after);
            let merge = Merge {
                client: &self.client,
                table: &self.tasks,
                partitions: shards("unsettled", "unsettled"),
                sort: "created_sort",
                behind: behind.map(|task| created_sort(task.created_at, task.id)),
                descending: false,
                filter: Filter::default(),
            };
            let found = merge.page(limit.saturating_sub(open.len())).await?;
            for item in &found.items {
                let task = open_task(item)?;
                // Oldest first: the first that is too young ends the list.
                if task.created_at >= created_before {
                    return Ok(open);
                }
                open.push(task);
            }
            if !found.more || open.len() >= limit {
                return Ok(open);
            }
        }
    }
}

/// Orders that indexes have.
#[derive(Clone, Copy)]
enum Order {
    Created,
    Updated,
}

fn shards(index: &'static str, attribute: &'static str) -> Vec<Partition> {
    (0..SHARDS).map(|shard| Partition::new(index, attribute, shard.to_string())).collect()
}

/// Id of the item that remembers a key. The length tells where the owner ends, whatever the two hold.
fn key_id(key: &IdempotencyKey) -> String {
    format!("idempotency#{}#{}#{}", key.owner.len(), key.owner, key.key)
}

/// What a key made before.
fn before(found: &Item, key: &IdempotencyKey) -> StoreResult<Created> {
    if string(found, "body_sha256")? != key.body_sha256 {
        return Ok(Created::OtherBody);
    }
    let task = string(found, "task_id")?;
    task.parse().map(Created::Before).map_err(|e| StoreError::Fault(Box::new(e)))
}

/// Whether a task belongs on the page that is asked for, apart from the limit.
fn shows(query: &TaskQuery, task: &Task) -> bool {
    query.owner.as_ref().is_none_or(|owner| *owner == task.owner)
        && query.task_type.is_none_or(|t| t == task.task_type)
        && query.status.is_none_or(|s| s == task.status)
        && query.after.as_ref().is_none_or(|after| order(query, after, task) == Ordering::Less)
        && !task.is_expired(query.now)
}

fn order(query: &TaskQuery, a: &Task, b: &Task) -> Ordering {
    let ascending = query.sort.compare(a, b);
    if query.descending { ascending.reverse() } else { ascending }
}

/// What lists show of a task.
fn listed(task: Task) -> Task {
    Task {
        input: serde_json::Value::Null,
        result: None,
        message: String::new(),
        progress: Progress::default(),
        cancelled_by: None,
        unsettled: None,
        ..task
    }
}
