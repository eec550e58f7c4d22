//! The `ImageTasks` port: tasks by the image that they make or work on.

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use image_tasks_domain::ports::{ImageTasks, StoreResult};
use image_tasks_domain::{ImageId, Task};

use super::item::{string, task, text};
use super::tasks::DynamoTasks;
use crate::failures::store_error;

const INDEX: &str = "image-created";
/// Tasks that are read at once.
const AT_ONCE: usize = 16;

#[async_trait]
impl ImageTasks for DynamoTasks {
    async fn tasks_of(&self, image: ImageId, most: usize) -> StoreResult<Vec<Task>> {
        let query = self
            .client
            .query()
            .table_name(&self.tasks)
            .index_name(INDEX)
            .scan_index_forward(false)
            .limit(i32::try_from(most).unwrap_or(i32::MAX))
            .key_condition_expression("image_id = :image")
            .expression_attribute_values(":image", text(image));
        let found = query.send().await.map_err(store_error)?;
        // The index has their ids alone: what is shown is the task as it is now.
        let ids = found.items.unwrap_or_default().into_iter().map(|item| Ok(string(&item, "id")?.to_owned()));
        let ids = ids.collect::<StoreResult<Vec<_>>>()?;
        let items = stream::iter(ids).map(|id| self.item(id)).buffered(AT_ONCE);
        items.try_filter_map(async |item| item.as_ref().map(task).transpose()).try_collect().await
    }
}
