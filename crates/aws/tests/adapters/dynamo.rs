//! DynamoDB adapters against a DynamoDB on this machine.
use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::{dynamodb, next_uuid};
use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use futures::future::join_all;
use image_tasks_aws::{DynamoImages, DynamoTasks};
use image_tasks_domain::conformance::{self, PutImage, importing, pending, publication};
use image_tasks_domain::ports::{
    Created, Credentials, IdempotencyKey, ImageQuery, ImageStore, OpenTask, StoreError, TaskLife, TaskQuery,
    TaskSort, TaskStore,
};
use image_tasks_domain::{
    Failure, FailureCode, Image, ImageId, ImageStatus, Publication, Secret, Task, TaskId, TaskStatus,
    Timestamp, Visibility,
};
use serde_json::json;

const START: i64 = 1_795_000_000;
const TTL: Duration = Duration::from_secs(48 * 3600);

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_epoch(START + seconds)
}

pub(crate) fn task(owner: &str, created: i64) -> Task {
    Task { id: TaskId(next_uuid()), created_at: at(created), updated_at: at(created), ..pending(owner, 0) }
}

pub(crate) fn image(owner: &str, created: i64) -> Image {
    Image {
        id: ImageId(next_uuid()),
        created_at: at(created),
        updated_at: at(created),
        ..importing(owner, 0)
    }
}

pub(crate) fn query(owner: Option<&str>) -> TaskQuery {
    TaskQuery {
        owner: owner.map(str::to_owned),
        task_type: None,
        status: None,
        id: None,
        sort: TaskSort::CreatedAt,
        descending: true,
        limit: 25,
        after: None,
        now: at(0),
    }
}

pub(crate) fn stores(client: &Client) -> (DynamoTasks, DynamoImages) {
    let tasks = DynamoTasks::new(client.clone(), "tasks", "images").with_credentials("credentials");
    (tasks, DynamoImages::new(client.clone(), "images"))
}

/// Somebody else who writes to the images' table.
struct Others(Client);

#[async_trait]
impl PutImage for Others {
    async fn put_image(&self, image: &Image) {
        let item = image_tasks_aws::dynamo::image_item(image).unwrap();
        self.0.put_item().table_name("images").set_item(Some(item)).send().await.unwrap();
    }
}

#[tokio::test]
async fn the_ports_keep_their_promises() {
    let client = dynamodb().await;
    let (tasks, images) = stores(&client);
    conformance::task_store(&tasks, &tasks).await;
    conformance::progress_store(&tasks, &tasks).await;
    conformance::task_life(&tasks, &tasks, &images, &Others(client.clone())).await;
    conformance::image_store(&tasks, &tasks, &images).await;
    conformance::credentials(&tasks, &tasks, &tasks).await;
    conformance::image_records(&tasks, &tasks, &images).await;
    conformance::image_tasks(&tasks, &tasks, &tasks).await;
}

#[tokio::test]
async fn a_token_lies_in_its_own_table_alone_and_goes_with_the_task() {
    let client = dynamodb().await;
    let (tasks, _) = stores(&client);
    let token = Secret::new("gAAAAABk-not-to-be-seen").unwrap();
    let held = async |table: &str| {
        let items = client.scan().table_name(table).send().await.unwrap().items.unwrap();
        (items.len(), format!("{items:?}").contains(token.expose()))
    };
    let [succeeds, fails, other] = [task("demo", 0), task("demo", 0), task("demo", 0)];
    for task in [&succeeds, &fails] {
        tasks.create(task, None, Some(&token)).await.unwrap();
    }
    tasks.create(&other, None, None).await.unwrap();
    let found =
        client.get_item().table_name("credentials").key("id", AttributeValue::S(fails.id.to_string()));
    let item = found.send().await.unwrap().item.unwrap();
    // The attribute that DynamoDB deletes by: a day after the task was accepted.
    assert_eq!(item["expires_at_epoch"], AttributeValue::N((START + 24 * 3600).to_string()));
    assert_eq!((held("credentials").await, held("tasks").await), ((2, true), (3, false)));
    let record = image("demo", 0);
    tasks.begin(succeeds.id, &record, at(1)).await.unwrap();
    tasks.publish(succeeds.id, &publication(record.id), &json!({}), TTL, at(2)).await.unwrap();
    tasks.fail(fails.id, &Failure::transient("x"), TTL, at(2)).await.unwrap();
    assert_eq!((held("credentials").await, held("tasks").await), ((0, false), (3, false)));
    // Functions without the table have no part in it.
    let without = DynamoTasks::new(client.clone(), "tasks", "images");
    let refused = without.create(&task("demo", 0), None, Some(&token)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Fault(_)) && !format!("{refused:?}").contains(token.expose()));
    assert!(matches!(without.token(fails.id, at(2)).await, Err(StoreError::Fault(_))));
}

