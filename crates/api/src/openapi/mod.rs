//! The OpenAPI document of the API: what each path takes and answers.
//!
//! It is put together from what the service works with: paths and methods are the router's, schemas of records are those at
//! `/v2/schemas`, names of formats, statuses and filters are the domain's. So none of these can differ from it. What is
//! written here by hand, the wire tests hold against every answer that they get.

mod answers;
mod operation;
mod operations;
mod parameters;
mod requests;

use serde_json::{Map, Value, json};

use crate::router::Route;
use crate::versions;

/// The document, for clients that see the service at `endpoint`.
pub(crate) fn document(endpoint: &str) -> Value {
    let paths: Map<_, _> =
        Route::documented().map(|(path, route)| (path.clone(), path_item(&path, route))).collect();
    let mut schemas = answers::schemas();
    schemas.extend(requests::schemas());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Image Tasks",
            "summary": "OpenStack Images v2 with its tasks",
            "description": DESCRIPTION,
            "version": format!("2.{}", versions::MINOR),
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": if endpoint.is_empty() { "/" } else { endpoint }}],
        // Either of them; which one, the operator chose.
        "security": [{"token": []}, {"signature": []}],
        "tags": [
            {"name": "tasks", "description": "What shall happen to images: import, export, clone"},
            {"name": "images", "description": "Records of images, and their bytes"},
            {"name": "members", "description": "Projects that an image is shared with"},
            {"name": "service", "description": "What the service is and has"},
        ],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": answers::refusals(),
            "headers": answers::headers(),
            "securitySchemes": {
                "token": {
                    "type": "apiKey", "in": "header", "name": "X-Auth-Token",
                    "description": "A token of Keystone, scoped to a project",
                },
                "signature": {
                    "type": "apiKey", "in": "header", "name": "Authorization",
                    "description": "A signature of AWS, version 4, for the service execute-api",
                    "x-amazon-apigateway-authtype": "awsSigv4",
                },
            },
        },
    })
}

const DESCRIPTION: &str = "A task imports, exports or clones an image. It is asked for by POST and read until its status \
     is success or failure. Every answer carries x-openstack-request-id. Every error is JSON with a message that says \
     what to do. What a caller may not see is answered as what isn't there. `/v2.0` to `/v2.17` in a path are `/v2`.";

fn path_item(path: &str, route: Route<'_>) -> Value {
    let mut item = Map::new();
    let named = parameters::of_path(path);
    if !named.is_empty() {
        item.insert("parameters".to_owned(), Value::from(named));
    }
    for method in route.allow().split(", ") {
        if let Some(operation) = operations::operation(path, route, method) {
            item.insert(method.to_ascii_lowercase(), operation.document());
        }
    }
    Value::Object(item)
}

/// A reference to a component.
fn reference(kind: &str, name: &str) -> Value {
    json!({"$ref": format!("#/components/{kind}/{name}")})
}

#[cfg(test)]
mod page;
#[cfg(test)]
mod tests;
