//! The rules of a patch, apart from the wire.

use uuid::Uuid;

use super::*;
use crate::image::{ImageId, Visibility};
use crate::time::Timestamp;

fn caller(role: &str) -> Caller {
    Caller { user: "alice".into(), project: "demo".into(), roles: vec![role.into()] }
}

fn queued() -> Image {
    let mut image = Image::queued(ImageId(Uuid::from_u128(1)), "demo", Timestamp::from_epoch(0));
    image.properties.insert("there".into(), "x".into());
    image
}

fn patched(mut image: Image, role: &str, dialect: Dialect, body: Value) -> Answer<Image> {
    Patch::parse(&body, dialect)?.apply(&caller(role), &mut image)?;
    Ok(image)
}

#[test]
fn pointers() {
    for (pointer, name) in [
        ("/name", Some("name")),
        ("/trait:STORAGE_DISK_SSD", Some("trait:STORAGE_DISK_SSD")),
        ("/a~1b", Some("a/b")),
        ("/a~0b", Some("a~b")),
        ("/~01", Some("~1")),
        ("/", None),
        ("", None),
        ("name", None),
        ("/a/b", None),
        ("//a", None),
        ("/a/", None),
        ("/a~", None),
        ("/a~2", None),
    ] {
        assert_eq!(attribute_of(pointer).as_deref(), name, "{pointer}");
    }
}

#[test]
fn every_attribute_is_set_by_its_own_rule() {
    let image = patched(
        queued(),
        "admin",
        Dialect::V21,
        json!([
            {"op": "replace", "path": "/name", "value": "Debian"},
            {"op": "add", "path": "/disk_format", "value": "qcow2"},
            {"op": "replace", "path": "/container_format", "value": "bare"},
            {"op": "replace", "path": "/min_disk", "value": 2},
            {"op": "replace", "path": "/min_ram", "value": 3},
            {"op": "replace", "path": "/os_hidden", "value": true},
            {"op": "replace", "path": "/protected", "value": true},
            {"op": "replace", "path": "/tags", "value": ["b", "a", "b"]},
            {"op": "replace", "path": "/owner", "value": "other"},
            {"op": "replace", "path": "/visibility", "value": "public"},
            {"op": "add", "path": "/new", "value": "1"},
            {"op": "replace", "path": "/new", "value": "2"},
            {"op": "remove", "path": "/there"},
        ]),
    )
    .unwrap();
    let wanted = Image {
        name: Some("Debian".into()),
        disk_format: Some("qcow2".into()),
        container_format: Some("bare".into()),
        min_disk: 2,
        min_ram: 3,
        os_hidden: true,
        protected: true,
        tags: vec!["a".into(), "b".into()],
        owner: "other".into(),
        visibility: Visibility::Public,
        properties: [("new".to_owned(), "2".to_owned())].into(),
        ..queued()
    };
    assert_eq!(image, wanted);
    let unnamed = json!([{"op": "replace", "path": "/name", "value": null}]);
    assert_eq!(patched(image, "member", Dialect::V21, unnamed).unwrap().name, None);
}

#[test]
fn the_old_dialect() {
    let change = |body| patched(queued(), "member", Dialect::V20, body);
    let image =
        change(json!([{"replace": "/name", "value": "x"}, {"add": "/k", "value": "v"}, {"remove": "/k"}]));
    assert_eq!(image.unwrap(), Image { name: Some("x".into()), ..queued() });
    for body in [json!([{"add": "/there", "value": "y"}]), json!([{"add": "/name", "value": "y"}])] {
        assert!(matches!(change(body.clone()), Err(Rejection::Conflict(_))), "{body}");
    }
    for body in [
        json!([{"op": "replace", "path": "/name", "value": "x"}]),
        json!([{"add": "/a", "remove": "/a", "value": "x"}]),
        json!([{"add": 5, "value": "x"}]),
        json!([{}]),
    ] {
        assert!(matches!(change(body.clone()), Err(Rejection::Invalid(_))), "{body}");
    }
}

#[test]
fn what_a_patch_may_not() {
    let change = |body: &Value| patched(queued(), "member", Dialect::V21, body.clone());
    let one = |op: &str, path: &str, value: Value| json!([{"op": op, "path": path, "value": value}]);
    for name in [
        "id",
        "status",
        "size",
        "virtual_size",
        "checksum",
        "os_hash_algo",
        "os_hash_value",
        "created_at",
        "updated_at",
        "self",
        "file",
        "schema",
        "direct_url",
        "locations",
        "location",
        "stores",
        "deleted",
        "deleted_at",
        "os_glance_x",
    ] {
        for op in ["add", "replace", "remove"] {
            let body = one(op, &format!("/{name}"), json!("x"));
            assert!(matches!(change(&body), Err(Rejection::Forbidden(_))), "{body}");
        }
    }
    for name in ATTRIBUTES {
        let body = one("remove", &format!("/{name}"), Value::Null);
        assert!(matches!(change(&body), Err(Rejection::Forbidden(_))), "{body}");
    }
    for (path, value) in [("/owner", "other"), ("/visibility", "public")] {
        let body = one("replace", path, json!(value));
        assert!(matches!(change(&body), Err(Rejection::Forbidden(_))), "{body}");
    }
    for op in ["replace", "remove"] {
        let body = one(op, "/missing", json!("x"));
        assert!(matches!(change(&body), Err(Rejection::Conflict(_))), "{body}");
    }
    for body in [
        json!({}),
        json!([5]),
        json!([{"path": "/a"}]),
        json!([{"op": "add", "value": "x"}]),
        json!([{"op": "add", "path": "/a"}]),
        one("move", "/a", json!("x")),
        one("add", "/a/b", json!("x")),
        one("add", "/a", json!(5)),
        one("add", "/a", Value::Null),
        one("replace", "/min_disk", json!(-1)),
        one("replace", "/min_ram", json!("1")),
        one("replace", "/protected", json!("true")),
        one("replace", "/os_hidden", json!(1)),
        one("replace", "/visibility", json!("everyone")),
        one("replace", "/disk_format", json!("wrong")),
        one("replace", "/name", json!("x".repeat(256))),
        one("replace", "/tags", json!("a")),
        one("replace", "/tags", json!([""])),
        one("add", &format!("/{}", "x".repeat(256)), json!("x")),
    ] {
        assert!(matches!(change(&body), Err(Rejection::Invalid(_))), "{body}");
    }
}

#[test]
fn formats_are_of_bytes_that_are_still_to_come() {
    let body = json!([{"op": "replace", "path": "/disk_format", "value": "raw"}]);
    for (status, allowed) in [
        (ImageStatus::Queued, true),
        (ImageStatus::Uploading, false),
        (ImageStatus::Importing, false),
        (ImageStatus::Active, false),
        (ImageStatus::Deactivated, false),
    ] {
        let image = Image { status, ..queued() };
        assert_eq!(patched(image, "member", Dialect::V21, body.clone()).is_ok(), allowed, "{status:?}");
    }
}