#[tokio::test]
async fn the_sweep_index_holds_a_task_until_it_is_settled_and_only_then_it_is_deleted() {
    let client = dynamodb().await;
    let (tasks, _) = stores(&client);
    // Whether the index has it, and by when DynamoDB deletes it, as far as that attribute says.
    let kept = async |id: TaskId| {
        let index = client.query().table_name("tasks").index_name("unsettled");
        let shards = (0..4).map(|shard| {
            let index = index.clone().key_condition_expression("unsettled = :shard");
            index.expression_attribute_values(":shard", AttributeValue::S(format!("{shard}"))).send()
        });
        let found = join_all(shards).await;
        let key = AttributeValue::S(id.to_string());
        let held =
            found.iter().any(|page| page.as_ref().unwrap().items().iter().any(|item| item["id"] == key));
        let item = client.get_item().table_name("tasks").key("id", key).send().await.unwrap().item.unwrap();
        (held, item.get("expires_at_epoch").map(|n| n.as_n().unwrap().parse::<i64>().unwrap()))
    };
    // A task that lives no longer than its cleaning takes, or its hashes: an hour.
    let ttl = Duration::from_secs(3600);
    let [publishes, hashes, exports, fails] = [(); 4].map(|()| task("demo", 0));
    for task in [&publishes, &hashes, &exports, &fails] {
        tasks.create(task, None, None).await.unwrap();
        assert_eq!(kept(task.id).await, (true, None));
        tasks.begin(task.id, &image("demo", 0), at(1)).await.unwrap();
        assert_eq!(kept(task.id).await, (true, None));
    }
    let made = async |id: TaskId| publication(tasks.get(id).await.unwrap().unwrap().image_id.unwrap());
    tasks.publish(publishes.id, &made(publishes.id).await, &json!({}), ttl, at(2)).await.unwrap();
    tasks.succeed_alone(exports.id, &json!({}), ttl, at(2)).await.unwrap();
    let follow = Publication { hashes: None, hashes_follow: true, ..made(hashes.id).await };
    tasks.publish(hashes.id, &follow, &json!({}), ttl, at(2)).await.unwrap();
    tasks.fail(fails.id, &Failure::transient("x"), ttl, at(2)).await.unwrap();
    let end = Some(START + 2 + 3600);
    for task in [&publishes, &exports, &hashes, &fails] {
        assert_eq!(kept(task.id).await, (true, None), "however long ago it expired");
        // Readers go by another attribute.
        assert_eq!(tasks.get(task.id).await.unwrap().unwrap().expires_at, Some(at(2 + 3600)));
        let listed = tasks.list(&TaskQuery { now: at(3602), ..query(Some("demo")) }).await.unwrap();
        assert_eq!(listed.tasks, []);
        if task.id == hashes.id {
            tasks.end_hashing(task.id, at(9)).await.unwrap();
            assert_eq!(kept(task.id).await, (true, None), "to be cleaned");
        }
        tasks.settle(task.id).await.unwrap();
        assert_eq!(kept(task.id).await, (false, end));
    }
}

