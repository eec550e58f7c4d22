//! `GET /v2/tasks`: order, filters, pages.

use std::sync::Arc;

use async_trait::async_trait;
use http::Uri;
use image_tasks_domain::memory::MemoryStore;
use image_tasks_domain::ports::{
    Created, IdempotencyKey, OpenTask, StoreResult, TaskPage, TaskQuery, TaskStore,
};
use image_tasks_domain::{Secret, Task, TaskId, TaskType, Timestamp};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::{Value, json};

use crate::service::{ADMIN, ALICE, Answer, BOB, Service};

fn ids(answer: &Answer) -> Vec<String> {
    let tasks = answer.body["tasks"].as_array().unwrap();
    tasks.iter().map(|task| task["id"].as_str().unwrap().to_owned()).collect()
}

/// `n` tasks of alice's, one a second; newest first.
async fn newest_first(service: &Service, n: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..n {
        ids.insert(0, service.import(ALICE).await);
        service.clock.advance(std::time::Duration::from_secs(1));
    }
    ids
}

#[tokio::test]
async fn a_page_in_the_default_order() {
    let service = Service::new();
    let made = newest_first(&service, 27).await;
    let page = service.get(ALICE, "/v2/tasks").await.ok(200);
    assert_eq!(ids(&page), made[..25]);
    assert_eq!(page.body["first"], "/v2/tasks");
    assert_eq!(page.body["schema"], "/v2/schemas/tasks");
    assert_eq!(page.body["next"], format!("/v2/tasks?marker={}", made[24]));
    let mut members: Vec<_> = page.body["tasks"][0].as_object().unwrap().keys().map(String::as_str).collect();
    members.sort_unstable();
    assert_eq!(
        members,
        [
            "created_at",
            "id",
            "owner",
            "request_id",
            "schema",
            "self",
            "status",
            "type",
            "updated_at",
            "user_id"
        ]
    );
    let last = service.get(ALICE, page.body["next"].as_str().unwrap()).await.ok(200);
    assert_eq!(ids(&last), made[25..]);
    assert_eq!(last.body.get("next"), None, "no link to an empty page");
    assert_eq!(last.body["first"], "/v2/tasks");
}

#[tokio::test]
async fn a_full_last_page_links_nowhere() {
    let service = Service::new();
    let made = newest_first(&service, 4).await;
    let page = service.get(ALICE, &format!("/v2/tasks?limit=2&marker={}", made[1])).await.ok(200);
    assert_eq!((ids(&page), page.body.get("next")), (made[2..].to_vec(), None));
    // openstacksdk asks again behind the last page.
    let page = service.get(ALICE, &format!("/v2/tasks?limit=2&marker={}", made[3])).await.ok(200);
    assert_eq!((ids(&page).len(), page.body.get("next")), (0, None));
}

#[tokio::test]
async fn links_keep_what_was_asked() {
    let service = Service::new();
    let made = newest_first(&service, 3).await;
    let page =
        service.get(ALICE, "/v2/tasks?status=pending&limit=1&sort_dir=asc&unknown=a%20b").await.ok(200);
    assert_eq!(page.body["first"], "/v2/tasks?status=pending&limit=1&sort_dir=asc&unknown=a+b");
    let next = page.body["next"].as_str().unwrap();
    assert_eq!(next, format!("/v2/tasks?status=pending&limit=1&sort_dir=asc&unknown=a+b&marker={}", made[2]));
    assert_eq!(ids(&service.get(ALICE, next).await.ok(200)), [made[1].as_str()]);
}

#[tokio::test]
async fn bad_queries_are_refused_by_name() {
    let service = Service::new();
    let foreign = service.import(BOB).await;
    for (query, part) in [
        ("limit=-1", "limit: must be a whole number from 0, not \"-1\""),
        ("limit=ten", "limit: must be a whole number"),
        ("limit=1.5", "limit: must be a whole number"),
        ("limit=", "limit: must be a whole number"),
        (
            "sort_key=name",
            "sort_key: must be one of id, type, status, owner, created_at, updated_at, expires_at",
        ),
        ("sort_key=", "sort_key: must be one of"),
        ("sort_dir=up", "sort_dir: must be one of asc, desc, not \"up\""),
        ("sort_dir=", "sort_dir: must be one of"),
        ("type=bogus", "type: must be one of import"),
        ("status=sleeping", "status: must be one of pending, processing, success, failure, not \"sleeping\""),
        ("marker=x", "marker: \"x\" is not a task in this list"),
        ("marker=", "marker: \"\" is not a task in this list"),
        ("marker=0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b", "marker: "),
        (&format!("marker={foreign}"), "marker: "),
    ] {
        let refused = service.get(ALICE, &format!("/v2/tasks?{query}")).await;
        assert!(refused.error(400).contains(part), "{query}: {}", refused.error(400));
    }
    assert_eq!(service.send(http::Method::GET, "/v2/tasks?limit=x", &[], "").await.status.as_u16(), 401);
}

