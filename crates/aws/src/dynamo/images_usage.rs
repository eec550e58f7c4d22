//! What a project uses of the images' table.

use aws_sdk_dynamodb::types::Select;
use image_tasks_domain::ImageStatus;
use image_tasks_domain::images::Usage;
use image_tasks_domain::ports::StoreResult;

use super::DynamoImages;
use super::item::{image, text};
use super::merge::{Filter, Merge, Partition};
use crate::failures::store_error;

impl DynamoImages {
    /// Images of a project, counted no further than to `most`.
    pub(super) async fn counted(&self, project: &str, most: usize) -> StoreResult<usize> {
        let (mut count, mut next) = (0, None);
        loop {
            let left = i32::try_from(most.saturating_sub(count)).unwrap_or(i32::MAX).max(1);
            let query = self
                .client
                .query()
                .table_name(&self.images)
                .index_name("owner-created")
                .select(Select::Count)
                .limit(left)
                .set_exclusive_start_key(next.take())
                .key_condition_expression("#owner = :owner")
                .expression_attribute_names("#owner", "owner")
                .expression_attribute_values(":owner", text(project));
            let found = query.send().await.map_err(store_error)?;
            count += usize::try_from(found.count()).unwrap_or(0);
            next = found.last_evaluated_key;
            if next.is_none() || count >= most {
                return Ok(count);
            }
        }
    }

    /// All that a project has.
    pub(super) async fn used(&self, project: &str) -> StoreResult<Usage> {
        let merge = Merge {
            client: &self.client,
            table: &self.images,
            partitions: vec![Partition::new("owner-created", "owner", project)],
            sort: "created_sort",
            behind: None,
            descending: true,
            filter: Filter::default(),
        };
        let mut usage = Usage::default();
        merge
            .each(|item| {
                let image = image(item)?;
                usage.images += 1;
                usage.importing += usize::from(image.status == ImageStatus::Importing);
                usage.bytes = usage.bytes.saturating_add(image.size.unwrap_or(0));
                Ok(())
            })
            .await?;
        Ok(usage)
    }
}
