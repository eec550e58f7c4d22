//! Every route of an image, by everybody, at every visibility, however callers are known: who gets what.

use bytes::Bytes;
use http::{Method, Request};
use image_tasks_domain::{
    Caller, IamProjects, Image, KeystoneToken, Member, MemberStatus, Scope, Timestamp, Visibility,
};
use serde_json::{Value, json};

use crate::change_images::V21;
use crate::images::image;
use crate::service::{ACCOUNT, Answer, NOW, Service, principal};

/// Who asks.
#[derive(Debug, Clone, Copy)]
struct Who {
    token: Option<&'static str>,
    owner: bool,
    admin: bool,
    /// Whether the image is shared with its project.
    shared: bool,
    /// Role `reader`.
    looks_on: bool,
}

const NOBODY: Who = Who { token: None, owner: false, admin: false, shared: false, looks_on: false };

const EVERYBODY: [Who; 10] = [
    NOBODY,
    Who { token: Some(MALFORMED), ..NOBODY },
    Who { token: Some("alice:demo"), owner: true, ..NOBODY },
    Who { token: Some("carol:demo:reader"), owner: true, looks_on: true, ..NOBODY },
    Who { token: Some("root:ops:admin"), admin: true, ..NOBODY },
    Who { token: Some("eve:stranger"), ..NOBODY },
    Who { token: Some("p:pending"), shared: true, ..NOBODY },
    Who { token: Some("a:accepted"), shared: true, ..NOBODY },
    Who { token: Some("a:accepted:reader"), shared: true, looks_on: true, ..NOBODY },
    Who { token: Some("r:rejected"), shared: true, ..NOBODY },
];

/// How callers are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Development,
    Keystone,
    Iam,
}

impl By {
    /// A service that knows whom the development token stands for by it, or by what it stands for here.
    fn service(self, token: Option<&str>) -> Service {
        let mut parts =
            token.filter(|token| *token != MALFORMED).into_iter().flat_map(|token| token.split(':'));
        let Some((user, project)) = parts.next().zip(parts.next()) else {
            return match self {
                Self::Development => Service::new(),
                Self::Keystone => Service::by_keystone(),
                Self::Iam => Service::by_mapped_principals(),
            };
        };
        let role = parts.next().unwrap_or("member");
        match self {
            Self::Development => Service::new(),
            Self::Keystone => {
                let service = Service::by_keystone();
                let roles = vec![role.to_owned()];
                let caller = Caller { user: user.to_owned(), project: project.to_owned(), roles };
                let expires_at = Timestamp::from_epoch(NOW + 3600);
                service
                    .identity
                    .issue(token.unwrap(), KeystoneToken { scope: Scope::Project(caller), expires_at });
                service
            }
            Self::Iam => {
                let service = Service::by_mapped_principals();
                let entry = json!([{"principal": arn(user), "project": project, "roles": [role]}]);
                service.identity.map(IamProjects::from_json(&entry.to_string()).unwrap());
                service
            }
        }
    }

    /// The request, as it comes from whom the development token stands for.
    async fn send(self, service: &Service, token: Option<&str>, mut request: Request<Bytes>) -> Answer {
        match (self, token) {
            (_, None) => {}
            (Self::Iam, Some(token)) => {
                let user = token.split(':').next().unwrap();
                request.extensions_mut().insert(principal(&arn(user)));
            }
            (_, Some(token)) => {
                request.headers_mut().insert("x-auth-token", token.parse().unwrap());
            }
        }
        service.request(request).await
    }
}

fn arn(user: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:user/{user}")
}

/// A token that isn't taken, and the name of a principal that isn't mapped.
const MALFORMED: &str = "malformed";

/// What a route asks of who calls it, beside seeing the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    Nothing,
    /// To do more than look on.
    Member,
    /// And to own it.
    Owner,
    /// And that the image is shared.
    OwnerOfShared,
    /// That the image is shared.
    Shared,
    /// To answer for the project that it is shared with.
    Accepts,
}

