//! The `Credentials` port: callers' tokens in a table of their own, so that a role names it or has no part in them.
//!
//! An item: `id` (the task's), `token`, `expires_at_epoch` (TTL). The task's item says by [`HAS_CREDENTIAL`] that there is one.

use async_trait::async_trait;
use aws_sdk_dynamodb::types::{Delete, Put, TransactWriteItem};
use image_tasks_domain::ports::{Credentials, StoreError, StoreResult, TOKEN_LIFE};
use image_tasks_domain::{Secret, Task, TaskId, Timestamp};

use super::item::{Item, integer, number, string, text};
use super::tasks::DynamoTasks;
use super::write::{delete_action, put_action};
use crate::failures::store_error;

/// Attribute of a task whose caller's token is kept.
pub(super) const HAS_CREDENTIAL: &str = "credential";
const EXPIRES: &str = "expires_at_epoch";

impl DynamoTasks {
    fn credentials_table(&self) -> StoreResult<&String> {
        let none = || StoreError::Fault("this function has no table of credentials".into());
        self.credentials.as_ref().ok_or_else(none)
    }

    /// Keeps a new task's token.
    pub(super) fn kept(&self, task: &Task, token: &Secret) -> StoreResult<TransactWriteItem> {
        let put = Put::builder()
            .table_name(self.credentials_table()?)
            .item("id", text(task.id))
            .item("token", text(token.expose()))
            .item(EXPIRES, number(task.created_at.plus(TOKEN_LIFE).epoch()))
            .condition_expression("attribute_not_exists(id)");
        put_action(put)
    }

    /// Removes the token of a task that ends, if one is kept.
    pub(super) fn forgotten(&self, task: &Item, id: TaskId) -> StoreResult<Option<TransactWriteItem>> {
        if !task.contains_key(HAS_CREDENTIAL) {
            return Ok(None);
        }
        let delete = Delete::builder().table_name(self.credentials_table()?).key("id", text(id));
        delete_action(delete).map(Some)
    }
}

#[async_trait]
impl Credentials for DynamoTasks {
    async fn token(&self, id: TaskId, now: Timestamp) -> StoreResult<Option<Secret>> {
        let get = self.client.get_item().table_name(self.credentials_table()?).key("id", text(id));
        let Some(item) = get.consistent_read(true).send().await.map_err(store_error)?.item else {
            return Ok(None);
        };
        // DynamoDB deletes late.
        if integer(&item, EXPIRES)? <= now.epoch() {
            return Ok(None);
        }
        // The value is left out of the fault: it is what must not be shown.
        let token = Secret::new(string(&item, "token")?);
        token.map(Some).ok_or_else(|| StoreError::Fault("a kept token can't be read".into()))
    }
}