#[tokio::test]
async fn who_renames_an_image_while_it_is_published_is_not_overwritten() {
    let client = dynamodb().await;
    let (tasks, images) = stores(&client);
    let rename = async |id: ImageId, name: usize| {
        let update = client.update_item().table_name("images").key("id", AttributeValue::S(id.to_string()));
        let update = update
            .update_expression("SET #name = :name, min_disk = :disk")
            .expression_attribute_names("#name", "name")
            .expression_attribute_values(":name", AttributeValue::S(name.to_string()))
            .expression_attribute_values(":disk", AttributeValue::N(name.to_string()));
        // A transaction that holds the item refuses it; the next comes.
        update.send().await.is_ok().then_some(name)
    };
    for _ in 0..5 {
        let (task, record) = (task("demo", 0), image("demo", 0));
        tasks.create(&task, None, None).await.unwrap();
        tasks.begin(task.id, &record, at(1)).await.unwrap();
        let publication = Publication { virtual_size: Some(1), ..publication(record.id) };
        let result = json!({});
        let renames = async {
            let mut last = None;
            for name in 1..4 {
                last = rename(record.id, name).await.or(last);
            }
            last
        };
        let (published, last) =
            tokio::join!(tasks.publish(task.id, &publication, &result, TTL, at(2)), renames);
        published.unwrap();
        let found = images.get(record.id).await.unwrap().unwrap();
        assert_eq!(found.name, last.map(|n| n.to_string()).or(record.name));
        assert_eq!((found.status, found.stored), (ImageStatus::Active, Some(publication.stored)));
        assert_eq!(Some(found.min_disk), last.map(|n| u32::try_from(n).unwrap()).or(Some(record.min_disk)));
    }
}

#[tokio::test]
async fn a_failure_leaves_an_image_that_is_active() {
    let client = dynamodb().await;
    let (tasks, images) = stores(&client);
    let (task, mut kept) = (task("demo", 0), image("demo", 0));
    kept.status = ImageStatus::Active;
    tasks.create(&task, None, None).await.unwrap();
    tasks.begin(task.id, &kept, at(1)).await.unwrap();
    tasks.fail(task.id, &Failure::transient("x"), TTL, at(5)).await.unwrap();
    assert_eq!(tasks.get(task.id).await.unwrap().unwrap().status, TaskStatus::Failure);
    assert_eq!(images.get(kept.id).await.unwrap(), Some(kept));
}

#[tokio::test]
async fn only_one_of_many_ends_wins() {
    let client = dynamodb().await;
    let (tasks, images) = stores(&client);
    for _ in 0..5 {
        let (task, record) = (task("demo", 0), image("demo", 0));
        tasks.create(&task, None, None).await.unwrap();
        tasks.begin(task.id, &record, at(1)).await.unwrap();
        let publication = publication(record.id);
        let failure = Failure::new(FailureCode::TimedOut, "late");
        let result = json!({});
        let (won, lost) = tokio::join!(
            tasks.publish(task.id, &publication, &result, TTL, at(2)),
            tasks.fail(task.id, &failure, TTL, at(2)),
        );
        assert!(won.is_ok() != lost.is_ok(), "{won:?} {lost:?}");
        let ended = tasks.get(task.id).await.unwrap().unwrap();
        assert_eq!(ended.status == TaskStatus::Success, won.is_ok());
        assert_eq!(images.get(record.id).await.unwrap().is_some(), won.is_ok());
    }
}

#[tokio::test]
async fn either_the_cancel_or_the_success_wins() {
    let client = dynamodb().await;
    let (tasks, images) = stores(&client);
    for _ in 0..5 {
        let (task, record) = (task("demo", 0), image("demo", 0));
        tasks.create(&task, None, None).await.unwrap();
        tasks.begin(task.id, &record, at(1)).await.unwrap();
        let (publication, result) = (publication(record.id), json!({}));
        let (published, marked) = tokio::join!(
            tasks.publish(task.id, &publication, &result, TTL, at(2)),
            tasks.mark_cancelled(task.id, "alice"),
        );
        assert!(published.is_ok() != marked.is_ok(), "{published:?} {marked:?}");
        let found = tasks.get(task.id).await.unwrap().unwrap();
        assert_eq!(found.cancelled_by.is_some(), marked.is_ok());
        assert_eq!(found.status == TaskStatus::Success, published.is_ok());
        let image = images.get(record.id).await.unwrap().unwrap();
        assert_eq!(image.status == ImageStatus::Active, published.is_ok());
    }
}

