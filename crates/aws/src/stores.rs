//! The stores of this region, over the clients, as a function is told where they are.

use std::sync::Arc;

use image_tasks_domain::export_input::ExportPolicy;
use image_tasks_flows::{Reporter, Settings, Stores};

use crate::clients::Clients;
use crate::clock::SystemClock;
use crate::config;
use crate::dynamo::{DynamoImages, DynamoTasks};
use crate::metrics::Metrics;
use crate::s3::{S3Objects, S3Receivers};

impl Clients {
    /// Tasks.
    pub fn tasks(&self, told: &config::Stores) -> DynamoTasks {
        let metrics = Metrics::new(told.metrics_namespace.clone());
        DynamoTasks::new(self.dynamodb.clone(), &told.tasks_table, &told.images_table).with_metrics(metrics)
    }

    /// Images.
    pub fn images(&self, told: &config::Stores) -> DynamoImages {
        DynamoImages::new(self.dynamodb.clone(), &told.images_table)
    }

    /// Objects of this region.
    pub fn objects(&self) -> S3Objects {
        S3Objects::new(self.s3.clone())
    }

    /// Buckets that receive exports, each in its region.
    pub fn receivers(&self, policy: &ExportPolicy) -> S3Receivers {
        S3Receivers::new(self.s3.clone(), policy.buckets.values().flatten().map(String::as_str))
    }

    /// What the phases of a task run on.
    pub fn stores(&self, tasks: &Arc<DynamoTasks>, told: &config::Stores, work_bucket: String) -> Stores {
        Stores {
            tasks: tasks.clone(),
            progress: Reporter::new(tasks.clone()),
            images: Arc::new(self.images(told)),
            life: tasks.clone(),
            objects: Arc::new(self.objects()),
            clock: Arc::new(SystemClock),
            settings: Settings {
                images_bucket: told.images_bucket.clone(),
                work_bucket,
                task_ttl: told.task_ttl,
            },
        }
    }
}
