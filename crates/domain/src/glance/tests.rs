//! Honest records, odd ones and hostile ones.

use super::*;
use crate::image::Visibility;

const ID: &str = "0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b";
const HERE: &str = "https://glance.example.org:9292/v2/images/0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b";

fn at() -> GlanceImage {
    GlanceImage::new("https://glance.example.org:9292", ID.parse().unwrap())
}

/// A record as Glance 33 shows it.
fn honest() -> Value {
    json!({
        "os_distro": "debian", "os_glance_failed_import": "", "kernel_id": null,
        "name": "Debian", "disk_format": "qcow2", "container_format": "bare", "visibility": "public",
        "size": 5, "virtual_size": 7, "status": "active", "checksum": "D41D8CD98F00B204E9800998ECF8427E",
        "protected": true, "min_ram": 512, "min_disk": 3, "owner": "b2f4e3a1", "os_hidden": false,
        "os_hash_algo": "sha512", "os_hash_value": "0".repeat(128), "id": ID,
        "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
        "locations": [{"url": "rbd://x", "metadata": {}}], "direct_url": "rbd://x", "stores": "ceph",
        "tags": ["b", "a"], "self": "/v2/images/x", "file": "/v2/images/x/file", "schema": "/v2/schemas/image",
    })
}

fn with(member: &str, value: Value) -> Value {
    let mut record = honest();
    record[member] = value;
    record
}

fn read(record: &Value) -> Result<Image, Failure> {
    at().record(record.to_string().as_bytes(), Timestamp::from_epoch(1))
}

#[test]
fn endpoints_are_beginnings_of_urls() {
    let listed = GlanceEndpoints::parse(" https://A.example/ ,http://b.example:9292/image/x,, ").unwrap();
    assert_eq!(listed.urls().collect::<Vec<_>>(), ["https://a.example", "http://b.example:9292/image/x"]);
    assert_eq!(GlanceEndpoints::parse("").unwrap(), GlanceEndpoints::default());
    let allowed = |url: &str| listed.allow(&Url::parse(url).unwrap());
    for url in ["https://a.example/", "https://A.example:443/v2/x", "http://b.example:9292/image/x/v2"] {
        assert!(allowed(url), "{url}");
    }
    for url in [
        "http://a.example/",
        "https://a.example.evil/",
        "https://a.example:8443/",
        "https://u@a.example/",
        "http://b.example:9292/image/xy/v2",
        "http://b.example:9292/image/x/../y",
        "http://b.example:92/image/x/",
    ] {
        assert!(!allowed(url), "{url}");
    }
    let nested = GlanceEndpoints::parse("https://a.example,https://a.example/image").unwrap();
    let url = Url::parse("https://a.example/image/v2/images/x").unwrap();
    assert_eq!(nested.above(&url), Some("https://a.example/image"));
    for bad in [
        "a.example",
        "ftp://a.example",
        "s3://bucket/key",
        "https://u:p@a.example",
        "https://a.example?x",
        "https://a.example#x",
        "https://0x7f.1",
        "https://",
        "https://a.example/v2",
        "https://a.example/v2/",
    ] {
        let refused = GlanceEndpoints::parse(&format!("https://ok.example,{bad}")).unwrap_err();
        assert!(refused.starts_with(&format!("'{bad}' is no endpoint: ")), "{refused}");
    }
}

#[test]
fn an_endpoint_may_have_its_regions_name() {
    let listed = "RegionTwo=https://a.example:9292, https://b.example/x=y, three.3=https://c.example/";
    let listed = GlanceEndpoints::parse(listed).unwrap();
    assert_eq!(listed.regions().collect::<Vec<_>>(), ["RegionTwo", "three.3"]);
    let urls = ["https://a.example:9292", "https://b.example/x=y", "https://c.example"];
    assert_eq!(listed.urls().collect::<Vec<_>>(), urls);
    assert_eq!(listed.of_region("regiontwo"), Some("https://a.example:9292"));
    assert_eq!(listed.of_region("three.3"), Some("https://c.example"));
    assert_eq!((listed.of_region(""), listed.of_region("https")), (None, None));
    let twice = GlanceEndpoints::parse("one=https://a.example,ONE=https://b.example").unwrap_err();
    assert_eq!(twice, "region 'one' is listed twice");
    for bad in ["=https://a.example", "a b=https://a.example", "one=a.example", "one=two=https://a.example"] {
        GlanceEndpoints::parse(bad).unwrap_err();
    }
}

#[test]
fn a_record_is_what_the_copy_begins_with() {
    let image = read(&honest()).unwrap();
    assert_eq!(
        (image.name.as_deref(), image.visibility, image.size),
        (Some("Debian"), Visibility::Public, Some(5))
    );
    assert_eq!((image.min_disk, image.min_ram, image.protected, image.os_hidden), (3, 512, true, false));
    assert_eq!(
        (image.checksum.as_deref(), image.tags),
        (Some("d41d8cd98f00b204e9800998ecf8427e"), vec!["a".into(), "b".into()])
    );
    assert_eq!(image.properties, [("os_distro".to_owned(), "debian".to_owned())].into());
    assert_eq!((image.os_hash_algo.as_deref(), image.os_hash_value), (Some("sha512"), Some("0".repeat(128))));
    // Nothing of the bytes but what they are held against.
    assert_eq!((image.virtual_size, image.stored, image.owner.as_str()), (None, None, ""));

    let least = json!({"id": ID, "status": "active", "disk_format": "raw", "size": null, "os_hash_algo": "sha256", "os_hash_value": "abc"});
    let image = read(&least).unwrap();
    assert_eq!(
        (image.size, image.checksum, image.os_hash_value, image.os_hash_algo),
        (None, None, None, None)
    );
    // What is no text is no extra property of Glance's.
    let image = read(&with("x", json!({"deep": [1]}))).unwrap();
    assert!(!image.properties.contains_key("x"));
}

