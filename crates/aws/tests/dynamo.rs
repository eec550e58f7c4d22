//! DynamoDB adapters against a DynamoDB on this machine.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use futures::future::join_all;
use image_tasks_aws::{DynamoImages, DynamoTasks};
use image_tasks_domain::ports::{
    Created, IdempotencyKey, ImageQuery, ImageStore, StoreError, TaskLife, TaskQuery, TaskSort, TaskStore,
};
use image_tasks_domain::{
    Failure, FailureCode, Image, ImageId, ImageStatus, Meter, Progress, Step, Task, TaskId, TaskStatus,
    TaskType, Timestamp, Visibility,
};
use serde_json::json;
use support::{dynamodb, next_uuid};

const START: i64 = 1_795_000_000;
const TTL: Duration = Duration::from_secs(48 * 3600);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_epoch(START + seconds)
}

fn task(owner: &str, created: i64) -> Task {
    Task {
        id: TaskId(next_uuid()),
        task_type: TaskType::Import,
        status: TaskStatus::Pending,
        owner: owner.into(),
        user_id: "alice".into(),
        request_id: "req-1".into(),
        input: json!({"import_from": "https://example.com/a.img", "n": [1, 2.5, null, {"": ""}]}),
        result: None,
        message: String::new(),
        created_at: at(created),
        updated_at: at(created),
        expires_at: None,
        image_id: None,
        progress: Progress::default(),
    }
}

fn image(owner: &str, created: i64) -> Image {
    Image {
        id: ImageId(next_uuid()),
        owner: owner.into(),
        name: Some(String::new()),
        status: ImageStatus::Importing,
        visibility: Visibility::Shared,
        disk_format: None,
        container_format: Some("bare".into()),
        size: Some(u64::MAX),
        virtual_size: None,
        checksum: None,
        os_hash_algo: None,
        os_hash_value: None,
        min_disk: 1,
        min_ram: 0,
        protected: false,
        os_hidden: false,
        tags: vec!["a".into(), "b".into()],
        properties: [("os_type".to_owned(), "linux".to_owned())].into(),
        created_at: at(created),
        updated_at: at(created),
        stored: None,
    }
}

fn query(owner: Option<&str>) -> TaskQuery {
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

fn stores(client: &Client) -> (DynamoTasks, DynamoImages) {
    (DynamoTasks::new(client.clone(), "tasks", "images"), DynamoImages::new(client.clone(), "images"))
}

fn conflict<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Conflict)), "{result:?}");
}

/// Whether the sweep's index still holds the task.
async fn is_unfinished(tasks: &DynamoTasks, id: TaskId) -> bool {
    tasks.unfinished(at(1_000_000), 1000).await.unwrap().contains(&id)
}

