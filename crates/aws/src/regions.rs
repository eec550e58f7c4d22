//! The stores of the regions that are known: a client for each, built when it is first needed.
//!
//! Invariant: what is read elsewhere is read through the region's own clients. (A copy is asked of the region that it goes to.)

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use image_tasks_domain::regions::Regions;
use image_tasks_flows::ports::{RegionStore, RegionStores};

use crate::clients::Clients;
use crate::dynamo::DynamoImages;
use crate::s3::S3Objects;

/// Stores by region.
pub struct AwsRegions {
    own: Clients,
    own_table: String,
    regions: Regions,
    built: Mutex<BTreeMap<String, RegionStore>>,
}

impl AwsRegions {
    /// `own` is this region's, and its table of images; the others differ from it by the region and by what `regions` says.
    pub fn new(own: Clients, own_table: impl Into<String>, regions: Regions) -> Self {
        Self { own, own_table: own_table.into(), regions, built: Mutex::default() }
    }

    fn build(&self, name: &str) -> Option<RegionStore> {
        let Clients { dynamodb, s3, .. } = &self.own;
        if name == self.regions.here() {
            let images = DynamoImages::new(dynamodb.clone(), self.own_table.clone());
            return Some(RegionStore {
                images: Arc::new(images),
                objects: Arc::new(S3Objects::new(s3.clone())),
            });
        }
        let region = self.regions.listed().iter().find(|region| region.name == name)?;
        let there = || aws_sdk_s3::config::Region::new(region.name.clone());
        let dynamodb = dynamodb.config().to_builder().region(there()).build();
        let s3 = s3.config().to_builder().region(there()).build();
        let images = DynamoImages::new(aws_sdk_dynamodb::Client::from_conf(dynamodb), &region.images_table);
        let objects = S3Objects::new(aws_sdk_s3::Client::from_conf(s3));
        Some(RegionStore { images: Arc::new(images), objects: Arc::new(objects) })
    }
}

impl RegionStores for AwsRegions {
    fn store(&self, region: &str) -> Option<RegionStore> {
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = built.get(region) {
            return Some(store.clone());
        }
        let store = self.build(region)?;
        built.insert(region.to_owned(), store.clone());
        Some(store)
    }
}

#[cfg(test)]
mod tests {
    use aws_config::{BehaviorVersion, SdkConfig};
    use image_tasks_domain::regions::Region;

    use super::*;

    #[test]
    fn a_listed_region_is_built_once_and_no_other_at_all() {
        let shared = SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(aws_sdk_s3::config::Region::new("us-east-1"))
            .build();
        let own = Clients {
            dynamodb: aws_sdk_dynamodb::Client::new(&shared),
            s3: aws_sdk_s3::Client::new(&shared),
            sfn: aws_sdk_sfn::Client::new(&shared),
            shared,
        };
        let there = Region {
            name: "eu-west-1".into(),
            endpoint: "https://eu.example.com".into(),
            images_bucket: "images-eu".into(),
            images_table: "images".into(),
        };
        let regions = Regions::new("us-east-1", vec![there]).unwrap();
        let stores = AwsRegions::new(own, "images", regions);
        for region in ["us-east-1", "eu-west-1"] {
            let (first, again) = (stores.store(region).unwrap(), stores.store(region).unwrap());
            assert!(Arc::ptr_eq(&first.images, &again.images), "{region}");
            assert!(Arc::ptr_eq(&first.objects, &again.objects), "{region}");
        }
        assert!(stores.store("mars-1").is_none());
    }
}
