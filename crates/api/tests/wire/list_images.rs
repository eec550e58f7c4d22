//! `GET /v2/images`: filters, orders, pages.

use image_tasks_domain::{Image, ImageStatus, Member, MemberStatus, Timestamp, Visibility};
use serde_json::json;

use crate::images::image;
use crate::service::{ADMIN, ALICE, BOB, NOW, Service};

/// Names of the images that a query finds, in order.
async fn names(service: &Service, token: &str, query: &str) -> Vec<String> {
    let list = service.get(token, &format!("/v2/images?{query}")).await.ok(200).body;
    list["images"].as_array().unwrap().iter().map(|i| i["name"].as_str().unwrap_or("-").to_owned()).collect()
}

fn named(name: &str, owner: &str, second: i64) -> Image {
    let at = Timestamp::from_epoch(NOW + second);
    Image { name: Some(name.to_owned()), created_at: at, updated_at: at, ..image(owner) }
}

/// Three images of one project that differ in everything that can be asked for.
fn three(service: &Service) -> [Image; 3] {
    let a = Image { protected: true, min_ram: 512, ..named("a", "demo", 0) };
    let b = Image {
        disk_format: Some("raw".into()),
        container_format: Some("ovf".into()),
        size: Some(5),
        checksum: Some("b".repeat(32)),
        os_hash_value: Some("b".repeat(128)),
        min_disk: 3,
        tags: vec!["lts".into(), "two words".into()],
        properties: [("os_distro".to_owned(), "fedora".to_owned())].into(),
        ..named("b", "demo", 1)
    };
    let c = Image {
        name: Some("c, d".into()),
        status: ImageStatus::Queued,
        visibility: Visibility::Private,
        size: None,
        stored: None,
        tags: vec![],
        ..named("c", "demo", 2)
    };
    for image in [&a, &b, &c] {
        service.store.put_image(image.clone());
    }
    [a, b, c]
}

#[tokio::test]
async fn every_filter() {
    let service = Service::new();
    let [a, b, _] = three(&service);
    let hash = b.os_hash_value.clone().unwrap();
    for (query, found) in [
        ("", vec!["c, d", "b", "a"]),
        ("name=a", vec!["a"]),
        ("name=nosuchname", vec![]),
        ("name=", vec![]),
        ("name=eq:a", vec!["a"]),
        ("name=in:a,b", vec!["b", "a"]),
        ("name=in:a,%22c,%20d%22", vec!["c, d", "a"]),
        ("status=queued", vec!["c, d"]),
        ("status=in:queued,active", vec!["c, d", "b", "a"]),
        ("status=bogus", vec![]),
        ("visibility=private", vec!["c, d"]),
        ("visibility=shared", vec!["b", "a"]),
        ("visibility=public", vec![]),
        ("visibility=all", vec!["c, d", "b", "a"]),
        ("owner=demo", vec!["c, d", "b", "a"]),
        ("owner=other", vec![]),
        ("tag=lts", vec!["b", "a"]),
        ("tag=lts&tag=two%20words", vec!["b"]),
        ("tag=nonsense", vec![]),
        ("size_min=5", vec!["b", "a"]),
        ("size_min=6", vec!["a"]),
        ("size_max=5", vec!["b"]),
        ("size_min=5&size_max=5", vec!["b"]),
        ("size=5", vec!["b"]),
        ("size_min=-1", vec!["b", "a"]),
        ("min_disk=3", vec!["b"]),
        ("min_disk_min=4", vec!["c, d", "a"]),
        ("min_ram=512", vec!["a"]),
        ("min_ram_max=511", vec!["c, d", "b"]),
        ("protected=true", vec!["a"]),
        ("protected=false", vec!["c, d", "b"]),
        ("os_hidden=false", vec!["c, d", "b", "a"]),
        ("os_hidden=True", vec![]),
        ("disk_format=raw", vec!["b"]),
        ("disk_format=in:raw,qcow2", vec!["c, d", "b", "a"]),
        ("container_format=ovf", vec!["b"]),
        (&format!("checksum={}", "b".repeat(32)), vec!["b"]),
        (&format!("os_hash_value={hash}"), vec!["b"]),
        ("os_hash_algo=sha512&name=b", vec!["b"]),
        (&format!("id={}", a.id), vec!["a"]),
        (&format!("id=in:{},{}", a.id, b.id), vec!["b", "a"]),
        ("id=nonsense", vec![]),
        ("created_at=2026-11-18T11:06:40Z", vec!["a"]),
        ("created_at=gt:2026-11-18T11:06:40Z", vec!["c, d", "b"]),
        ("created_at=gte:2026-11-18T11:06:41Z", vec!["c, d", "b"]),
        ("created_at=lt:2026-11-18T11:06:41Z", vec!["a"]),
        ("updated_at=lte:2026-11-18T11:06:41Z", vec!["b", "a"]),
        ("updated_at=neq:2026-11-18T11:06:41Z", vec!["c, d", "a"]),
        ("os_distro=fedora", vec!["b"]),
        ("os_distro=debian&tag=lts", vec!["a"]),
        ("nonsense=x", vec![]),
        ("name=nothing&name=a", vec!["a"]),
    ] {
        assert_eq!(names(&service, ALICE, query).await, found, "{query}");
    }
}