#[tokio::test]
async fn a_task_lives_from_pending_to_success() {
    let client = dynamodb().await;
    let (tasks, images) = stores(&client);
    let mut task = task("demo", 0);
    assert_eq!(tasks.create(&task, None).await.unwrap(), Created::New);
    assert_eq!(tasks.get(task.id).await.unwrap().as_ref(), Some(&task));
    assert_eq!(tasks.get(TaskId(next_uuid())).await.unwrap(), None);
    assert!(is_unfinished(&tasks, task.id).await);
    // Nothing to count before it is begun.
    conflict(tasks.advance(task.id, Step::Copied, 1).await);
    conflict(tasks.set_work(task.id, &Progress::default()).await);

    let mut image = image("demo", 1);
    conflict(tasks.succeed(task.id, &image, &json!({}), TTL, at(1)).await);
    tasks.begin(task.id, &image, at(1)).await.unwrap();
    task.begin(Some(image.id), at(1)).unwrap();
    assert_eq!(tasks.get(task.id).await.unwrap().as_ref(), Some(&task));
    assert_eq!(images.get(image.id).await.unwrap().as_ref(), Some(&image));
    conflict(tasks.begin(task.id, &image, at(2)).await);

    let work = Progress { stages: true, copied: Meter { done: 0, total: 100 }, ..Progress::default() };
    tasks.advance(task.id, Step::Copied, 7).await.unwrap();
    tasks.set_work(task.id, &work).await.unwrap();
    join_all((0..20).map(|_| tasks.advance(task.id, Step::Copied, 1)))
        .await
        .into_iter()
        .for_each(Result::unwrap);
    task.progress = Progress { copied: Meter { done: 27, total: 100 }, ..work };
    assert_eq!(tasks.get(task.id).await.unwrap().as_ref(), Some(&task));

    image.status = ImageStatus::Active;
    let result = json!({"image_id": image.id});
    // Another image than the one it began is not its to finish.
    conflict(
        tasks
            .succeed(task.id, &Image { id: ImageId(next_uuid()), ..image.clone() }, &result, TTL, at(9))
            .await,
    );
    tasks.succeed(task.id, &image, &result, TTL, at(9)).await.unwrap();
    task.succeed(result.clone(), TTL, at(9)).unwrap();
    assert_eq!(tasks.get(task.id).await.unwrap().as_ref(), Some(&task));
    assert_eq!(images.get(image.id).await.unwrap().as_ref(), Some(&image));
    assert!(!is_unfinished(&tasks, task.id).await);

    let failure = Failure::new(FailureCode::Aborted, "stopped");
    conflict(tasks.succeed(task.id, &image, &result, TTL, at(10)).await);
    conflict(tasks.fail(task.id, &failure, TTL, at(10)).await);
    conflict(tasks.advance(task.id, Step::Hashed, 1).await);
    assert_eq!(tasks.get(task.id).await.unwrap().as_ref(), Some(&task));
    assert_eq!(images.get(image.id).await.unwrap().unwrap().status, ImageStatus::Active);
}

#[tokio::test]
async fn a_failure_takes_the_unfinished_image_with_it() {
    let client = dynamodb().await;
    let (tasks, images) = stores(&client);
    let failure = Failure::new(FailureCode::SourceNotFound, "http://example.com/a answered 404");

    let mut pending = task("demo", 0);
    tasks.create(&pending, None).await.unwrap();
    tasks.fail(pending.id, &failure, TTL, at(5)).await.unwrap();
    pending.fail(&failure, TTL, at(5)).unwrap();
    assert_eq!(tasks.get(pending.id).await.unwrap(), Some(pending));

    let mut begun = task("demo", 0);
    let record = image("demo", 0);
    tasks.create(&begun, None).await.unwrap();
    tasks.begin(begun.id, &record, at(1)).await.unwrap();
    tasks.fail(begun.id, &failure, TTL, at(5)).await.unwrap();
    begun.begin(Some(record.id), at(1)).unwrap();
    begun.fail(&failure, TTL, at(5)).unwrap();
    assert_eq!(tasks.get(begun.id).await.unwrap().as_ref(), Some(&begun));
    assert_eq!(images.get(record.id).await.unwrap(), None);
    assert!(!is_unfinished(&tasks, begun.id).await);
    conflict(tasks.fail(begun.id, &failure, TTL, at(6)).await);
    conflict(tasks.fail(TaskId(next_uuid()), &failure, TTL, at(6)).await);

    // An image that is active is the user's, whatever becomes of a task that names it.
    let mut other = task("demo", 0);
    let mut kept = image("demo", 0);
    kept.status = ImageStatus::Active;
    tasks.create(&other, None).await.unwrap();
    tasks.begin(other.id, &kept, at(1)).await.unwrap();
    tasks.fail(other.id, &failure, TTL, at(5)).await.unwrap();
    other.begin(Some(kept.id), at(1)).unwrap();
    other.fail(&failure, TTL, at(5)).unwrap();
    assert_eq!(tasks.get(other.id).await.unwrap(), Some(other));
    assert_eq!(images.get(kept.id).await.unwrap(), Some(kept));
}

#[tokio::test]
async fn an_image_that_exists_is_not_begun_again_and_the_task_stays_pending() {
    let client = dynamodb().await;
    let (tasks, _) = stores(&client);
    let (first, second, record) = (task("demo", 0), task("demo", 0), image("demo", 0));
    tasks.create(&first, None).await.unwrap();
    tasks.create(&second, None).await.unwrap();
    tasks.begin(first.id, &record, at(1)).await.unwrap();
    conflict(tasks.begin(second.id, &record, at(1)).await);
    assert_eq!(tasks.get(second.id).await.unwrap().as_ref(), Some(&second));
}

