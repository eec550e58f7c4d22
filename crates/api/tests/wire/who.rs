//! Every method of every route, by everybody, at every visibility, however callers are known: who gets what.
//!
//! The table below says it. It is written from Glance's policies, not from the code, and the test fails where the service
//! has a route that isn't in it.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::Request;
use image_tasks_domain::transfer::TransferPlan;
use image_tasks_domain::{
    Caller, IamProjects, Image, ImageStatus, KeystoneToken, Member, MemberStatus, MultipartUpload, Scope,
    StagedBytes, Task, TaskType, Timestamp, Visibility,
};
use serde_json::json;
use uuid::Uuid;

use crate::change_images::V21;
use crate::contract::CONTRACT;
use crate::images::image;
use crate::service::{ACCOUNT, Answer, NOW, Service, import, principal};

use self::Asks::{
    BeAdmin, BeThatMember, BeWorker, ChangeImage, KnowOfMember, NotForOthers, SeeImage, SeeTask, SharedImage,
};

/// What a route asks of who calls it, once that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    /// Role `admin`.
    BeAdmin,
    /// Role `member` or `admin`: to do more than look on.
    BeWorker,
    /// The task belongs to the caller's project; an admin sees all.
    SeeTask,
    /// The image belongs to the caller's project, is public or a community's, or is shared with it. An admin sees all.
    SeeImage,
    /// The image's own workers, and admins.
    ChangeImage,
    /// That its visibility is `shared`.
    SharedImage,
    /// The image's owner knows of all members, a member of itself.
    KnowOfMember,
    /// The owner doesn't accept for others; an admin may.
    NotForOthers,
    /// The member says it itself, or an admin.
    BeThatMember,
}

/// What a route answers.
enum Answers {
    /// To anybody, known or not.
    Openly(u16),
    /// To callers: the first of these that isn't so refuses with its status; else the last is answered.
    After(&'static [(Asks, u16)], u16),
}
use Answers::{After, Openly};

const CHANGE: &[(Asks, u16)] = &[(SeeImage, 404), (ChangeImage, 403)];
const SHARE: &[(Asks, u16)] = &[(SeeImage, 404), (SharedImage, 403), (ChangeImage, 403)];

const POLICY: &[(&str, &str, Answers)] = &[
    ("GET", "/", Openly(300)),
    ("GET", "/versions", Openly(200)),
    ("GET", "/v2", Openly(300)),
    ("GET", "/healthcheck", Openly(200)),
    ("GET", "/v2/openapi.json", Openly(200)),
    ("GET", "/v2/schemas/{schema}", After(&[], 200)),
    ("GET", "/v2/schemas/metadefs/{schema}", After(&[], 200)),
    ("GET", "/v2/info/import", After(&[], 200)),
    ("GET", "/v2/info/stores", After(&[], 200)),
    ("GET", "/v2/info/stores/detail", After(&[(BeAdmin, 403)], 200)),
    ("GET", "/v2/info/regions", After(&[], 200)),
    ("GET", "/v2/info/usage", After(&[], 200)),
    // Tasks. Glance leaves them to admins; here they are what the service is for, and the roles are those of images.
    ("GET", "/v2/tasks", After(&[], 200)),
    ("POST", "/v2/tasks", After(&[(BeWorker, 403)], 201)),
    ("GET", "/v2/tasks/{task_id}", After(&[(SeeTask, 404)], 200)),
    ("POST", "/v2/tasks/{task_id}/cancel", After(&[(BeWorker, 403), (SeeTask, 404)], 202)),
    // Images.
    ("GET", "/v2/images", After(&[], 200)),
    ("POST", "/v2/images", After(&[(BeWorker, 403)], 201)),
    ("GET", "/v2/images/{image_id}", After(&[(SeeImage, 404)], 200)),
    ("PATCH", "/v2/images/{image_id}", After(CHANGE, 200)),
    ("DELETE", "/v2/images/{image_id}", After(CHANGE, 204)),
    ("GET", "/v2/images/{image_id}/file", After(&[(SeeImage, 404), (BeWorker, 403)], 302)),
    ("PUT", "/v2/images/{image_id}/file", After(CHANGE, 204)),
    ("PUT", "/v2/images/{image_id}/stage", After(CHANGE, 204)),
    ("POST", "/v2/images/{image_id}/upload", After(CHANGE, 201)),
    ("DELETE", "/v2/images/{image_id}/upload", After(CHANGE, 204)),
    // Nothing was uploaded.
    ("POST", "/v2/images/{image_id}/upload/complete", After(CHANGE, 409)),
    ("POST", "/v2/images/{image_id}/import", After(CHANGE, 202)),
    ("GET", "/v2/images/{image_id}/tasks", After(&[(SeeImage, 404)], 200)),
    ("PUT", "/v2/images/{image_id}/tags/{tag}", After(CHANGE, 204)),
    ("DELETE", "/v2/images/{image_id}/tags/{tag}", After(CHANGE, 204)),
    ("POST", "/v2/images/{image_id}/actions/deactivate", After(CHANGE, 204)),
    ("POST", "/v2/images/{image_id}/actions/reactivate", After(CHANGE, 204)),
    // Members.
    ("GET", "/v2/images/{image_id}/members", After(&[(SeeImage, 404), (SharedImage, 403)], 200)),
    ("POST", "/v2/images/{image_id}/members", After(SHARE, 200)),
    (
        "GET",
        "/v2/images/{image_id}/members/{member_id}",
        After(&[(SeeImage, 404), (SharedImage, 404), (KnowOfMember, 404)], 200),
    ),
    (
        "PUT",
        "/v2/images/{image_id}/members/{member_id}",
        After(
            &[(SeeImage, 404), (SharedImage, 403), (BeWorker, 403), (NotForOthers, 403), (BeThatMember, 404)],
            200,
        ),
    ),
    ("DELETE", "/v2/images/{image_id}/members/{member_id}", After(SHARE, 204)),
];

/// The project that the image and the task belong to.
const OWNER: &str = "demo";
/// Projects that the image is shared with, and what they said to it. They are members while it is `shared`.
const MEMBERS: [(&str, MemberStatus); 3] = [
    ("pending", MemberStatus::Pending),
    ("accepted", MemberStatus::Accepted),
    ("rejected", MemberStatus::Rejected),
];
/// An upload that is under way.
const UPLOAD: StagedBytes = StagedBytes(Uuid::from_u128(5));
/// The member that is shown and accepts.
const THAT_MEMBER: &str = "accepted";

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// Nobody who says who it is.
    NoToken,
    /// A token that isn't taken; with `iam` a principal that isn't mapped.
    BadToken,
    /// A token that has ended. Only Keystone's end.
    EndedToken,
    /// A token of a domain, which Keystone knows.
    OfDomain,
    /// A project with a role.
    Of(&'static str, &'static str),
}

