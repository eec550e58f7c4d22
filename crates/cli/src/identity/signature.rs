//! AWS's signatures (SigV4), for deployments that know their callers by them.
//!
//! Facts: API Gateway developer guide, "Control access to HTTP APIs with IAM authorization": the service is
//! `execute-api`. An API's own address is `{id}.execute-api.{region}.amazonaws.com`.

use std::time::SystemTime;

use aws_config::BehaviorVersion;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use reqwest::Request;
use reqwest::header::{HeaderName, HeaderValue};

use crate::failure::Failure;

/// Signs requests as the owner of AWS credentials.
pub(crate) struct Signer {
    credentials: SharedCredentialsProvider,
    region: String,
}

impl Signer {
    /// With the credentials of that profile, or else of AWS's usual chain: environment, profile `default` or
    /// `AWS_PROFILE`, container, instance.
    pub(super) async fn new(
        endpoint: &str,
        region: Option<&str>,
        profile: Option<&str>,
    ) -> Result<Self, Failure> {
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12());
        if let Some(name) = profile {
            // A profile that is named is meant, whatever the environment holds.
            let of_profile = ProfileFileCredentialsProvider::builder().profile_name(name).build();
            loader = loader.profile_name(name).credentials_provider(of_profile);
        }
        let shared = loader.load().await;
        let configured = || shared.region().map(|region| region.as_ref().to_owned());
        let region = region.map(str::to_owned).or_else(|| region_of(endpoint)).or_else(configured);
        let region = region.ok_or_else(|| {
            Failure::Usage("the region to sign for isn't known: give --region or set AWS_REGION".to_owned())
        })?;
        let credentials =
            shared.credentials_provider().ok_or_else(|| no_credentials("none are configured"))?;
        Ok(Self { credentials, region })
    }

    /// Adds the headers of a signature, made now.
    pub(crate) async fn sign(&self, request: &mut Request) -> Result<(), Failure> {
        #[allow(clippy::disallowed_methods, reason = "a signature says when it was made")]
        let now = SystemTime::now();
        self.sign_at(request, now).await
    }

    async fn sign_at(&self, request: &mut Request, now: SystemTime) -> Result<(), Failure> {
        let unsigned =
            |why: &dyn std::fmt::Display| Failure::Usage(format!("the request can't be signed: {why}"));
        let credentials = self.credentials.provide_credentials().await;
        let identity = credentials.map_err(|error| no_credentials(&crate::service::causes(&error)))?.into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("execute-api")
            .time(now)
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| unsigned(&error))?
            .into();
        let body = request.body().and_then(|body| body.as_bytes()).unwrap_or_default();
        // A proxy on the way may change other headers; `host` is always signed.
        let headers = request.headers().iter().filter(|(name, _)| *name == "content-type");
        let headers = headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let method = request.method().as_str();
        let signable =
            SignableRequest::new(method, request.url().as_str(), headers, SignableBody::Bytes(body));
        let signed = signable.and_then(|signable| sign(signable, &parameters));
        let (instructions, _) = signed.map_err(|error| unsigned(&error))?.into_parts();
        for (name, value) in instructions.headers() {
            let name = HeaderName::try_from(name).map_err(|error| unsigned(&error))?;
            let mut value = HeaderValue::try_from(value).map_err(|error| unsigned(&error))?;
            value.set_sensitive(true);
            request.headers_mut().insert(name, value);
        }
        Ok(())
    }
}

fn no_credentials(why: &str) -> Failure {
    Failure::Usage(format!("there are no AWS credentials: {why}"))
}

/// The region in an API's own address.
fn region_of(endpoint: &str) -> Option<String> {
    let (_, rest) = endpoint.split_once(".execute-api.")?;
    rest.split('.').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use aws_credential_types::Credentials;
    use reqwest::{Method, Url};

    use super::*;

    #[tokio::test]
    async fn a_request_is_signed_as_botocore_signs_it() {
        let credentials = Credentials::new("AKIDEXAMPLE", "secret", Some("session".into()), None, "test");
        let signer = Signer {
            credentials: SharedCredentialsProvider::new(credentials),
            region: "eu-west-1".to_owned(),
        };
        let url = "https://abc123.execute-api.eu-west-1.amazonaws.com/v2/images?name=eq%3Aa%20b&limit=2";
        let mut request = Request::new(Method::POST, Url::parse(url).unwrap());
        request.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
        *request.body_mut() = Some("{}".into());
        signer.sign_at(&mut request, UNIX_EPOCH + Duration::from_secs(1_795_000_000)).await.unwrap();
        let authorization = &request.headers()["authorization"];
        assert!(authorization.is_sensitive());
        // botocore's SigV4Auth of the same request, at the same time.
        assert_eq!(
            authorization.to_str().unwrap(),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261118/eu-west-1/execute-api/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, \
             Signature=c9c353b355e33c4889ed388a8fb9e1a78a4b8fb939b73a4c13eb4fa0255fe439"
        );
    }

    #[test]
    fn the_region_stands_in_the_address() {
        let region = region_of("https://abc123.execute-api.eu-central-1.amazonaws.com");
        assert_eq!(region.as_deref(), Some("eu-central-1"));
        assert_eq!(region_of("https://images.example.org"), None);
    }
}