#[tokio::test]
async fn only_one_of_many_ends_wins() {
    let client = dynamodb().await;
    let (tasks, images) = stores(&client);
    for _ in 0..5 {
        let (task, mut record) = (task("demo", 0), image("demo", 0));
        tasks.create(&task, None).await.unwrap();
        tasks.begin(task.id, &record, at(1)).await.unwrap();
        record.status = ImageStatus::Active;
        let failure = Failure::new(FailureCode::TimedOut, "late");
        let result = json!({});
        let (won, lost) = tokio::join!(
            tasks.succeed(task.id, &record, &result, TTL, at(2)),
            tasks.fail(task.id, &failure, TTL, at(2)),
        );
        assert!(won.is_ok() != lost.is_ok(), "{won:?} {lost:?}");
        let ended = tasks.get(task.id).await.unwrap().unwrap();
        assert_eq!(ended.status == TaskStatus::Success, won.is_ok());
        assert_eq!(images.get(record.id).await.unwrap().is_some(), won.is_ok());
    }
}

#[tokio::test]
async fn a_key_makes_one_task_a_day() {
    let client = dynamodb().await;
    let (tasks, _) = stores(&client);
    let key = IdempotencyKey { owner: "demo".into(), key: "k#1".into(), body_sha256: "aa".into() };
    let first = task("demo", 0);
    assert_eq!(tasks.create(&first, Some(&key)).await.unwrap(), Created::New);
    let again = task("demo", 60);
    assert_eq!(tasks.create(&again, Some(&key)).await.unwrap(), Created::Before(first.id));
    assert_eq!(tasks.get(again.id).await.unwrap(), None);
    let other_body = IdempotencyKey { body_sha256: "bb".into(), ..key.clone() };
    assert_eq!(tasks.create(&again, Some(&other_body)).await.unwrap(), Created::OtherBody);
    let other_owner = IdempotencyKey { owner: "ops".into(), ..key.clone() };
    assert_eq!(tasks.create(&task("ops", 60), Some(&other_owner)).await.unwrap(), Created::New);
    // DynamoDB deletes late; a key is forgotten in time.
    assert_eq!(tasks.create(&task("demo", 24 * 3600), Some(&key)).await.unwrap(), Created::New);

    // Keys are no tasks.
    let listed = tasks.list(&query(None)).await.unwrap();
    assert_eq!(listed.tasks.len(), 3);

    // At the same time, too.
    let key = IdempotencyKey { key: "k2".into(), ..key };
    let news: Vec<_> = (0..8).map(|_| task("demo", 0)).collect();
    let made = join_all(news.iter().map(|task| tasks.create(task, Some(&key)))).await;
    let made: Vec<_> = made.into_iter().map(Result::unwrap).collect();
    assert_eq!(made.iter().filter(|m| **m == Created::New).count(), 1, "{made:?}");
    let winner = news[made.iter().position(|m| *m == Created::New).unwrap()].id;
    assert!(made.iter().all(|m| matches!(m, Created::New) || *m == Created::Before(winner)), "{made:?}");
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
async fn every_order_pages_through_everything_once() {
    let client = dynamodb().await;
    let (tasks, _) = stores(&client);
    let mut written = Vec::new();
    for n in 0..60_i64 {
        let mut task = task(if n % 3 == 0 { "ops" } else { "demo" }, n / 4);
        if n % 2 == 0 {
            task.fail(
                &Failure::transient("x"),
                TTL + Duration::from_secs(n.unsigned_abs() % 7),
                at(n / 4 + n % 5),
            )
            .unwrap();
        }
        tasks.create(&task, None).await.unwrap();
        written.push(Task { input: json!(null), message: String::new(), ..task });
    }
    let sorts = [
        TaskSort::CreatedAt,
        TaskSort::UpdatedAt,
        TaskSort::ExpiresAt,
        TaskSort::Id,
        TaskSort::Type,
        TaskSort::Status,
        TaskSort::Owner,
    ];
    for owner in [None, Some("demo"), Some("nobody")] {
        for sort in sorts {
            for descending in [false, true] {
                for status in [None, Some(TaskStatus::Failure)] {
                    let first = TaskQuery { sort, descending, status, limit: 7, ..query(owner) };
                    let (found, _) = pages(&tasks, first).await;
                    let mut expected: Vec<_> = written
                        .iter()
                        .filter(|t| {
                            owner.is_none_or(|o| o == t.owner) && status.is_none_or(|s| s == t.status)
                        })
                        .cloned()
                        .collect();
                    expected.sort_by(|a, b| {
                        let by = match sort {
                            TaskSort::CreatedAt => std::cmp::Ordering::Equal,
                            TaskSort::UpdatedAt => a.updated_at.cmp(&b.updated_at),
                            TaskSort::ExpiresAt => a.expires_at.cmp(&b.expires_at),
                            TaskSort::Id => a.id.cmp(&b.id),
                            TaskSort::Type => a.task_type.name().cmp(b.task_type.name()),
                            TaskSort::Status => a.status.name().cmp(b.status.name()),
                            TaskSort::Owner => a.owner.cmp(&b.owner),
                        };
                        by.then(a.created_at.cmp(&b.created_at)).then(a.id.cmp(&b.id))
                    });
                    if descending {
                        expected.reverse();
                    }
                    assert_eq!(found, expected, "{owner:?} {sort:?} {descending} {status:?}");
                }
            }
        }
    }
    let one = &written[5];
    for (owner, shown) in [(None, true), (Some(one.owner.as_str()), true), (Some("nobody"), false)] {
        let page = tasks.list(&TaskQuery { id: Some(one.id), ..query(owner) }).await.unwrap();
        assert_eq!(page.tasks, if shown { vec![one.clone()] } else { vec![] });
        assert!(!page.more && page.items_read <= 1);
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
async fn put_all<'a>(client: &Client, tasks: impl Iterator<Item = &'a Task>) {
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
        tasks.create(&task("demo", 1_000_000), None).await.unwrap();
        next.after = Some(page.tasks.last().unwrap().clone());
    }
    let own: Vec<_> = all.iter().filter(|t| t.owner == "demo").map(|t| t.id).collect();
    assert_eq!(seen.len(), own.len());
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), own.into_iter().collect());

    // The sweep reads no further than it must, oldest first.
    let sweep = tasks.unfinished(at(10), 10).await.unwrap();
    let mut oldest: Vec<_> = all.iter().filter(|t| t.created_at < at(10)).collect();
    oldest.sort_by_key(|t| (t.created_at, t.id));
    assert_eq!(sweep, oldest.iter().take(10).map(|t| t.id).collect::<Vec<_>>());
    assert_eq!(tasks.unfinished(at(1), 10).await.unwrap().len(), 3);
}

