//! What every phase of every task runs on.

use std::sync::Arc;

use image_tasks_domain::ports::{Clock, ImageStore, TaskLife, TaskStore};

use crate::ports::Objects;
use crate::reporter::Reporter;
use crate::settings::Settings;

/// The stores of this region, the time, and where things are kept.
#[derive(Clone)]
pub struct Stores {
    /// Tasks.
    pub tasks: Arc<dyn TaskStore>,
    /// How far they are.
    pub progress: Reporter,
    /// Images.
    pub images: Arc<dyn ImageStore>,
    /// How tasks end.
    pub life: Arc<dyn TaskLife>,
    /// Image bytes and work objects.
    pub objects: Arc<dyn Objects>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where things are kept.
    pub settings: Settings,
}
