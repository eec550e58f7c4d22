//! What Keystone v3 answers, as its API reference shows it.

use image_tasks_local::{DOMAIN, Grant};
use serde_json::{Value, json};

use super::token::Token;

/// Development tokens never end; clients want to read an end.
const EXPIRES_AT: &str = "2100-01-01T00:00:00.000000Z";
const ISSUED_AT: &str = "2026-01-01T00:00:00.000000Z";

/// The services of every region, and the documents that link to this Keystone.
#[derive(Debug, Clone)]
pub(super) struct Catalog {
    keystone: String,
    /// Names and endpoints.
    images: Vec<(String, String)>,
}

impl Catalog {
    pub(super) fn new(keystone: &str, images: &[(String, String)]) -> Self {
        Self { keystone: keystone.to_owned(), images: images.to_vec() }
    }

    pub(super) fn challenge(&self) -> String {
        format!("Keystone uri=\"{}\"", self.keystone)
    }

    fn v3(&self) -> Value {
        json!({
            "id": "v3.14",
            "status": "stable",
            "updated": "2020-04-07T00:00:00Z",
            "links": [{"rel": "self", "href": format!("{}/v3/", self.keystone)}],
            "media-types": [
                {"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"},
            ],
        })
    }

    /// GET /.
    pub(super) fn versions(&self) -> Value {
        json!({"versions": {"values": [self.v3()]}})
    }

    /// GET /v3.
    pub(super) fn version(&self) -> Value {
        json!({"version": self.v3()})
    }

    /// One service a type, three endpoints of each in every region.
    pub(super) fn services(&self) -> Vec<Value> {
        let endpoints = |service: &str, url: &dyn Fn(&str) -> String| {
            let mut endpoints = Vec::new();
            for (region, address) in &self.images {
                for interface in ["public", "internal", "admin"] {
                    endpoints.push(json!({
                        "id": format!("{service}-{interface}-{region}"),
                        "interface": interface,
                        "region": region,
                        "region_id": region,
                        "url": url(address),
                    }));
                }
            }
            json!({
                "id": service,
                "type": service,
                "name": if service == "image" { "glance" } else { "keystone" },
                "endpoints": endpoints,
            })
        };
        // Without a version: clients find those by discovery.
        vec![
            endpoints("identity", &|_| format!("{}/v3", self.keystone)),
            endpoints("image", &|address| address.to_owned()),
        ]
    }

    /// The body beside a token.
    pub(super) fn token(&self, token: &Token, methods: &[String]) -> Value {
        let roles: Vec<_> = token.roles.iter().map(|role| json!({"id": role, "name": role})).collect();
        json!({"token": {
            "methods": methods,
            "user": {"id": token.user, "name": token.user, "domain": domain(), "password_expires_at": null},
            "project": {"id": token.project, "name": token.project, "domain": domain()},
            "is_domain": false,
            "roles": roles,
            "catalog": self.services(),
            "issued_at": ISSUED_AT,
            "expires_at": EXPIRES_AT,
            "audit_ids": [token.to_string()],
        }})
    }

    /// A list of things under their name.
    pub(super) fn list(&self, kind: &str, things: Vec<Value>) -> Value {
        json!({
            (kind): things,
            "links": {"next": null, "previous": null, "self": format!("{}/v3/{kind}", self.keystone)},
        })
    }

    pub(super) fn project(&self, name: &str) -> Value {
        json!({
            "id": name,
            "name": name,
            "domain_id": DOMAIN.0,
            "parent_id": DOMAIN.0,
            "description": "",
            "enabled": true,
            "is_domain": false,
            "options": {},
            "tags": [],
            "links": {"self": format!("{}/v3/projects/{name}", self.keystone)},
        })
    }

    pub(super) fn user(&self, grant: &Grant) -> Value {
        json!({
            "id": grant.user,
            "name": grant.user,
            "domain_id": DOMAIN.0,
            "default_project_id": grant.project,
            "enabled": true,
            "options": {},
            "password_expires_at": null,
            "links": {"self": format!("{}/v3/users/{}", self.keystone, grant.user)},
        })
    }

    pub(super) fn domain(&self) -> Value {
        json!({
            "id": DOMAIN.0,
            "name": DOMAIN.1,
            "description": "",
            "enabled": true,
            "options": {},
            "tags": [],
            "links": {"self": format!("{}/v3/domains/{}", self.keystone, DOMAIN.0)},
        })
    }
}

fn domain() -> Value {
    json!({"id": DOMAIN.0, "name": DOMAIN.1})
}
