//! Requests to answers.

use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderName;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use image_tasks_domain::Caller;
use image_tasks_domain::images::Images;
use image_tasks_domain::ports::{MultipartUploads, Staging};
use image_tasks_domain::tasks::Tasks;
use image_tasks_domain::uploads::Uploads;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::error::ApiError;
use crate::identity::Identity;
use crate::images::{members, upload};
use crate::links::{self, Query};
use crate::router::Route;
use crate::schemas::Schema;
use crate::{images, info, openapi, reply, schemas, tasks, versions};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-openstack-request-id");

/// The Images API over use cases.
#[derive(Clone)]
pub struct App {
    /// Tasks.
    pub tasks: Tasks,
    /// Images.
    pub images: Images,
    /// Where bytes wait on their way into images.
    pub staging: Arc<dyn Staging>,
    /// How clients bring bytes there themselves.
    pub multipart: Arc<dyn MultipartUploads>,
    /// Largest image, bytes.
    pub max_image_bytes: u64,
    /// How callers are known.
    pub identity: Identity,
    /// Scheme and host that clients see; `None`: what each request says.
    pub public_endpoint: Option<String>,
}

/// What a request is known by before it comes here: in its extensions, so that one id leads through all logs. Without one it
/// gets a new one.
#[derive(Debug, Clone, Copy)]
pub struct RequestId(Uuid);

impl RequestId {
    /// None where that is no UUID.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }
}

/// A request on its way through the handlers.
pub(crate) struct Call {
    pub(crate) caller: Caller,
    pub(crate) query: Query,
    pub(crate) endpoint: String,
    /// Id of the store that images' bytes are in: the region that answers.
    pub(crate) store: String,
    pub(crate) request_id: String,
    pub(crate) parts: Parts,
    pub(crate) body: Bytes,
}

