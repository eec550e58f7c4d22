//! AWS clients, built once at cold start.
//!
//! The SDK's standard retry is the one retry layer of calls whose body can be
//! sent again; calls with a streamed body can't be repeated by the SDK and are
//! the flow's to repeat.

use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;

use crate::config::Stores;

/// The clients that adapters share.
#[derive(Debug, Clone)]
pub struct Clients {
    /// What they are all made from.
    pub shared: aws_config::SdkConfig,
    /// DynamoDB.
    pub dynamodb: aws_sdk_dynamodb::Client,
    /// S3.
    pub s3: aws_sdk_s3::Client,
    /// Step Functions.
    pub sfn: aws_sdk_sfn::Client,
}

impl Clients {
    /// With credentials, region and endpoints from the environment, as the SDK reads them.
    pub async fn load(stores: &Stores) -> Self {
        let shared = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .retry_config(RetryConfig::standard())
            .timeout_config(TimeoutConfig::builder().connect_timeout(Duration::from_secs(5)).build())
            .load()
            .await;
        Self {
            dynamodb: aws_sdk_dynamodb::Client::new(&shared),
            s3: s3_client(&shared, stores.s3_endpoint.is_some()),
            sfn: aws_sdk_sfn::Client::new(&shared),
            shared,
        }
    }
}

/// `path_style` for endpoints other than S3's own, which don't answer to `bucket.host`.
pub fn s3_client(shared: &aws_config::SdkConfig, path_style: bool) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::config::Builder::from(shared).force_path_style(path_style).build();
    aws_sdk_s3::Client::from_conf(config)
}