#[tokio::test]
async fn limits_and_empty_filters() {
    let service = Service::new();
    let made = newest_first(&service, 3).await;
    for (query, count) in [
        ("limit=0", 0),
        ("limit=2", 2),
        ("limit=1000", 3),
        ("limit=1001", 3),
        ("limit=99999999999999999999999999", 3),
        ("type=", 0),
        ("status=", 0),
        ("type=import", 3),
        ("status=success", 0),
        ("owner=demo", 3),
        ("owner=other", 0),
        ("owner=", 0),
        ("id=nonsense", 0),
        (&format!("id={}", made[1]), 1),
        ("nonsense=5", 3),
    ] {
        let page = service.get(ALICE, &format!("/v2/tasks?{query}")).await.ok(200);
        assert_eq!(ids(&page).len(), count, "{query}");
        let rest = query == "limit=2";
        assert_eq!(page.body.get("next").is_some(), rest, "{query}");
    }
}

#[tokio::test]
async fn a_page_never_holds_more_than_a_thousand() {
    let service = Service::new();
    for _ in 0..1001 {
        service.import(ALICE).await;
    }
    let page = service.get(ALICE, "/v2/tasks?limit=5000").await.ok(200);
    assert_eq!(ids(&page).len(), 1000);
    let rest = service.get(ALICE, page.body["next"].as_str().unwrap()).await.ok(200);
    assert_eq!((ids(&rest).len(), rest.body.get("next")), (1, None));
}

#[tokio::test]
async fn each_tenant_sees_its_own_and_an_admin_all() {
    let service = Service::new();
    let alices = service.import(ALICE).await;
    service.clock.advance(std::time::Duration::from_secs(1));
    let bobs = service.import(BOB).await;
    assert_eq!(ids(&service.get(ALICE, "/v2/tasks").await), [alices.as_str()]);
    assert_eq!(ids(&service.get(BOB, "/v2/tasks").await), [bobs.as_str()]);
    assert_eq!(ids(&service.get(ADMIN, "/v2/tasks").await), [bobs.as_str(), alices.as_str()]);
    assert_eq!(ids(&service.get(ADMIN, "/v2/tasks?owner=demo").await), [alices.as_str()]);
    assert_eq!(ids(&service.get(ADMIN, &format!("/v2/tasks?marker={bobs}")).await), [alices.as_str()]);
    assert_eq!(ids(&service.get(ALICE, &format!("/v2/tasks?id={bobs}")).await).len(), 0);
}

#[tokio::test]
async fn every_order() {
    let service = Service::new();
    let made = newest_first(&service, 3).await;
    let id = |n: usize| made[n].parse::<image_tasks_domain::TaskId>().unwrap();
    let failure = image_tasks_domain::Failure::transient("x");
    let life = &service.app.tasks.life;
    let later = |seconds| image_tasks_domain::Timestamp::from_epoch(crate::service::NOW + seconds);
    // The oldest ends first but expires last; the middle one stays pending.
    life.fail(id(2), &failure, std::time::Duration::from_secs(900), later(10)).await.unwrap();
    life.fail(id(0), &failure, std::time::Duration::from_secs(100), later(20)).await.unwrap();
    for (key, ascending) in [
        ("created_at", [2, 1, 0]),
        ("updated_at", [1, 2, 0]),
        ("expires_at", [1, 0, 2]),
        ("status", [2, 0, 1]),
        ("type", [2, 1, 0]),
        ("owner", [2, 1, 0]),
    ] {
        let mut expected: Vec<String> = ascending.iter().map(|n| made[*n].clone()).collect();
        let page = service.get(ALICE, &format!("/v2/tasks?sort_key={key}&sort_dir=asc")).await.ok(200);
        assert_eq!(ids(&page), expected, "{key}");
        expected.reverse();
        let page = service.get(ALICE, &format!("/v2/tasks?sort_key={key}")).await.ok(200);
        assert_eq!(ids(&page), expected, "{key}, descending by default");
    }
    let mut by_id = made.clone();
    by_id.sort();
    assert_eq!(ids(&service.get(ALICE, "/v2/tasks?sort_key=id&sort_dir=asc").await.ok(200)), by_id);
}

#[tokio::test]
async fn every_property_of_a_list_is_in_its_schema() {
    let service = Service::new();
    newest_first(&service, 2).await;
    let schema = service.get(ALICE, "/v2/schemas/tasks").await.ok(200).body;
    let page = service.get(ALICE, "/v2/tasks?limit=1").await.ok(200).body;
    for member in page.as_object().unwrap().keys() {
        assert!(schema["properties"].get(member).is_some(), "{member}");
    }
    let item = &schema["properties"]["tasks"]["items"]["properties"];
    for member in page["tasks"][0].as_object().unwrap().keys() {
        assert!(item.get(member).is_some(), "{member}");
    }
    let types: Vec<_> = TaskType::ALL.iter().map(|t| t.name()).collect();
    assert_eq!(item["type"]["enum"], json!(types), "python-glanceclient refuses to send any other");
}