const EVERYBODY: [Who; 13] = [
    Who::NoToken,
    Who::BadToken,
    Who::EndedToken,
    Who::OfDomain,
    Who::Of(OWNER, "member"),
    Who::Of(OWNER, "reader"),
    Who::Of("ops", "admin"),
    Who::Of("stranger", "member"),
    Who::Of("stranger", "reader"),
    Who::Of("pending", "member"),
    Who::Of("accepted", "member"),
    Who::Of("accepted", "reader"),
    Who::Of("rejected", "member"),
];

impl Who {
    fn token(self) -> Option<String> {
        match self {
            Self::NoToken => None,
            Self::BadToken => Some("bad".to_owned()),
            Self::EndedToken => Some("ended".to_owned()),
            Self::OfDomain => Some("domain".to_owned()),
            Self::Of(project, role) => Some(format!("user-{project}-{role}:{project}:{role}")),
        }
    }

    fn user(self) -> String {
        self.token().unwrap_or_default().split(':').next().unwrap_or_default().to_owned()
    }
}

/// How callers are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Development,
    Keystone,
    Iam,
}

impl By {
    fn has(self, who: Who) -> bool {
        self == Self::Keystone || !matches!(who, Who::EndedToken | Who::OfDomain)
    }

    fn service(self, who: Who) -> Service {
        match self {
            Self::Development => Service::new(),
            Self::Keystone => {
                let service = Service::by_keystone();
                let (scope, expires) = match who {
                    Who::NoToken | Who::BadToken => return service,
                    Who::EndedToken => (Scope::Project(caller(OWNER, "member", who)), 0),
                    Who::OfDomain => (Scope::Domain, 3600),
                    Who::Of(project, role) => (Scope::Project(caller(project, role, who)), 3600),
                };
                let expires_at = Timestamp::from_epoch(NOW + expires);
                service.identity.issue(&who.token().unwrap(), KeystoneToken { scope, expires_at });
                service
            }
            Self::Iam => {
                let service = Service::by_mapped_principals();
                if let Who::Of(project, role) = who {
                    let entry = json!([{"principal": arn(who), "project": project, "roles": [role]}]);
                    service.identity.map(IamProjects::from_json(&entry.to_string()).unwrap());
                }
                service
            }
        }
    }

