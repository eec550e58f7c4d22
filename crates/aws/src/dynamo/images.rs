//! The `ImageStore` port.

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use image_tasks_domain::ports::{ImagePage, ImageQuery, ImageStore, StoreResult};
use image_tasks_domain::{Image, ImageId, Visibility};

use super::item::{created_sort, image, image_key};
use super::merge::{Filter, Found, Merge, Partition};
use crate::failures::store_error;

/// Images in DynamoDB.
#[derive(Debug, Clone)]
pub struct DynamoImages {
    client: Client,
    images: String,
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
        found.item.map(image).transpose()
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
}