#[tokio::test]
async fn a_key_used_by_many_at_once_makes_one_task() {
    let client = dynamodb().await;
    let (tasks, _) = stores(&client);
    let key = IdempotencyKey { owner: "demo".into(), key: "k".into(), body_sha256: "aa".into() };
    let news: Vec<_> = (0..8).map(|_| task("demo", 0)).collect();
    let made = join_all(news.iter().map(|task| tasks.create(task, Some(&key), None))).await;
    let made: Vec<_> = made.into_iter().map(Result::unwrap).collect();
    let winner = news[made.iter().position(|m| *m == Created::New).unwrap()].id;
    let (new, before): (Vec<_>, Vec<_>) = made.into_iter().partition(|m| *m == Created::New);
    assert_eq!((new.len(), before), (1, vec![Created::Before(winner); 7]));
    // What remembers the key is no task.
    let listed = tasks.list(&query(None)).await.unwrap();
    assert_eq!(listed.tasks.iter().map(|t| t.id).collect::<Vec<_>>(), [winner]);
}

/// All pages of a query, and the most items read for one.
async fn pages(tasks: &DynamoTasks, first: TaskQuery) -> (Vec<Task>, usize) {
    let (mut all, mut most) = (Vec::new(), 0);
    let mut query = first;
    loop {
        let page = tasks.list(&query).await.unwrap();
        most = most.max(page.items_read);
        assert!(page.tasks.len() <= query.limit);
        all.extend(page.tasks.iter().cloned());
        if !page.more {
            return (all, most);
        }
        query.after = Some(page.tasks.last().unwrap().clone());
    }
}

#[tokio::test]
async fn expired_tasks_are_not_listed_however_many_there_are() {
    let client = dynamodb().await;
    let (tasks, _) = stores(&client);
    let mut old: Vec<Task> = (0..400).map(|n| task("demo", n)).collect();
    for task in &mut old {
        task.fail(&Failure::transient("x"), Duration::from_secs(10), task.created_at).unwrap();
    }
    let live = [task("demo", -1), task("demo", 500)];
    put_all(&client, old.iter().chain(&live)).await;
    for sort in [TaskSort::CreatedAt, TaskSort::UpdatedAt, TaskSort::Id] {
        for owner in [Some("demo"), None] {
            let now = TaskQuery { sort, limit: 1, now: at(1000), ..query(owner) };
            let (mut found, _) = pages(&tasks, now).await;
            found.sort_by_key(|t| t.created_at);
            assert_eq!(found.iter().map(|t| t.id).collect::<Vec<_>>(), live.each_ref().map(|t| t.id));
        }
    }
    // The moment of expiry is past it.
    let edge = TaskQuery { now: at(10), limit: 1000, ..query(Some("demo")) };
    assert!(!tasks.list(&edge).await.unwrap().tasks.iter().any(|t| t.id == old[0].id));
    assert!(
        tasks.list(&TaskQuery { now: at(9), ..edge }).await.unwrap().tasks.iter().any(|t| t.id == old[0].id)
    );
}

/// Writes tasks past the adapter, 25 at a time, in the adapter's own form.
pub(crate) async fn put_all<'a>(client: &Client, tasks: impl Iterator<Item = &'a Task>) {
    let all: Vec<_> = tasks.collect();
    for chunk in all.chunks(25) {
        let requests = chunk.iter().map(|task| {
            let put = PutRequest::builder()
                .set_item(Some(image_tasks_aws::dynamo::task_item(task)))
                .build()
                .unwrap();
            WriteRequest::builder().put_request(put).build()
        });
        client.batch_write_item().request_items("tasks", requests.collect()).send().await.unwrap();
    }
}

