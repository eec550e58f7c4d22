//! Every route of an image, by everybody, at every visibility: who gets what.

use http::Method;
use image_tasks_domain::{Image, Member, MemberStatus, Timestamp, Visibility};
use serde_json::{Value, json};

use crate::change_images::V21;
use crate::images::image;
use crate::service::{NOW, Service};

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
    Who { token: Some("malformed"), ..NOBODY },
    Who { token: Some("alice:demo"), owner: true, ..NOBODY },
    Who { token: Some("carol:demo:reader"), owner: true, looks_on: true, ..NOBODY },
    Who { token: Some("root:ops:admin"), admin: true, ..NOBODY },
    Who { token: Some("eve:stranger"), ..NOBODY },
    Who { token: Some("p:pending"), shared: true, ..NOBODY },
    Who { token: Some("a:accepted"), shared: true, ..NOBODY },
    Who { token: Some("a:accepted:reader"), shared: true, looks_on: true, ..NOBODY },
    Who { token: Some("r:rejected"), shared: true, ..NOBODY },
];

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

fn expected(who: Who, asks: Asks, visibility: Visibility, well: u16) -> u16 {
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
        None | Some("malformed") => 401,
        Some(_) if well == 404 || !sees => 404,
        Some(_) if !may => 403,
        // Others' shares are not there for a member.
        Some(_) if asks == Asks::Accepts && !who.admin && !accepts => 404,
        Some(_) => well,
    }
}

#[tokio::test]
async fn every_route_by_everybody_at_every_visibility() {
    let mut cells = 0;
    for visibility in Visibility::ALL {
        for who in EVERYBODY {
            for (method, below, asks, well) in &ROUTES {
                let service = Service::new();
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
                let mut headers = vec![("content-type", V21)];
                headers.extend(who.token.map(|token| ("x-auth-token", token)));
                let body = match (method, *below) {
                    (&Method::PATCH, _) => json!([{"op": "replace", "path": "/name", "value": "new"}]),
                    (_, "/members") => json!({"member": "new"}),
                    (_, "/members/accepted") => json!({"status": "accepted"}),
                    _ => Value::Null,
                };
                let body = if body.is_null() { String::new() } else { body.to_string() };
                let answer = service.send(method.clone(), &path, &headers, body).await;
                let expected = expected(who, *asks, *visibility, *well);
                assert_eq!(
                    answer.status.as_u16(),
                    expected,
                    "{method} {below} by {:?} of a {visibility:?} image: {answer:?}",
                    who.token
                );
                cells += 1;
            }
        }
    }
    assert_eq!(cells, 4 * 10 * 14);
}
