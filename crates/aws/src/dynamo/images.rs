//! The `ImageStore` port.

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use image_tasks_domain::image::{HASH_ALGORITHM, ImageHashes};
use image_tasks_domain::ports::{ImagePage, ImageQuery, ImageStore, StoreResult};
use image_tasks_domain::{Image, ImageId, ImageStatus, Timestamp, Visibility};

use super::item::{created_sort, image, image_key, is_record, text};
use super::merge::{Filter, Found, Merge, Partition};
use super::write::update;
use crate::failures::store_error;

/// Images in DynamoDB.
#[derive(Debug, Clone)]
pub struct DynamoImages {
    pub(super) client: Client,
    pub(super) images: String,
}

impl DynamoImages {
    /// In this table.
    pub fn new(client: Client, images_table: impl Into<String>) -> Self {
        Self { client, images: images_table.into() }
    }
}

#[async_trait]
impl ImageStore for DynamoImages {
    async fn get(&self, id: ImageId) -> StoreResult<Option<Image>> {
        let (name, value) = image_key(id);
        let found = self
            .client
            .get_item()
            .table_name(&self.images)
            .key(name, value)
            .consistent_read(true)
            .send()
            .await
            .map_err(store_error)?;
        found.item.filter(is_record).map(image).transpose()
    }

    async fn list(&self, query: &ImageQuery) -> StoreResult<ImagePage> {
        if query.limit == 0 {
            return Ok(ImagePage { images: Vec::new(), more: false });
        }
        let of = |v: &Visibility| Partition::new("visibility-created", "visibility", v.name());
        let partitions = match &query.visible_to {
            Some(project) => {
                vec![Partition::new("owner-created", "owner", project), of(&Visibility::Public)]
            }
            None => Visibility::ALL.iter().map(of).collect(),
        };
        let merge = Merge {
            client: &self.client,
            table: &self.images,
            partitions,
            sort: "created_sort",
            behind: query.after.as_ref().map(|image| created_sort(image.created_at, image.id)),
            descending: true,
            filter: Filter::default(),
        };
        let Found { items, more, .. } = merge.page(query.limit).await?;
        Ok(ImagePage { images: items.into_iter().map(image).collect::<StoreResult<_>>()?, more })
    }

    async fn set_hashes(
        &self,
        id: ImageId,
        etag: &str,
        hashes: &ImageHashes,
        now: Timestamp,
    ) -> StoreResult<()> {
        let (name, value) = image_key(id);
        let set = "SET checksum = :md5, os_hash_algo = :algo, os_hash_value = :sha512, updated_at = :now";
        let change = self
            .client
            .update_item()
            .table_name(&self.images)
            .key(name, value)
            .update_expression(set)
            .condition_expression("#status IN (:active, :deactivated) AND #stored.etag = :etag")
            .expression_attribute_names("#status", "status")
            .expression_attribute_names("#stored", "stored")
            .expression_attribute_values(":active", text(ImageStatus::Active.name()))
            .expression_attribute_values(":deactivated", text(ImageStatus::Deactivated.name()))
            .expression_attribute_values(":etag", text(etag))
            .expression_attribute_values(":md5", text(&hashes.md5))
            .expression_attribute_values(":algo", text(HASH_ALGORITHM))
            .expression_attribute_values(":sha512", text(&hashes.sha512))
            .expression_attribute_values(":now", text(now));
        update(change).await
    }
}
