//! The `ImageRecords` port: records as callers change them.

use async_trait::async_trait;
use aws_sdk_dynamodb::types::{AttributeValue, Put};
use image_tasks_domain::images::{ImageSearch, Usage};
use image_tasks_domain::ports::{FoundImages, ImageRecords, StoreResult};
use image_tasks_domain::{Image, ImageId};

use super::DynamoImages;
use super::item::{image_item, image_key, text};
use super::write::{Replacement, put_action, write};
use crate::failures::store_error;

/// By what it is judged who may change an image, and how.
const JUDGED: &[&str] = &["status", "owner", "visibility", "protected"];

#[async_trait]
impl ImageRecords for DynamoImages {
    async fn add(&self, image: &Image) -> StoreResult<()> {
        let put = Put::builder()
            .table_name(&self.images)
            .set_item(Some(image_item(image)?))
            // What is left of a removed image has its id.
            .condition_expression("attribute_not_exists(id)");
        write(&self.client, vec![put_action(put)?]).await
    }

    async fn replace(&self, was: &Image, is: &Image) -> StoreResult<()> {
        let record = Replacement { was: image_item(was)?, is: image_item(is)?, relied_on: JUDGED };
        let mut actions = vec![record.action(&self.images)?];
        actions.extend(self.changed_shares(was, is)?);
        write(&self.client, actions).await
    }

    async fn remove(&self, was: &Image) -> StoreResult<()> {
        let left = Put::builder()
            .table_name(&self.images)
            .item("id", text(was.id))
            .condition_expression(
                "#status = :status AND #owner = :owner AND visibility = :visibility AND protected = :protected",
            )
            .expression_attribute_names("#status", "status")
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_values(":status", text(was.status.name()))
            .expression_attribute_values(":owner", text(&was.owner))
            .expression_attribute_values(":visibility", text(was.visibility.name()))
            .expression_attribute_values(":protected", AttributeValue::Bool(was.protected));
        write(&self.client, vec![put_action(left)?]).await?;
        self.forget_shares(was).await;
        Ok(())
    }

    async fn is_taken(&self, id: ImageId) -> StoreResult<bool> {
        let (name, value) = image_key(id);
        let get = self.client.get_item().table_name(&self.images).key(name, value).consistent_read(true);
        Ok(get.projection_expression("id").send().await.map_err(store_error)?.item.is_some())
    }

    async fn find(&self, search: &ImageSearch) -> StoreResult<FoundImages> {
        self.found(search).await
    }

    async fn count(&self, project: &str, most: usize) -> StoreResult<usize> {
        self.counted(project, most).await
    }

    async fn usage(&self, project: &str) -> StoreResult<Usage> {
        self.used(project).await
    }
}