#[tokio::test]
async fn with_ten_thousand_tasks_each_of_two_tenants_a_page_costs_a_page() {
    let client = dynamodb().await;
    let (tasks, _) = stores(&client);
    let all: Vec<Task> =
        (0..20_000).map(|n| task(if n % 2 == 0 { "demo" } else { "ops" }, i64::from(n / 3))).collect();
    put_all(&client, all.iter()).await;

    // Default orders: what is shown and one more, for each partition.
    for sort in [TaskSort::CreatedAt, TaskSort::UpdatedAt] {
        for (owner, partitions, count) in [(Some("demo"), 1, 10_000), (None, 4, 20_000)] {
            let first = TaskQuery { sort, limit: 100, ..query(owner) };
            let (found, most) = pages(&tasks, first).await;
            assert_eq!(found.iter().map(|t| t.id).collect::<BTreeSet<_>>().len(), count);
            assert_eq!(found.len(), count);
            assert!(most <= 101 * partitions, "{sort:?} {owner:?}: {most} items for a page of 100");
        }
    }
    // Other orders: the tenant's own, and no more.
    for sort in [TaskSort::ExpiresAt, TaskSort::Id, TaskSort::Type, TaskSort::Status] {
        let page = tasks.list(&TaskQuery { sort, ..query(Some("demo")) }).await.unwrap();
        // This DynamoDB counts the item that ends a 1 MB answer in that answer and in the next.
        assert!((10_000..10_020).contains(&page.items_read), "{sort:?}: {}", page.items_read);
        assert!(page.more && page.tasks.len() == 25);
    }
    // Tasks added between pages neither push tasks out of the list nor show them twice.
    let mut seen = Vec::new();
    let mut next = TaskQuery { limit: 500, ..query(Some("demo")) };
    loop {
        let page = tasks.list(&next).await.unwrap();
        seen.extend(page.tasks.iter().map(|t| t.id));
        if !page.more {
            break;
        }
        tasks.create(&task("demo", 1_000_000), None, None).await.unwrap();
        next.after = Some(page.tasks.last().unwrap().clone());
    }
    let own: Vec<_> = all.iter().filter(|t| t.owner == "demo").map(|t| t.id).collect();
    assert_eq!(seen.len(), own.len());
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), own.into_iter().collect());

    // The sweep sees all of them, page by page, also where a page is more than is read at once.
    let mut oldest: Vec<_> = all.iter().filter(|t| t.created_at < at(2000)).collect();
    oldest.sort_by_key(|t| (t.created_at, t.id));
    for limit in [700, 100_000] {
        let mut sweep: Vec<OpenTask> = Vec::new();
        loop {
            let page = tasks.unsettled(at(2000), sweep.last(), limit).await.unwrap();
            let last = page.len() < limit;
            sweep.extend(page);
            if last {
                break;
            }
        }
        assert!(sweep.iter().map(|t| t.id).eq(oldest.iter().map(|t| t.id)), "{limit} a page");
    }
    assert_eq!(tasks.unsettled(at(1), None, 10).await.unwrap().len(), 3);
}

#[tokio::test]
async fn an_admin_sees_images_of_every_visibility() {
    let client = dynamodb().await;
    let (tasks, images) = stores(&client);
    for (n, visibility) in (0..).zip(Visibility::ALL) {
        let record = Image { visibility: *visibility, ..image("demo", n) };
        let task = task("demo", 0);
        tasks.create(&task, None, None).await.unwrap();
        tasks.begin(task.id, &record, at(0)).await.unwrap();
    }
    let page = images.list(&ImageQuery { visible_to: None, limit: 10, after: None }).await.unwrap();
    let seen: Vec<_> = page.images.iter().rev().map(|i| i.visibility).collect();
    assert_eq!(seen, Visibility::ALL);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_a_fault_and_names_the_attribute() {
    let client = dynamodb().await;
    let (tasks, _) = stores(&client);
    let task = task("demo", 0);
    tasks.create(&task, None, None).await.unwrap();
    let broken = AttributeValue::S("exporting".into());
    let mut item = image_tasks_aws::dynamo::task_item(&task);
    item.insert("status".into(), broken);
    client.put_item().table_name("tasks").set_item(Some(item)).send().await.unwrap();
    match tasks.get(task.id).await {
        Err(StoreError::Fault(cause)) => assert!(cause.to_string().contains("'status'"), "{cause}"),
        other => panic!("{other:?}"),
    }
    let nowhere = DynamoTasks::new(client, "no-such-table", "images");
    assert!(matches!(nowhere.get(task.id).await, Err(StoreError::Fault(_))));
}
