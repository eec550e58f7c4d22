//! With whom images are shared: an item for each project, so that its list finds them.
//!
//! An image's record has its members, and is what counts. An item beside it: `id` (`share#{image}#{project}`),
//! `member` (the project), `share_sort` (`{status}#{image}`). Both change in one transaction. A share whose image is
//! gone, or says otherwise, is passed over by readers.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{AttributeValue, Delete, KeysAndAttributes, Put, TransactWriteItem};
use image_tasks_domain::ports::{StoreError, StoreResult};
use image_tasks_domain::{Image, ImageId, MemberStatus};

use super::DynamoImages;
use super::item::{image, is_record, string, text};
use super::merge::{Each, MOST_SEARCHED};
use super::write::{delete_action, put_action};
use crate::failures::store_error;

const INDEX: &str = "member-shares";
/// Most keys of one BatchGetItem (DynamoDB API reference).
const BATCH: usize = 100;

fn share_id(image: ImageId, project: &str) -> String {
    format!("share#{image}#{project}")
}

impl DynamoImages {
    /// The items of shares that differ between two states of a record.
    pub(super) fn changed_shares(&self, was: &Image, is: &Image) -> StoreResult<Vec<TransactWriteItem>> {
        let mut actions = Vec::new();
        for project in was.members.keys().filter(|project| !is.members.contains_key(*project)) {
            let delete = Delete::builder().table_name(&self.images).key("id", text(share_id(is.id, project)));
            actions.push(delete_action(delete)?);
        }
        for (project, member) in &is.members {
            if was.members.get(project).map(|was| was.status) == Some(member.status) {
                continue;
            }
            let put = Put::builder()
                .table_name(&self.images)
                .item("id", text(share_id(is.id, project)))
                .item("member", text(project))
                .item("share_sort", text(format!("{}#{}", member.status.name(), is.id)));
            actions.push(put_action(put)?);
        }
        Ok(actions)
    }

    /// Removes the items of a removed image's shares. What is left of them is passed over.
    pub(super) async fn forget_shares(&self, of: &Image) {
        for project in of.members.keys() {
            let delete = self.client.delete_item().table_name(&self.images);
            if let Err(error) = delete.key("id", text(share_id(of.id, project))).send().await {
                tracing::warn!(image_id = %of.id, error = &error as &dyn std::error::Error, "a share is left");
            }
        }
    }

    /// Visits each image that is shared with a project and to which it said so (`None`: whatever it said); given up
    /// where there are too many: anybody may share.
    pub(super) async fn each_shared(
        &self,
        (project, status): (&str, Option<MemberStatus>),
        mut visit: impl FnMut(Image),
    ) -> StoreResult<Each> {
        let (mut next, mut read) = (None, 0);
        loop {
            let mut query = self
                .client
                .query()
                .table_name(&self.images)
                .index_name(INDEX)
                .set_exclusive_start_key(next.take())
                .expression_attribute_names("#member", "member")
                .expression_attribute_values(":member", text(project));
            let mut condition = "#member = :member".to_owned();
            if let Some(status) = status {
                condition += " AND begins_with(share_sort, :status)";
                query = query.expression_attribute_values(":status", text(format!("{}#", status.name())));
            }
            let found = query.key_condition_expression(condition).send().await.map_err(store_error)?;
            let mut ids = Vec::new();
            for item in found.items.unwrap_or_default() {
                ids.extend(string(&item, "share_sort")?.split_once('#').map(|(_, id)| id.to_owned()));
            }
            read += 2 * ids.len();
            for ids in ids.chunks(BATCH) {
                self.each_of(ids, &mut visit).await?;
            }
            next = found.last_evaluated_key;
            if next.is_none() || read >= MOST_SEARCHED {
                return Ok(Each { read, whole: next.is_none() });
            }
        }
    }

    /// Visits the records of these ids that there are.
    async fn each_of(&self, ids: &[String], visit: &mut impl FnMut(Image)) -> StoreResult<()> {
        let keys = ids.iter().map(|id| HashMap::from([("id".to_owned(), text(id))]));
        let mut wanted: Vec<HashMap<String, AttributeValue>> = keys.collect();
        while !wanted.is_empty() {
            let keys = KeysAndAttributes::builder().consistent_read(true).set_keys(Some(wanted)).build();
            let keys = keys.map_err(|e| StoreError::Fault(e.into()))?;
            let get = self.client.batch_get_item().request_items(&self.images, keys);
            let got = get.send().await.map_err(store_error)?;
            for item in got.responses.into_iter().flat_map(HashMap::into_values).flatten() {
                if is_record(&item) {
                    visit(image(item)?);
                }
            }
            // What didn't fit in one answer of 16 MB.
            let left = got.unprocessed_keys.into_iter().flat_map(HashMap::into_values);
            wanted = left.flat_map(|keys| keys.keys).collect();
        }
        Ok(())
    }
}