#[tokio::test]
async fn every_order() {
    let service = Service::new();
    three(&service);
    for (query, found) in [
        ("sort=name:asc", vec!["a", "b", "c, d"]),
        ("sort=name", vec!["c, d", "b", "a"]),
        ("sort_key=name&sort_dir=asc", vec!["a", "b", "c, d"]),
        ("sort=size:asc", vec!["c, d", "b", "a"]),
        ("sort=size:desc", vec!["a", "b", "c, d"]),
        ("sort=status:asc,name:desc", vec!["b", "a", "c, d"]),
        ("sort_key=disk_format&sort_dir=desc&sort_key=name&sort_dir=asc", vec!["b", "a", "c, d"]),
        ("sort_dir=asc", vec!["a", "b", "c, d"]),
        ("sort=created_at:asc", vec!["a", "b", "c, d"]),
        ("sort=updated_at:desc,id:asc", vec!["c, d", "b", "a"]),
    ] {
        assert_eq!(names(&service, ALICE, query).await, found, "{query}");
        // Page by page the same.
        let mut paged = Vec::new();
        let mut next = Some(format!("/v2/images?limit=1&{query}"));
        while let Some(path) = next {
            let page = service.get(ALICE, &path).await.ok(200).body;
            assert_eq!(page["images"].as_array().unwrap().len(), 1, "{path}");
            paged.push(page["images"][0]["name"].as_str().unwrap().to_owned());
            next = page.get("next").map(|link| link.as_str().unwrap().to_owned());
        }
        assert_eq!(paged, found, "{query}");
    }
}

#[tokio::test]
async fn what_is_not_understood_is_refused_by_name() {
    let service = Service::new();
    three(&service);
    let strangers = image("stranger");
    service.store.put_image(strangers.clone());
    for (query, parameter) in [
        ("visibility=everyone", "visibility"),
        ("visibility=", "visibility"),
        ("member_status=maybe", "member_status"),
        ("os_hidden=1", "os_hidden"),
        ("protected=True", "protected"),
        ("size_min=large", "size_min"),
        ("size_max=", "size_max"),
        ("size=5.5", "size"),
        ("min_ram=x", "min_ram"),
        ("name_min=5", "name_min"),
        ("created_at=yesterday", "created_at"),
        ("created_at=in:2026-11-18T11:06:40Z", "created_at"),
        ("updated_at=gt:", "updated_at"),
        ("name=neq:a", "name"),
        ("name=in:%22a", "name"),
        ("status=gt:active", "status"),
        ("changes-since=2026-11-18T11:06:40Z", "changes-since"),
        ("sort=nonsense", "sort"),
        ("sort=name:up", "sort"),
        ("sort=name&sort_key=size", "sort"),
        ("sort_key=owner", "sort_key"),
        ("sort_dir=up", "sort_dir"),
        ("sort_key=name&sort_dir=asc&sort_dir=desc", "sort_dir"),
        ("limit=-1", "limit"),
        ("limit=x", "limit"),
        ("marker=x", "marker"),
        ("marker=0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b", "marker"),
        (&format!("marker={}", strangers.id), "marker"),
    ] {
        let refused = service.get(ALICE, &format!("/v2/images?{query}")).await;
        assert!(refused.error(400).starts_with(&format!("{parameter}: ")), "{query}: {refused:?}");
    }
}

