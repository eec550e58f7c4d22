//! The `ImageTasks` port: tasks by the image that they make or work on.

use async_trait::async_trait;
use image_tasks_domain::ports::{ImageTasks, StoreResult};
use image_tasks_domain::{ImageId, Task};

use super::item::{task, text};
use super::tasks::DynamoTasks;
use crate::failures::store_error;

const INDEX: &str = "image-created";

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
        let mut tasks = Vec::new();
        // The index has their ids alone: what is shown is the task as it is now.
        for item in found.items.unwrap_or_default() {
            let id = super::item::string(&item, "id")?;
            if let Some(item) = self.item(id).await? {
                tasks.push(task(&item)?);
            }
        }
        Ok(tasks)
    }
}
