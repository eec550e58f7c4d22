//! What is bounded in DynamoDB: what progress costs, what is read for a page, what a page holds.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use image_tasks_domain::ports::{
    ImageQuery, ImageStore, ProgressStore, TaskLife, TaskQuery, TaskSort, TaskStore,
};
use image_tasks_domain::{Image, Report, Step, Task, TaskId, TaskType};
use serde_json::json;

use crate::dynamo::{at, image, put_all, query, stores, task};
use crate::support::dynamodb;

/// Bytes of an item of texts, numbers and booleans.
fn size(item: &HashMap<String, AttributeValue>) -> usize {
    let value = |value: &AttributeValue| match value {
        AttributeValue::S(text) | AttributeValue::N(text) => text.len(),
        _ => 1,
    };
    item.iter().map(|(name, v)| name.len() + value(v)).sum()
}

#[tokio::test]
async fn progress_costs_one_unit_whatever_the_task_is() {
    let client = dynamodb().await;
    let (tasks, _) = stores(&client);
    let large = Task { input: json!({"x": "x".repeat(256 << 10)}), ..task("demo", 0) };
    tasks.create(&large, None, None).await.unwrap();
    tasks.begin(large.id, &image("demo", 0), at(1)).await.unwrap();
    let all = async || {
        let items = client.scan().table_name("tasks").send().await.unwrap().items.unwrap();
        items.into_iter().map(|item| (item["id"].as_s().unwrap().clone(), item)).collect::<HashMap<_, _>>()
    };
    let before = all().await;
    let totals =
        Report::default().with_staging().with_total(Step::Copied, 1 << 50).with_total(Step::Hashed, 1 << 50);
    tasks.tell(large.id, &totals, at(5)).await.unwrap();
    for n in 0..200 {
        let report = Report::default().with_done(Step::Copied, 1 << 40).with_done(Step::Hashed, n);
        tasks.tell(large.id, &report, at(i64::try_from(n).unwrap())).await.unwrap();
    }
    let mut after = all().await;
    let progress = after.remove(&format!("progress#{}", large.id)).unwrap();
    assert!(size(&progress) < 1024, "a write of {} bytes costs more than one unit", size(&progress));
    assert_eq!(progress["expires_at_epoch"], AttributeValue::N(at(199).epoch().to_string()));
    assert_eq!(after, before, "the task's own item is not written");
    // No index has it, which would be paid for at each write.
    for index in ["owner", "shard", "unsettled", "created_sort", "updated_sort"] {
        assert!(!progress.contains_key(index), "{index}");
    }
    assert_eq!(tasks.list(&query(None)).await.unwrap().items_read, 1);
}

#[tokio::test]
async fn a_page_of_large_images_ends_early_and_is_never_empty() {
    let client = dynamodb().await;
    let (_, images) = stores(&client);
    let mut made = Vec::new();
    for n in 0..50 {
        let properties = (0..4).map(|n| (format!("p{n}"), "x".repeat(60_000))).collect();
        let large = Image { properties, ..image("demo", n) };
        let item = image_tasks_aws::dynamo::image_item(&large).unwrap();
        client.put_item().table_name("images").set_item(Some(item)).send().await.unwrap();
        made.insert(0, large.id);
    }
    let mut seen = Vec::new();
    let mut next = ImageQuery { visible_to: Some("demo".into()), limit: 1000, after: None };
    loop {
        let page = images.list(&next).await.unwrap();
        assert!((1..=25).contains(&page.images.len()), "{} images of 240 KB", page.images.len());
        seen.extend(page.images.iter().map(|image| image.id));
        if !page.more {
            break;
        }
        next.after = page.images.last().cloned();
    }
    assert_eq!(seen, made);
}

#[tokio::test]
async fn a_search_reads_a_bounded_number_and_goes_on_from_there() {
    const MANY: i64 = 24_000;
    let client = dynamodb().await;
    let (tasks, _) = stores(&client);
    let all: Vec<Task> = (0..MANY)
        .map(|n| {
            let task_type = if n == 0 { TaskType::Clone } else { TaskType::Import };
            Task { task_type, ..task("demo", n) }
        })
        .collect();
    put_all(&client, all.iter()).await;
    let oldest: TaskId = all[0].id;
    for owner in [Some("demo"), None] {
        for sort in [TaskSort::CreatedAt, TaskSort::UpdatedAt] {
            let clones = TaskQuery { task_type: Some(TaskType::Clone), sort, ..query(owner) };
            let mut query = clones.clone();
            let mut looks = 0;
            let found = loop {
                let page = tasks.list(&query).await.unwrap();
                assert!(page.items_read < 22_000, "{} items read", page.items_read);
                looks += 1;
                if !page.tasks.is_empty() {
                    break page;
                }
                assert!(page.more, "the end, though there is one");
                query.after = tasks.get(page.last_read.expect("a place to go on")).await.unwrap();
            };
            assert_eq!((found.tasks[0].id, found.more, looks), (oldest, false, 2), "{owner:?} {sort:?}");
        }
        // What can't be sorted without reading all of it is not begun to be shown.
        let page = tasks.list(&TaskQuery { sort: TaskSort::Id, ..query(owner) }).await.unwrap();
        assert!(page.tasks.is_empty() && page.more && page.last_read.is_none(), "{owner:?}");
        assert!(page.items_read < 23_500, "{}", page.items_read);
    }
}
