//! Callers by the principal that signed the request.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use image_tasks_domain::IamProjects;
use image_tasks_domain::ports::{Clock, ProjectMap, StoreError};

use super::cache::Cache;

/// How long a map counts: how long a principal that was taken out of it may still act.
const KEPT: Duration = Duration::from_secs(60);

/// Principals as the operator maps them to projects.
pub struct MappedPrincipals {
    map: Arc<dyn ProjectMap>,
    cache: Cache<(), Arc<IamProjects>>,
}

impl MappedPrincipals {
    /// By this map.
    pub fn new(map: Arc<dyn ProjectMap>, clock: Arc<dyn Clock>) -> Self {
        Self { map, cache: Cache::new(clock, 1) }
    }

    /// The map as it was at most a minute ago.
    pub(super) async fn projects(&self) -> Result<Arc<IamProjects>, Arc<StoreError>> {
        let map = self.map.clone();
        let question = self.cache.get((), move |asked| {
            async move { Ok((Arc::new(map.read().await.map_err(Arc::new)?), asked.plus(KEPT))) }.boxed()
        });
        question.await
    }
}