#[test]
fn a_record_that_can_not_be_taken_is_refused_with_what_is_wrong() {
    use FailureCode::{ImageNotActive, SourceInvalid, UnsupportedFormat};
    let many: Vec<String> = (0..129).map(|n| n.to_string()).collect();
    for (record, code, part) in [
        (json!([]), SourceInvalid, "not an image's record"),
        (json!({}), SourceInvalid, "another image's record"),
        (with("id", json!("7b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b")), SourceInvalid, "another image's record"),
        (with("status", json!("deactivated")), ImageNotActive, "is \"deactivated\"; only an active image"),
        (with("status", json!("x".repeat(5000))), ImageNotActive, "xxx\"..."),
        (with("status", json!(5)), SourceInvalid, "no status"),
        (with("size", json!(-1)), SourceInvalid, "size"),
        (with("size", json!("5")), SourceInvalid, "size"),
        (with("checksum", json!("xyz")), SourceInvalid, "record.checksum: must be 32 hexadecimal digits"),
        (with("os_hash_value", json!("xyz")), SourceInvalid, "record.os_hash_value: must be 128"),
        (with("os_hash_algo", json!(5)), SourceInvalid, "record.os_hash_algo: must be a string"),
        (
            with("disk_format", json!("ploop")),
            UnsupportedFormat,
            "record.disk_format: must be one of raw, qcow2",
        ),
        (with("container_format", json!("zip")), SourceInvalid, "record.container_format"),
        (with("name", json!("x".repeat(256))), SourceInvalid, "record.name: has 256 characters"),
        (with("name", json!({})), SourceInvalid, "record.name: must be a string"),
        (with("min_disk", json!(-1)), SourceInvalid, "record.min_disk"),
        (with("min_ram", json!(1e300)), SourceInvalid, "record.min_ram"),
        (with("protected", json!("yes")), SourceInvalid, "record.protected"),
        (with("os_hidden", json!(1)), SourceInvalid, "record.os_hidden"),
        (with("visibility", json!("all")), SourceInvalid, "record.visibility"),
        (with("tags", json!("a")), SourceInvalid, "record.tags"),
        (with("tags", json!(many)), SourceInvalid, "record.tags: 129 tags"),
        (with("x", json!("y".repeat(65_536))), SourceInvalid, "record.x: has 65536 characters"),
        (with(&"k".repeat(256), json!("v")), SourceInvalid, "a property's name has 1 to 255"),
    ] {
        let refused = read(&record).unwrap_err();
        assert_eq!(refused.code, code, "{refused}");
        assert!(refused.message.starts_with(HERE) && refused.message.contains(part), "{refused}");
        assert!(refused.message.len() < 400, "{}", refused.message.len());
    }
    for body in ["", "{", "null", "\u{0}", &format!("{}{}", "[".repeat(200), "]".repeat(200))] {
        let refused = at().record(body.as_bytes(), Timestamp::from_epoch(1)).unwrap_err();
        assert_eq!(refused.code, SourceInvalid, "{body:?}");
    }
}

#[test]
fn its_bytes_are_imported_as_they_are() {
    let import = |disk: &str, container: Value| {
        let record = with("disk_format", json!(disk));
        let record = Value::Object(
            record
                .as_object()
                .unwrap()
                .clone()
                .into_iter()
                .chain([("container_format".into(), container)])
                .collect(),
        );
        at().import(&read(&record).unwrap())
    };
    let input = import("qcow2", json!("bare")).unwrap();
    assert_eq!(input.source.to_string(), format!("{HERE}/file"));
    assert_eq!((input.declared_format, input.image.disk_format), (Some("qcow2"), Some("qcow2")));
    assert_eq!(
        (input.checksum.as_deref(), input.sha512),
        (Some("d41d8cd98f00b204e9800998ecf8427e"), Some("0".repeat(128)))
    );
    for (disk, container, declared, told) in [
        ("vmdk", json!("ova"), "ova", "ova"),
        ("ami", json!("ami"), "ami", "ami"),
        ("raw", Value::Null, "raw", "bare"),
        ("vmdk", json!("ovf"), "vmdk", "ovf"),
    ] {
        let input = import(disk, container).unwrap();
        assert_eq!((input.declared_format, input.image.container_format), (Some(declared), Some(told)));
        assert_eq!(input.image.disk_format, Some(disk));
    }
    for (disk, container) in [("qcow2", "compressed"), ("raw", "docker"), ("raw", "ova")] {
        let refused = import(disk, json!(container)).unwrap_err();
        assert_eq!(refused.code, FailureCode::UnsupportedFormat, "{refused}");
    }
    let refused = at().import(&Image { disk_format: None, ..read(&honest()).unwrap() }).unwrap_err();
    assert_eq!(refused.code, FailureCode::UnsupportedFormat, "{refused}");
}
