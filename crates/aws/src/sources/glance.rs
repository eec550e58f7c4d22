//! The records of images at a Glance elsewhere.

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use image_tasks_domain::glance::MAX_RECORD;
use image_tasks_domain::source::SourceLocation;
use image_tasks_domain::{Failure, FailureCode, GlanceImage, Login, Secret};
use image_tasks_flows::ports::Glances;
use reqwest::StatusCode;

use super::answer::Head;
use super::http::{Server, broken_off};
use super::{AllowedSources, forbidden};

#[async_trait]
impl Glances for AllowedSources {
    async fn record(&self, image: &GlanceImage, token: &Secret) -> Result<Bytes, Failure> {
        let what = image.to_string();
        let invalid = |why: &str| Failure::new(FailureCode::SourceInvalid, format!("{what} {why}"));
        let url = match SourceLocation::parse(&what) {
            Ok(SourceLocation::Http(url)) => url,
            Ok(SourceLocation::S3 { .. } | SourceLocation::Oci(_) | SourceLocation::Staged { .. }) => {
                return Err(invalid("is no web address"));
            }
            Err(refused) => return Err(forbidden(&what, &refused)),
        };
        let login = Login::Token(token.clone());
        let server =
            Server::at(&url, Some(&login), &self.addresses(&url, Some(&login))?, &self.terms).await?;
        let answer = server.ask(None, None).await?;
        let head = Head::of(&answer);
        match head.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                let message =
                    format!("{what}: there is no such image, or none that the token's owner may see");
                return Err(Failure::new(FailureCode::ImageNotFound, message));
            }
            status if status.is_redirection() => {
                return Err(invalid("redirects; the operator has to allow the endpoint that it leads to"));
            }
            _ => return Err(server.failure(&head)),
        }
        head.check_encoding(&what)?;
        let mut record = BytesMut::new();
        let mut body = answer.bytes_stream();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| broken_off(&error, &what, self.terms.patience))?;
            if record.len().saturating_add(chunk.len()) > MAX_RECORD {
                return Err(invalid(&format!("sends a record of more than {MAX_RECORD} bytes")));
            }
            record.extend_from_slice(&chunk);
        }
        Ok(record.freeze())
    }
}
