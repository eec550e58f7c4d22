//! Conditional writes: transactions, what their cancellation says, and one state of a record in place of another.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::builders::{DeleteBuilder, PutBuilder};
use aws_sdk_dynamodb::types::{CancellationReason, TransactWriteItem, Update};
use image_tasks_domain::ports::{StoreError, StoreResult};

use super::item::Item;
use crate::failures::{chain, store_error};

/// Tries of a transaction that lost against another write of the same item. The SDK doesn't repeat these.
const TRIES: u32 = 6;

/// What became of a transaction.
pub(super) enum Outcome {
    /// Everything is written.
    Written,
    /// Nothing is; the reasons, one for each action in order, hold at least one failed condition.
    Refused(Vec<CancellationReason>),
}

/// Writes all of `actions` or none of them.
pub(super) async fn transact(client: &Client, actions: Vec<TransactWriteItem>) -> StoreResult<Outcome> {
    let mut tried = 0;
    loop {
        tried += 1;
        // The SDK adds a client request token, so its own repeats after a lost answer write once.
        let sent = client.transact_write_items().set_transact_items(Some(actions.clone())).send().await;
        let error = match sent {
            Ok(_) => return Ok(Outcome::Written),
            Err(error) => error,
        };
        let reasons = match error.as_service_error() {
            Some(TransactWriteItemsError::TransactionCanceledException(canceled)) => {
                canceled.cancellation_reasons().to_vec()
            }
            _ => return Err(store_error(error)),
        };
        let has = |codes: &[&str]| reasons.iter().any(|r| codes.contains(&r.code().unwrap_or_default()));
        if has(&["ConditionalCheckFailed"]) {
            return Ok(Outcome::Refused(reasons));
        }
        if !has(&["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"]) {
            return Err(StoreError::Fault(chain(&error).into()));
        }
        if tried == TRIES {
            return Err(StoreError::Unavailable(chain(&error).into()));
        }
        backoff(tried).await;
    }
}

/// Writes all of `actions`, or none of them: a conflict. A transaction also for one item: it has a token, so that the SDK's
/// repeat of a call whose answer was lost is no conflict with itself.
pub(super) async fn write(client: &Client, actions: Vec<TransactWriteItem>) -> StoreResult<()> {
    match transact(client, actions).await? {
        Outcome::Written => Ok(()),
        Outcome::Refused(_) => Err(StoreError::Conflict),
    }
}

/// A put within a transaction.
pub(super) fn put_action(put: PutBuilder) -> StoreResult<TransactWriteItem> {
    let put = put.build().map_err(|e| StoreError::Fault(e.into()))?;
    Ok(TransactWriteItem::builder().put(put).build())
}

/// A delete within a transaction.
pub(super) fn delete_action(delete: DeleteBuilder) -> StoreResult<TransactWriteItem> {
    let delete = delete.build().map_err(|e| StoreError::Fault(e.into()))?;
    Ok(TransactWriteItem::builder().delete(delete).build())
}

/// One state of a record in place of another: what differs is written, and nothing else.
pub(super) struct Replacement {
    /// As it was read.
    pub(super) was: Item,
    /// As it shall be; the key is the same.
    pub(super) is: Item,
    /// What must be as it was read beside what is written.
    pub(super) relied_on: &'static [&'static str],
}

impl Replacement {
    /// The write, under the condition that the record is still as it was read, as far as it matters.
    pub(super) fn action(&self, table: &str) -> StoreResult<TransactWriteItem> {
        let mut names: BTreeSet<&str> = self.relied_on.iter().copied().collect();
        let fields = self.was.keys().chain(self.is.keys());
        names.extend(fields.map(String::as_str).filter(|name| self.was.get(*name) != self.is.get(*name)));
        let (mut set, mut remove, mut demanded) = (Vec::new(), Vec::new(), Vec::new());
        let mut change = Update::builder().table_name(table).set_key(key(&self.is));
        for (n, name) in names.into_iter().enumerate() {
            let (was, is) = (self.was.get(name), self.is.get(name));
            change = change.expression_attribute_names(format!("#n{n}"), name);
            match was {
                Some(was) => {
                    demanded.push(format!("#n{n} = :was{n}"));
                    change = change.expression_attribute_values(format!(":was{n}"), was.clone());
                }
                None => demanded.push(format!("attribute_not_exists(#n{n})")),
            }
            match is {
                _ if was == is => {}
                Some(is) => {
                    set.push(format!("#n{n} = :is{n}"));
                    change = change.expression_attribute_values(format!(":is{n}"), is.clone());
                }
                None => remove.push(format!("#n{n}")),
            }
        }
        let clause = |word: &str, parts: Vec<String>| {
            if parts.is_empty() { String::new() } else { format!("{word} {} ", parts.join(", ")) }
        };
        let change = change
            .update_expression(clause("SET", set) + &clause("REMOVE", remove))
            .condition_expression(demanded.join(" AND "))
            .build()
            .map_err(|e| StoreError::Fault(e.into()))?;
        Ok(TransactWriteItem::builder().update(change).build())
    }
}

fn key(item: &Item) -> Option<Item> {
    item.get_key_value("id").map(|(name, value)| [(name.clone(), value.clone())].into())
}

/// Whether the action at this place failed its condition.
pub(super) fn refused(reasons: &[CancellationReason], action: usize) -> bool {
    reasons.get(action).and_then(CancellationReason::code) == Some("ConditionalCheckFailed")
}

/// Sends one update, again while a transaction holds its item.
pub(super) async fn update(update: UpdateItemFluentBuilder) -> StoreResult<()> {
    let mut tried = 0;
    loop {
        tried += 1;
        match update.clone().send().await {
            Ok(_) => return Ok(()),
            Err(e) if e.code() == Some("TransactionConflictException") && tried < TRIES => {
                backoff(tried).await
            }
            Err(e) => return Err(store_error(e)),
        }
    }
}

/// 20, 40, 80, ... ms, each up to half longer, so that two that collided don't collide again.
async fn backoff(tried: u32) {
    let base = 20u64 << tried.min(6);
    let jitter = uuid::Uuid::new_v4().as_u128() % u128::from(base / 2 + 1);
    tokio::time::sleep(Duration::from_millis(base / 2 + u64::try_from(jitter).unwrap_or(0))).await;
}
