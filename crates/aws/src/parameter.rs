//! The operator's map of principals, in Systems Manager's Parameter Store.
//!
//! One call of one API, signed with the SDK's own signer and sent as AWS's JSON protocol says: the SDK for Systems
//! Manager has some 150 calls and takes longer to compile than all the rest of this crate.
//!
//! Facts: Systems Manager API reference, `GetParameter`. A value has at most 4 KB, 8 KB in the advanced tier.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_dynamodb::config::{ProvideCredentials, SharedCredentialsProvider};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use image_tasks_domain::IamProjects;
use image_tasks_domain::ports::{Clock, ProjectMap, StoreError, StoreResult};
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Method, Request, StatusCode, Url};
use serde_json::{Value, json};

use crate::failures::is_later;
use crate::small_answer::{SmallAnswers, fault};

/// How long Systems Manager may take for an answer; it is asked twice at most.
const PATIENCE: Duration = Duration::from_secs(3);
/// What the call is, in AWS's JSON protocol 1.1.
const TARGET: &str = "AmazonSSM.GetParameter";
const MEDIA_TYPE: &str = "application/x-amz-json-1.1";

/// A parameter that holds the map.
pub struct ProjectsParameter {
    name: String,
    endpoint: Url,
    region: String,
    credentials: SharedCredentialsProvider,
    clock: Arc<dyn Clock>,
    answers: SmallAnswers,
}

impl ProjectsParameter {
    /// The parameter of that name in the region of this configuration.
    ///
    /// # Errors
    /// Where the configuration lacks region or credentials, or TLS can't be set up.
    pub fn new(
        shared: &SdkConfig,
        name: &str,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let region = shared.region().ok_or("no AWS region is configured")?.to_string();
        let endpoint = match shared.endpoint_url() {
            Some(endpoint) => endpoint.to_owned(),
            // AWS general reference, "Systems Manager endpoints"; the suffix of China's partition.
            None if region.starts_with("cn-") => format!("https://ssm.{region}.amazonaws.com.cn"),
            None => format!("https://ssm.{region}.amazonaws.com"),
        };
        Ok(Self {
            name: name.to_owned(),
            endpoint: Url::parse(&endpoint)?,
            region,
            credentials: shared.credentials_provider().ok_or("no AWS credentials are configured")?,
            clock,
            answers: SmallAnswers::new(PATIENCE)?,
        })
    }

    /// The call, signed.
    async fn request(&self) -> StoreResult<Request> {
        let body = json!({"Name": self.name}).to_string();
        let credentials = self.credentials.provide_credentials().await;
        let identity = credentials.map_err(|error| StoreError::Unavailable(Box::new(error)))?.into();
        let seconds = u64::try_from(self.clock.now().epoch()).unwrap_or_default();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("ssm")
            .time(UNIX_EPOCH + Duration::from_secs(seconds))
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| StoreError::Fault(Box::new(error)))?
            .into();
        let headers = [("content-type", MEDIA_TYPE), ("x-amz-target", TARGET)];
        let signable = SignableRequest::new(
            "POST",
            self.endpoint.as_str(),
            headers.into_iter(),
            SignableBody::Bytes(body.as_bytes()),
        );
        let signed = signable.and_then(|signable| sign(signable, &parameters));
        let (instructions, _) = signed.map_err(|error| StoreError::Fault(Box::new(error)))?.into_parts();
        let mut request = Request::new(Method::POST, self.endpoint.clone());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        request.headers_mut().insert("x-amz-target", HeaderValue::from_static(TARGET));
        for (name, value) in instructions.headers() {
            let name = HeaderName::try_from(name).map_err(|error| StoreError::Fault(Box::new(error)))?;
            let mut value =
                HeaderValue::try_from(value).map_err(|error| StoreError::Fault(Box::new(error)))?;
            value.set_sensitive(true);
            request.headers_mut().insert(name, value);
        }
        *request.body_mut() = Some(body.into());
        Ok(request)
    }
}

#[async_trait]
impl ProjectMap for ProjectsParameter {
    async fn read(&self) -> StoreResult<IamProjects> {
        let answer = self.answers.ask(self.request().await?).await?;
        let what = format!("the parameter {}", self.name);
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if answer.status != StatusCode::OK {
            // `ParameterNotFound`, or with a namespace in front and a `#` between.
            let code = body["__type"].as_str().and_then(|code| code.rsplit('#').next()).unwrap_or("no code");
            let why = format!("{what} can't be read: {} {code}", answer.status);
            return Err(if is_later(code) { StoreError::Unavailable(why.into()) } else { fault(why) });
        }
        let parameter = &body["Parameter"];
        if parameter["Type"] == "SecureString" {
            return Err(fault(format!(
                "{what} is a SecureString, but must be a String: the map is no secret"
            )));
        }
        let text =
            parameter["Value"].as_str().ok_or_else(|| fault(format!("{what} came without a value")))?;
        IamProjects::from_json(text).map_err(|problem| fault(format!("{what} can't be used: {problem}")))
    }
}

#[cfg(test)]
mod tests {
    use aws_config::BehaviorVersion;
    use aws_sdk_dynamodb::config::{Credentials, Region};
    use image_tasks_domain::Timestamp;
    use image_tasks_domain::memory::ManualClock;

    use super::*;

    async fn request(region: &'static str) -> Request {
        let credentials = Credentials::new("AKIDEXAMPLE", "secret", Some("session".into()), None, "test");
        let shared = SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(region))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .build();
        let clock = Arc::new(ManualClock::at(Timestamp::from_epoch(1_795_000_000)));
        ProjectsParameter::new(&shared, "/images/projects", clock).unwrap().request().await.unwrap()
    }

    #[tokio::test]
    async fn the_call_is_signed_as_botocore_signs_it() {
        let request = request("eu-west-1").await;
        assert_eq!(request.url().as_str(), "https://ssm.eu-west-1.amazonaws.com/");
        assert_eq!(request.body().unwrap().as_bytes().unwrap(), br#"{"Name":"/images/projects"}"#);
        let authorization = &request.headers()["authorization"];
        // botocore 1.43 of the same request, at the same time.
        assert_eq!(
            authorization.to_str().unwrap(),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261118/eu-west-1/ssm/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target, \
             Signature=84761d0ed31a0220f0162dfac01d20abca4f8d5e9fe196e9a4f963432939aa88"
        );
        assert!(authorization.is_sensitive());
    }

    #[tokio::test]
    async fn china_has_a_suffix_of_its_own() {
        assert_eq!(request("cn-north-1").await.url().as_str(), "https://ssm.cn-north-1.amazonaws.com.cn/");
    }
}