/// What happens while somebody pages.
#[derive(Debug, Clone)]
enum Event {
    /// The next page is read.
    Page,
    /// That many tasks are added, within one second or over several.
    Add { tasks: usize, same_second: bool },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        Just(Event::Page),
        (1..4_usize, any::<bool>()).prop_map(|(tasks, same_second)| Event::Add { tasks, same_second }),
    ];
    prop::collection::vec(event, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// What was there when the paging began is seen once each, in order, whatever is added meanwhile.
    #[test]
    fn pages_neither_skip_nor_repeat_while_tasks_are_added(
        before in 0..20_usize,
        limit in 1..5_usize,
        events in events(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(page_while_adding(before, limit, events))?;
    }
}

async fn page_while_adding(before: usize, limit: usize, events: Vec<Event>) -> Result<(), TestCaseError> {
    let service = Service::new();
    let mut made = Vec::new();
    for n in 0..before {
        made.push(service.import(ALICE).await);
        if n % 3 == 0 {
            service.clock.advance(std::time::Duration::from_secs(1));
        }
    }
    let mut next = Some(format!("/v2/tasks?limit={limit}"));
    let mut seen: Vec<Value> = Vec::new();
    let mut page = async |seen: &mut Vec<Value>| {
        let Some(path) = next.take() else { return false };
        path.parse::<Uri>().unwrap();
        let answer = service.get(ALICE, &path).await.ok(200);
        seen.extend(answer.body["tasks"].as_array().unwrap().iter().cloned());
        next = answer.body.get("next").map(|link| link.as_str().unwrap().to_owned());
        true
    };
    for event in events {
        match event {
            Event::Page => {
                page(&mut seen).await;
            }
            Event::Add { tasks, same_second } => {
                for _ in 0..tasks {
                    service.import(ALICE).await;
                    if !same_second {
                        service.clock.advance(std::time::Duration::from_secs(1));
                    }
                }
            }
        }
    }
    while page(&mut seen).await {}
    let order = |task: &Value| {
        (task["created_at"].as_str().map(str::to_owned), task["id"].as_str().map(str::to_owned))
    };
    for pair in seen.windows(2) {
        prop_assert!(order(&pair[0]) > order(&pair[1]), "newest first, none twice: {pair:?}");
    }
    for id in &made {
        prop_assert!(seen.iter().any(|task| task["id"] == id.as_str()), "{} was skipped", id);
    }
    Ok(())
}

/// A store of so many tasks that a page can't be found by reading a bounded number of them.
struct GivesUp(Option<TaskId>, Arc<MemoryStore>);

#[async_trait]
impl TaskStore for GivesUp {
    async fn create(&self, _: &Task, _: Option<&IdempotencyKey>, _: Option<&Secret>) -> StoreResult<Created> {
        panic!("nothing is made here")
    }
    async fn get(&self, id: TaskId) -> StoreResult<Option<Task>> {
        TaskStore::get(&*self.1, id).await
    }
    async fn list(&self, _: &TaskQuery) -> StoreResult<TaskPage> {
        Ok(TaskPage { more: true, items_read: 20_000, last_read: self.0, ..TaskPage::default() })
    }
    async fn remembered(&self, _: &IdempotencyKey, _: Timestamp) -> StoreResult<Option<Created>> {
        Ok(None)
    }
    async fn unsettled(&self, _: Timestamp, _: Option<&OpenTask>, _: usize) -> StoreResult<Vec<OpenTask>> {
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn a_page_is_never_empty_with_a_next() {
    let mut service = Service::new();
    let last: TaskId = service.import(ALICE).await.parse().unwrap();
    service.app.tasks.store = Arc::new(GivesUp(Some(last), service.store.clone()));
    for (query, parameter) in
        [("status=failure", "status"), ("type=clone", "type"), ("type=clone&status=failure", "status")]
    {
        let told = service.get(ALICE, &format!("/v2/tasks?{query}")).await;
        let expected = format!(
            "{parameter}: none of the first 20000 tasks matches; look on behind them with marker={last}"
        );
        assert_eq!(told.error(400), expected);
    }
    // All that was read has expired.
    let end = service.get(ALICE, "/v2/tasks").await.ok(200).body;
    assert_eq!((&end["tasks"], end.get("next")), (&json!([]), None));
    service.app.tasks.store = Arc::new(GivesUp(None, service.store.clone()));
    let told = service.get(ALICE, "/v2/tasks?sort_key=expires_at").await;
    assert!(told.error(400).starts_with("sort_key: 20000 tasks and more can't be sorted so"), "{told:?}");
}