    async fn send(self, service: &Service, who: Who, mut request: Request<Bytes>) -> Answer {
        match (self, who.token()) {
            (_, None) => {}
            (Self::Iam, Some(_)) => {
                request.extensions_mut().insert(principal(&arn(who)));
            }
            (_, Some(token)) => {
                request.headers_mut().insert("x-auth-token", token.parse().unwrap());
            }
        }
        service.request(request).await
    }
}

fn caller(project: &str, role: &str, who: Who) -> Caller {
    Caller { user: who.user(), project: project.to_owned(), roles: vec![role.to_owned()] }
}

fn arn(who: Who) -> String {
    format!("arn:aws:iam::{ACCOUNT}:user/{}", who.user())
}

/// Whether it is so of a caller: the policies in words of the test's own.
fn is_so(asks: Asks, project: &str, role: &str, visibility: Visibility) -> bool {
    let (admin, own) = (role == "admin", project == OWNER);
    let works = admin || role == "member";
    match asks {
        BeAdmin => admin,
        BeWorker => works,
        SeeTask => own || admin,
        SeeImage => {
            own || admin
                || match visibility {
                    Visibility::Public | Visibility::Community => true,
                    Visibility::Shared => MEMBERS.iter().any(|(member, _)| *member == project),
                    Visibility::Private => false,
                }
        }
        ChangeImage => admin || (own && works),
        SharedImage => visibility == Visibility::Shared,
        KnowOfMember => own || admin || project == THAT_MEMBER,
        NotForOthers => admin || !own,
        BeThatMember => admin || project == THAT_MEMBER,
    }
}

fn expected(by: By, who: Who, answers: &Answers, visibility: Visibility) -> u16 {
    let (asks, well) = match answers {
        Openly(status) => return *status,
        After(asks, well) => (asks, well),
    };
    match who {
        // A principal is who it is; it acts for nobody here.
        Who::BadToken if by == By::Iam => 403,
        Who::NoToken | Who::BadToken | Who::EndedToken => 401,
        Who::OfDomain => 403,
        Who::Of(project, role) => {
            let refused = asks.iter().find(|(asks, _)| !is_so(*asks, project, role, visibility));
            refused.map_or(*well, |(_, status)| *status)
        }
    }
}

/// A task and an image of the owner's, the image as the route needs it.
fn put_records(service: &Service, method: &str, path: &str, visibility: Visibility) -> (Image, Task) {
    let at = Timestamp::from_epoch(NOW);
    let members = MEMBERS
        .map(|(project, status)| (project.to_owned(), Member { status, created_at: at, updated_at: at }));
    let mut image = Image { visibility, members: members.into(), ..image(OWNER) };
    let fills =
        matches!((method, path.rsplit('/').next()), ("PUT", Some("file" | "stage")) | (_, Some("import")));
    let uploads = path.contains("/upload");
    if fills || uploads {
        (image.status, image.stored) = (ImageStatus::Queued, None);
    }
    if uploads && (method, path.rsplit('/').next()) != ("POST", Some("upload")) {
        image.status = ImageStatus::Uploading;
        image.upload = Some(MultipartUpload {
            staged: UPLOAD,
            store_id: "x".into(),
            plan: TransferPlan { size: 3, part_size: 3 },
        });
    }
    service.store.put_image(image.clone());
    let task = Task::pending(TaskType::Import, OWNER, json!({}), at);
    service.store.put_task(task.clone());
    (image, task)
}

/// A request that is answered well where the caller may ask it.
fn request(method: &str, path: &str, image: &Image, task: &Task) -> Request<Bytes> {
    let members = path.contains("/members");
    let web = json!({"method": {"name": "web-download", "uri": "s3://sources/a"}});
    let (media, body) = match method {
        "PATCH" => (V21, json!([{"op": "replace", "path": "/name", "value": "new"}]).to_string()),
        "PUT" if members => ("application/json", json!({"status": "accepted"}).to_string()),
        "PUT" => ("application/octet-stream", "abc".to_owned()),
        "POST" if members => ("application/json", json!({"member": "new"}).to_string()),
        "POST" if path.ends_with("/upload") => ("application/json", json!({"size": 3}).to_string()),
        "POST" if path.ends_with("/complete") => {
            let said = json!({"upload_id": UPLOAD, "parts": [{"part_number": 1, "etag": "x"}]});
            ("application/json", said.to_string())
        }
        "POST" if path.ends_with("/import") => ("application/json", web.to_string()),
        "POST" if path == "/v2/tasks" => ("application/json", import().to_string()),
        "POST" if path == "/v2/images" => ("application/json", "{}".to_owned()),
        _ => ("application/json", String::new()),
    };
    let path = path
        .replace("{image_id}", &image.id.to_string())
        .replace("{task_id}", &task.id.to_string())
        .replace("{member_id}", if method == "DELETE" { "rejected" } else { THAT_MEMBER })
        .replace("{tag}", if method == "DELETE" { "lts" } else { "new" })
        .replace("metadefs/{schema}", "metadefs/namespace")
        .replace("{schema}", "task");
    Request::builder().method(method).uri(path).header("content-type", media).body(body.into()).unwrap()
}