#[tokio::test]
async fn hidden_images_are_asked_for() {
    let service = Service::new();
    service.store.put_image(Image { os_hidden: true, ..named("hidden", "demo", 0) });
    assert_eq!(names(&service, ALICE, "").await, Vec::<String>::new());
    assert_eq!(names(&service, ALICE, "os_hidden=true").await, ["hidden"]);
}

#[tokio::test]
async fn whose_images_a_list_holds() {
    let service = Service::new();
    let member = |status| Member {
        status,
        created_at: Timestamp::from_epoch(NOW),
        updated_at: Timestamp::from_epoch(NOW),
    };
    for (second, visibility) in (0..).zip(Visibility::ALL) {
        let image = named(visibility.name(), "demo", second);
        service.store.put_image(Image { visibility: *visibility, ..image });
    }
    for (second, status) in (10..).zip(MemberStatus::ALL) {
        let image = named(status.name(), "demo", second);
        service.store.put_image(Image { members: [("other".to_owned(), member(*status))].into(), ..image });
    }
    for (token, query, found) in [
        (ALICE, "", vec!["rejected", "accepted", "pending", "private", "shared", "community", "public"]),
        (BOB, "", vec!["accepted", "public"]),
        (BOB, "member_status=pending", vec!["pending", "public"]),
        (BOB, "visibility=shared", vec!["accepted"]),
        (BOB, "visibility=shared&member_status=rejected", vec!["rejected"]),
        (BOB, "visibility=shared&member_status=all", vec!["rejected", "accepted", "pending"]),
        (BOB, "visibility=community", vec!["community"]),
        (BOB, "visibility=all", vec!["accepted", "community", "public"]),
        (BOB, "visibility=private", vec![]),
        (BOB, "owner=demo", vec!["accepted", "public"]),
        (ADMIN, "", vec!["rejected", "accepted", "pending", "private", "shared", "public"]),
        (ADMIN, "visibility=community", vec!["community"]),
        (ADMIN, "owner=demo&visibility=private", vec!["private"]),
        ("root:demo:admin", "visibility=community", vec!["community"]),
        ("carol:demo:reader", "visibility=private", vec!["private"]),
    ] {
        assert_eq!(names(&service, token, query).await, found, "{token} {query}");
    }
}

#[tokio::test]
async fn a_page_that_would_be_too_large_ends_early_and_links_on() {
    let service = Service::new();
    let large = || "\u{1}".repeat(60_000);
    for second in 0..6 {
        let properties = [("p".to_owned(), large()), ("q".to_owned(), large()), ("r".to_owned(), large())];
        service
            .store
            .put_image(Image { properties: properties.into(), ..named(&second.to_string(), "demo", second) });
    }
    let mut seen = Vec::new();
    let mut next = Some("/v2/images".to_owned());
    let mut pages = 0;
    while let Some(path) = next {
        let page = service.get(ALICE, &path).await.ok(200).body;
        assert!(page.to_string().len() < 6_000_000);
        let images = page["images"].as_array().unwrap();
        assert!(!images.is_empty());
        seen.extend(images.iter().map(|image| image["name"].clone()));
        next = page.get("next").map(|link| link.as_str().unwrap().to_owned());
        pages += 1;
    }
    assert_eq!(seen, ["5", "4", "3", "2", "1", "0"].map(|name| json!(name)));
    assert!(pages > 1, "{pages}");
}
