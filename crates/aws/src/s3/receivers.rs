//! Stores of receiving buckets: a client for each region.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::Region;
use image_tasks_flows::ports::{Metadata, Objects, Receivers};

use super::S3Objects;

/// Clients for the regions that the operator named, made once.
#[derive(Debug, Clone)]
pub struct S3Receivers {
    own: Client,
    elsewhere: BTreeMap<String, Client>,
}

impl S3Receivers {
    /// `own` is this region's; the others differ from it by the region alone. (A copy is asked of the region that it goes to.)
    pub fn new<'a>(own: Client, regions: impl IntoIterator<Item = &'a str>) -> Self {
        let client = |region: &str| {
            let config = own.config().to_builder().region(Region::new(region.to_owned())).build();
            Client::from_conf(config)
        };
        let elsewhere = regions.into_iter().map(|region| (region.to_owned(), client(region))).collect();
        Self { own, elsewhere }
    }
}

impl Receivers for S3Receivers {
    fn objects(&self, region: Option<&str>, metadata: &Metadata) -> Arc<dyn Objects> {
        let client = region.and_then(|region| self.elsewhere.get(region)).unwrap_or(&self.own);
        Arc::new(S3Objects::new(client.clone()).with_metadata(metadata))
    }
}