impl App {
    fn uploads(&self) -> Uploads<'_> {
        Uploads {
            images: &self.images,
            tasks: &self.tasks,
            staging: &*self.staging,
            multipart: &*self.multipart,
            max_image_bytes: self.max_image_bytes,
        }
    }

    /// Answers one request. With [`Identity::Iam`] the request's extensions hold the principal.
    pub async fn handle(&self, request: Request<Bytes>) -> Response<Bytes> {
        let known = request.extensions().get::<RequestId>().map(|id| id.0);
        let request_id = format!("req-{}", known.unwrap_or_else(Uuid::new_v4));
        let span = tracing::info_span!(
            "request", request_id, method = %request.method(), path = request.uri().path()
        );
        let (parts, body) = request.into_parts();
        let answer = self.route(parts, body, &request_id).instrument(span.clone()).await;
        let mut response = span.in_scope(|| answer.unwrap_or_else(|error| error.into_response(&request_id)));
        reply::set(&mut response, REQUEST_ID, &request_id);
        response
    }

    async fn route(&self, parts: Parts, body: Bytes, request_id: &str) -> Result<Response<Bytes>, ApiError> {
        let path = parts.uri.path().to_owned();
        let route = Route::of(&path);
        let endpoint = links::endpoint(self.public_endpoint.as_deref(), &parts);
        // Discovery comes before authentication.
        if let Some(open @ (Route::Versions(_) | Route::Healthcheck | Route::OpenApi)) = route {
            return match (open, &parts.method) {
                (Route::Versions(status), &Method::GET) => {
                    Ok(reply::json(status, &versions::document(&endpoint)))
                }
                (Route::Healthcheck, &Method::GET) => Ok(reply::text("OK")),
                (Route::OpenApi, &Method::GET) => {
                    Ok(reply::json(StatusCode::OK, &openapi::document(&endpoint)))
                }
                (route, method) => Err(ApiError::not_allowed(route, method.clone())),
            };
        }
        let caller = self.identity.caller(&parts).await?;
        let route = route.ok_or_else(|| ApiError::NoSuchPath(path.clone()))?;
        let call = Call {
            caller,
            query: Query::of(&parts.uri),
            endpoint,
            store: self.tasks.regions.here().to_owned(),
            request_id: request_id.to_owned(),
            parts,
            body,
        };
        let method = call.parts.method.clone();
        match (route, method) {
            (Route::Tasks, Method::POST) => tasks::create(&self.tasks, call).await,
            (Route::Tasks, Method::GET) => tasks::list(&self.tasks, call).await,
            (Route::Task(id), Method::GET) => tasks::get(&self.tasks, call, id).await,
            (Route::TaskCancel(id), Method::POST) => tasks::cancel(&self.tasks, call, id).await,
            (Route::Images, Method::GET) => images::list(&self.images, call).await,
            (Route::Images, Method::POST) => images::create(&self.images, call).await,
            (Route::Image(id), Method::GET) => images::get(&self.images, call, id).await,
            (Route::Image(id), Method::PATCH) => images::patch(&self.images, call, id).await,
            (Route::Image(id), Method::DELETE) => images::delete(&self.images, call, id).await,
            (Route::ImageFile(id), Method::GET) => images::file(&self.images, call, id).await,
            (Route::ImageFile(id), Method::PUT) => upload::file(self.uploads(), call, id).await,
            (Route::ImageStage(id), Method::PUT) => upload::stage(self.uploads(), call, id).await,
            (Route::ImageUpload(id), Method::POST) => upload::parts(self.uploads(), call, id).await,
            (Route::ImageUpload(id), Method::DELETE) => upload::give_up(self.uploads(), call, id).await,
            (Route::ImageUploadComplete(id), Method::POST) => {
                upload::complete(self.uploads(), call, id).await
            }
            (Route::ImageImport(id), Method::POST) => upload::import(self.uploads(), call, id).await,
            (Route::ImageTasks(id), Method::GET) => images::tasks(&self.images, call, id).await,
            (Route::ImageMembers(id), Method::GET) => members::list(&self.images, call, id).await,
            (Route::ImageMembers(id), Method::POST) => members::create(&self.images, call, id).await,
            (Route::ImageMember(id, who), Method::GET) => members::get(&self.images, call, id, who).await,
            (Route::ImageMember(id, who), Method::PUT) => members::update(&self.images, call, id, who).await,
            (Route::ImageMember(id, who), Method::DELETE) => {
                members::delete(&self.images, call, id, who).await
            }
            (Route::ImageTag(id, tag), Method::PUT) => images::tag(&self.images, call, id, tag).await,
            (Route::ImageTag(id, tag), Method::DELETE) => images::untag(&self.images, call, id, tag).await,
            (Route::ImageDeactivate(id), Method::POST) => images::deactivate(&self.images, call, id).await,
            (Route::ImageReactivate(id), Method::POST) => images::reactivate(&self.images, call, id).await,
            (Route::Usage, Method::GET) => {
                let usage = self.images.usage(&call.caller).await?;
                Ok(reply::json(StatusCode::OK, &info::usage(usage, self.images.quota.most)))
            }
            (Route::ImportInfo, Method::GET) => Ok(reply::json(StatusCode::OK, &info::import())),
            (Route::Stores, Method::GET) => Ok(reply::json(StatusCode::OK, &info::stores(&call.store))),
            (Route::StoresDetail, Method::GET) => {
                Ok(reply::json(StatusCode::OK, &info::stores_detail(&call.caller, &call.store)?))
            }
            (Route::Regions, Method::GET) => {
                Ok(reply::json(StatusCode::OK, &info::regions(&self.tasks.regions)))
            }
            (Route::Schema(name), Method::GET) => schema(schemas::named(name), &path),
            (Route::MetadefSchema(name), Method::GET) => schema(schemas::metadef_named(name), &path),
            (route, method) => Err(ApiError::not_allowed(route, method)),
        }
    }
}

fn schema(found: Option<Schema>, path: &str) -> Result<Response<Bytes>, ApiError> {
    let schema = found.ok_or_else(|| ApiError::NoSuchPath(path.to_owned()))?;
    Ok(reply::json(StatusCode::OK, &schema()))
}