#[test]
fn the_policy_has_every_route() {
    let has: BTreeSet<_> =
        POLICY.iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned())).collect();
    let routed: BTreeSet<_> = CONTRACT.operations().into_iter().collect();
    assert_eq!(has.len(), POLICY.len(), "a row is there twice");
    assert_eq!(has, routed, "left: rows of the policy; right: what the service routes");
}

#[tokio::test]
async fn every_route_by_everybody_at_every_visibility() {
    for by in [By::Development, By::Keystone, By::Iam] {
        for who in EVERYBODY.into_iter().filter(|who| by.has(*who)) {
            for visibility in Visibility::ALL {
                for (method, path, answers) in POLICY {
                    let service = by.service(who);
                    let (image, task) = put_records(&service, method, path, *visibility);
                    let answer = by.send(&service, who, request(method, path, &image, &task)).await;
                    assert_eq!(
                        answer.status.as_u16(),
                        expected(by, who, answers, *visibility),
                        "{by:?}: {method} {path} by {who:?} of a {visibility:?} image: {answer:?}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn a_path_that_leads_nowhere_asks_who_calls_first() {
    for by in [By::Development, By::Keystone, By::Iam] {
        for who in EVERYBODY.into_iter().filter(|who| by.has(*who)) {
            let service = by.service(who);
            let request = Request::post("/v2/images/x/nonsense").body(Bytes::new()).unwrap();
            let status = by.send(&service, who, request).await.status.as_u16();
            assert_eq!(status, expected(by, who, &After(&[], 404), Visibility::Private), "{by:?}: {who:?}");
        }
    }
}

/// Lists are answered to every caller; this is what is on them.
#[tokio::test]
async fn what_is_on_whose_list() {
    let asked = [
        ("", Some(MemberStatus::Accepted)),
        ("&visibility=all", Some(MemberStatus::Accepted)),
        ("&visibility=all&member_status=pending", Some(MemberStatus::Pending)),
        ("&member_status=rejected", Some(MemberStatus::Rejected)),
        ("&member_status=all", None),
    ];
    for who in EVERYBODY {
        let Who::Of(project, role) = who else { continue };
        for visibility in Visibility::ALL {
            for hidden in [false, true] {
                let service = By::Development.service(who);
                let (image, task) = put_records(&service, "GET", "/v2/images", *visibility);
                service.store.put_image(Image { os_hidden: hidden, ..image.clone() });
                let holds = async |path: String, list: &str| {
                    let request = Request::get(path).body(Bytes::new()).unwrap();
                    let body = By::Development.send(&service, who, request).await.ok(200).body;
                    let id = if list == "images" { json!(image.id) } else { json!(task.id) };
                    body[list].as_array().unwrap().iter().any(|one| one["id"] == id)
                };
                let (own, admin) = (project == OWNER, role == "admin");
                for (query, said) in asked {
                    for hidden_ones in [false, true] {
                        let shared = MEMBERS.iter().any(|(member, status)| {
                            *member == project && said.is_none_or(|said| said == *status)
                        });
                        let in_reach = own
                            || admin
                            || match visibility {
                                Visibility::Public => true,
                                Visibility::Community => query.contains("visibility=all"),
                                Visibility::Shared => shared,
                                Visibility::Private => false,
                            };
                        // Others' community images are looked for, by admins too.
                        let not_looked_for =
                            *visibility == Visibility::Community && !own && !query.contains("visibility=all");
                        let path = format!("/v2/images?os_hidden={hidden_ones}{query}");
                        assert_eq!(
                            holds(path.clone(), "images").await,
                            in_reach && !not_looked_for && hidden == hidden_ones,
                            "{path} by {who:?}: a {visibility:?} image, hidden {hidden}"
                        );
                    }
                }
                assert_eq!(holds("/v2/tasks".to_owned(), "tasks").await, own || admin, "{who:?}");
            }
        }
    }
}