#[tokio::test]
async fn images_are_listed_for_owner_public_and_admin() {
    let client = dynamodb().await;
    let (tasks, images) = stores(&client);
    let mut all = Vec::new();
    for n in 0..24_i64 {
        let mut record = image(if n % 2 == 0 { "demo" } else { "ops" }, n / 3);
        record.visibility = Visibility::ALL[usize::try_from(n / 2).unwrap() % 4];
        let task = task(&record.owner, 0);
        tasks.create(&task, None).await.unwrap();
        tasks.begin(task.id, &record, at(0)).await.unwrap();
        all.push(record);
    }
    all.sort_by(|a, b| (b.created_at, b.id).cmp(&(a.created_at, a.id)));
    for project in [None, Some("demo"), Some("ops"), Some("third")] {
        let mut found = Vec::new();
        let mut query = ImageQuery { visible_to: project.map(str::to_owned), limit: 5, after: None };
        loop {
            let page = images.list(&query).await.unwrap();
            found.extend(page.images.iter().cloned());
            if !page.more {
                break;
            }
            query.after = page.images.last().cloned();
        }
        let sees = |i: &&Image| project.is_none_or(|p| i.owner == p || i.visibility == Visibility::Public);
        assert_eq!(found, all.iter().filter(sees).cloned().collect::<Vec<_>>(), "{project:?}");
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_a_fault_and_names_the_attribute() {
    let client = dynamodb().await;
    let (tasks, _) = stores(&client);
    let task = task("demo", 0);
    tasks.create(&task, None).await.unwrap();
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