const ROUTES: [(Method, &str, Asks, u16); 14] = [
    (Method::GET, "", Asks::Nothing, 200),
    (Method::GET, "/tasks", Asks::Nothing, 200),
    (Method::GET, "/file", Asks::Member, 302),
    (Method::PATCH, "", Asks::Owner, 200),
    (Method::DELETE, "", Asks::Owner, 204),
    (Method::PUT, "/tags/new", Asks::Owner, 204),
    (Method::DELETE, "/tags/lts", Asks::Owner, 204),
    (Method::POST, "/actions/deactivate", Asks::Owner, 204),
    (Method::POST, "/actions/reactivate", Asks::Owner, 204),
    (Method::GET, "/members", Asks::Shared, 200),
    (Method::POST, "/members", Asks::OwnerOfShared, 200),
    (Method::DELETE, "/members/rejected", Asks::OwnerOfShared, 204),
    (Method::PUT, "/members/accepted", Asks::Accepts, 200),
    (Method::POST, "/nonsense", Asks::Nothing, 404),
];

fn expected(by: By, who: Who, asks: Asks, visibility: Visibility, well: u16) -> u16 {
    let open = matches!(visibility, Visibility::Public | Visibility::Community);
    let is_shared = visibility == Visibility::Shared;
    let sees = who.owner || who.admin || open || (is_shared && who.shared);
    let accepts = who.token.is_some_and(|token| token.starts_with("a:accepted"));
    let may = match asks {
        Asks::Nothing => true,
        Asks::Member => !who.looks_on,
        Asks::Owner => who.admin || (who.owner && !who.looks_on),
        Asks::OwnerOfShared => is_shared && (who.admin || (who.owner && !who.looks_on)),
        Asks::Shared => is_shared,
        Asks::Accepts => is_shared && (who.admin || (!who.owner && !who.looks_on)),
    };
    match who.token {
        Some(MALFORMED) if by == By::Iam => 403,
        None | Some(MALFORMED) => 401,
        Some(_) if well == 404 || !sees => 404,
        Some(_) if !may => 403,
        // Others' shares are not there for a member.
        Some(_) if asks == Asks::Accepts && !who.admin && !accepts => 404,
        Some(_) => well,
    }
}

#[tokio::test]
async fn every_route_by_everybody_at_every_visibility() {
    for by in [By::Development, By::Keystone, By::Iam] {
        every_cell(by).await;
    }
}

async fn every_cell(by: By) {
    let mut cells = 0;
    for visibility in Visibility::ALL {
        for who in EVERYBODY {
            for (method, below, asks, well) in &ROUTES {
                let service = by.service(who.token);
                let at = Timestamp::from_epoch(NOW);
                let members = [
                    ("pending", MemberStatus::Pending),
                    ("accepted", MemberStatus::Accepted),
                    ("rejected", MemberStatus::Rejected),
                ]
                .map(|(project, status)| {
                    (project.to_owned(), Member { status, created_at: at, updated_at: at })
                });
                let image = Image { visibility: *visibility, members: members.into(), ..image("demo") };
                service.store.put_image(image.clone());
                let path = format!("/v2/images/{}{below}", image.id);
                let body = match (method, *below) {
                    (&Method::PATCH, _) => json!([{"op": "replace", "path": "/name", "value": "new"}]),
                    (_, "/members") => json!({"member": "new"}),
                    (_, "/members/accepted") => json!({"status": "accepted"}),
                    _ => Value::Null,
                };
                let body = if body.is_null() { String::new() } else { body.to_string() };
                let request =
                    Request::builder().method(method.clone()).uri(&path).header("content-type", V21);
                let answer = by.send(&service, who.token, request.body(body.into()).unwrap()).await;
                let expected = expected(by, who, *asks, *visibility, *well);
                assert_eq!(
                    answer.status.as_u16(),
                    expected,
                    "{by:?}: {method} {below} by {:?} of a {visibility:?} image: {answer:?}",
                    who.token
                );
                cells += 1;
            }
        }
    }
    assert_eq!(cells, 4 * 10 * 14);
}
