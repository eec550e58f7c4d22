//! Images in a DynamoDB on this machine: changes that meet, and lists of many.
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use image_tasks_aws::{DynamoImages, DynamoTasks};
use image_tasks_domain::conformance::{importing, pending, publication};
use image_tasks_domain::images::{Dialect, ImageQuota, ImageSearch, Images, Listing, Patch, Sort, SortKey};
use image_tasks_domain::memory::{ManualClock, MemoryLinks, MemoryStore};
use image_tasks_domain::ports::{ImageRecords, ImageStore, TaskLife, TaskStore};
use image_tasks_domain::{Caller, Image, ImageId, ImageStatus, MemberStatus, Timestamp, Visibility};
use serde_json::json;

use crate::support::{dynamodb, next_uuid};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_epoch(1_800_000_000 + seconds)
}

fn caller(project: &str) -> Caller {
    Caller { user: "u".into(), project: project.into(), roles: vec!["member".into()] }
}

fn use_cases(client: &Client) -> Images {
    let store = Arc::new(DynamoImages::new(client.clone(), "images"));
    Images {
        store,
        links: Arc::new(MemoryLinks),
        bytes: Arc::new(MemoryStore::default()),
        tasks: Arc::new(DynamoTasks::new(client.clone(), "tasks", "images")),
        clock: Arc::new(ManualClock::at(at(5))),
        quota: ImageQuota::new(1000),
    }
}

#[tokio::test]
async fn what_meets_at_one_image_all_survives() {
    meet(20).await;
}

#[tokio::test]
#[ignore = "minutes: cargo local conformance"]
async fn what_meets_at_one_image_all_survives_a_thousand_times() {
    meet(1000).await;
}

/// Two patches, a share, a tag and the end of a task at one image, each time at another.
async fn meet(rounds: usize) {
    let client = dynamodb().await;
    let (tasks, images) = (DynamoTasks::new(client.clone(), "tasks", "images"), use_cases(&client));
    let demo = caller("demo");
    for round in 0..rounds {
        let other = format!("other-{round}");
        let (task, image) = (pending("demo", 0), importing("demo", 0));
        tasks.create(&task, None, None).await.unwrap();
        tasks.begin(task.id, &image, at(1)).await.unwrap();
        let id = image.id.to_string();
        let patch = |name: &str, value: &str| {
            let body = json!([{"op": "add", "path": format!("/{name}"), "value": value}]);
            Patch::parse(&body, Dialect::V21).unwrap()
        };
        let (one, two) = (patch("name", "one"), patch("two", "2"));
        let (publication, result) = (publication(image.id), json!({}));
        let (one, two, share, tag, end) = tokio::join!(
            images.patch(&demo, &id, &one),
            images.patch(&demo, &id, &two),
            images.share(&demo, &id, &other),
            images.tag(&demo, &id, "new"),
            tasks.publish(task.id, &publication, &result, Duration::from_secs(9), at(4)),
        );
        one.unwrap();
        two.unwrap();
        share.unwrap();
        tag.unwrap();
        end.unwrap();
        let found = images.get(&demo, &id).await.unwrap();
        assert_eq!(
            (found.name.as_deref(), found.status),
            (Some("one"), ImageStatus::Active),
            "round {round}"
        );
        assert_eq!((found.properties["two"].as_str(), found.tags.len()), ("2", 3), "round {round}");
        assert_eq!(found.members.keys().collect::<Vec<_>>(), [&other], "round {round}");
        // The share is where the other project's list finds it.
        images.answer_share(&caller(&other), &id, &other, MemberStatus::Accepted).await.unwrap();
        let listing = Listing { hidden: true, limit: 100, ..Listing::default() };
        let list = images.list(&caller(&other), listing).await.unwrap();
        assert!(list.images.iter().any(|listed| listed.id == image.id), "round {round}");
    }
}

#[tokio::test]
async fn a_removed_image_leaves_its_id_and_no_share() {
    let client = dynamodb().await;
    let images = use_cases(&client);
    let demo = caller("demo");
    let made = images.create(&demo, &json!({"name": "x"})).await.unwrap();
    let id = made.id.to_string();
    for project in ["p", "q"] {
        images.share(&demo, &id, project).await.unwrap();
    }
    images.unshare(&demo, &id, "q").await.unwrap();
    let items = async || client.scan().table_name("images").send().await.unwrap().items.unwrap();
    assert_eq!(items().await.len(), 2, "the record and a share");
    images.delete(&demo, &id).await.unwrap();
    let left = items().await;
    assert_eq!(left, [[("id".to_owned(), AttributeValue::S(id))].into()], "the id alone");
}

#[tokio::test]
async fn a_full_list_is_found_in_every_order_page_by_page() {
    let client = dynamodb().await;
    let store = DynamoImages::new(client.clone(), "images");
    let mut all = Vec::new();
    for n in 0..1500_i64 {
        let (owner, visibility) = match n % 3 {
            0 => ("demo", Visibility::Private),
            1 => ("other", Visibility::Public),
            _ => ("other", Visibility::Private),
        };
        all.push(Image {
            id: ImageId(next_uuid()),
            name: Some(format!("n{}", n * 7919 % 1000)),
            os_hidden: false,
            visibility,
            properties: [("p".to_owned(), "x".repeat(1500))].into(),
            ..importing(owner, n / 5)
        });
    }
    put_images(&client, &all).await;
    let by_name = [SortKey::Name, SortKey::CreatedAt, SortKey::Id].map(|key| Sort { key, descending: false });
    for sort in [Sort::newest_first(), by_name.to_vec()] {
        let listing = Listing { limit: 300, sort, ..Listing::default() };
        let mut search = ImageSearch { caller: caller("demo"), listing, after: None };
        let mut wanted: Vec<&Image> = all.iter().filter(|image| search.holds(image)).collect();
        wanted.sort_by(|a, b| search.order(a, b));
        assert_eq!(wanted.len(), 1000);
        let first = search.clone();
        let mut found: Vec<Image> = Vec::new();
        loop {
            let searched = store.find(&search).await.unwrap();
            assert!(searched.whole);
            let page = searched.page;
            found.extend(page.images);
            if !page.more {
                break;
            }
            search.after = found.last().cloned();
        }
        assert!(found.iter().eq(wanted), "{:?}", first.listing.sort);
    }
    assert_eq!(ImageStore::get(&store, all[0].id).await.unwrap().as_ref(), Some(&all[0]));
}

/// Writes images past the adapter, 25 at a time, in the adapter's own form.
pub(crate) async fn put_images(client: &Client, images: &[Image]) {
    for chunk in images.chunks(25) {
        let requests = chunk.iter().map(|image| {
            let item = image_tasks_aws::dynamo::image_item(image).unwrap();
            let put = PutRequest::builder().set_item(Some(item)).build().unwrap();
            WriteRequest::builder().put_request(put).build()
        });
        client.batch_write_item().request_items("images", requests.collect()).send().await.unwrap();
    }
}
