//! Lists of [`TaskStore`]: whole in every order, page by page.

use std::time::Duration;

use super::{at, failure, importing, pending};
use crate::ports::{TaskLife, TaskQuery, TaskSort, TaskStore};
use crate::task::{Task, TaskId, TaskStatus, TaskType};

pub(super) async fn lists_in_every_order(store: &dyn TaskStore, life: &dyn TaskLife) {
    let mut tasks = Vec::new();
    for n in 0..24_i64 {
        let owner = if n % 3 == 0 { "list-b" } else { "list-a" };
        // Pairs share their second, so that ties are broken by id.
        let mut task = pending(owner, 1000 + n / 2);
        store.create(&task, None, None).await.expect("create");
        // Ends at odd times, some of them the same, so that orders by updated_at and expires_at differ from creation's.
        let now = at(2000 + (n * 7) % 13);
        match n % 4 {
            0 => {}
            1 => {
                let image = importing(owner, 0);
                life.begin(task.id, &image, now).await.expect("begin");
                task.begin(Some(image.id), now).expect("begin");
            }
            // Some expire before the time of the lists, 4000.
            _ => {
                let ttl = Duration::from_secs(if n % 8 == 2 { 10 } else { 7200 });
                life.fail(task.id, &failure(), ttl, now).await.expect("fail");
                task.fail(&failure(), ttl, now).expect("fail");
            }
        }
        tasks.push(task);
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
    for sort in sorts {
        for descending in [false, true] {
            for (owner, status) in [
                (Some("list-a"), None),
                (Some("list-a"), Some(TaskStatus::Failure)),
                (Some("list-b"), Some(TaskStatus::Pending)),
                (Some("nobody"), None),
            ] {
                for limit in [1, 4, 100] {
                    pages_are_whole(store, &tasks, sort, descending, owner, status, limit).await;
                }
            }
        }
    }
    // Over all owners there may be more than this suite's own: their order and completeness are what counts.
    for sort in sorts {
        for descending in [false, true] {
            let all = walk(store, &query(sort, descending, None, None, 7)).await;
            let mut sorted = all.clone();
            sort_tasks(&mut sorted, sort, descending);
            assert_eq!(ids(&all), ids(&sorted), "everybody's by {sort:?}, descending {descending}");
            for task in tasks.iter().filter(|t| !t.is_expired(at(4000))) {
                assert_eq!(all.iter().filter(|t| t.id == task.id).count(), 1, "everybody's by {sort:?}");
            }
        }
    }
    let one =
        TaskQuery { id: Some(tasks[1].id), ..query(TaskSort::CreatedAt, true, Some("list-a"), None, 5) };
    let page = store.list(&one).await.expect("by id");
    assert_eq!((ids(&page.tasks), page.more), (vec![tasks[1].id], false));
    let foreign = TaskQuery { owner: Some("list-b".to_owned()), ..one };
    assert_eq!(store.list(&foreign).await.expect("by id").tasks, []);
}

async fn pages_are_whole(
    store: &dyn TaskStore,
    tasks: &[Task],
    sort: TaskSort,
    descending: bool,
    owner: Option<&str>,
    status: Option<TaskStatus>,
    limit: usize,
) {
    let mut expected: Vec<Task> = tasks
        .iter()
        .filter(|t| owner.is_none_or(|owner| owner == t.owner))
        .filter(|t| status.is_none_or(|status| status == t.status))
        .filter(|t| !t.is_expired(at(4000)))
        .cloned()
        .collect();
    sort_tasks(&mut expected, sort, descending);
    let found = walk(store, &query(sort, descending, owner, status, limit)).await;
    let what = format!("{owner:?} {status:?} by {sort:?}, descending {descending}, {limit} a page");
    assert_eq!(ids(&found), ids(&expected), "{what}");
    for (found, expected) in found.iter().zip(&expected) {
        let shown =
            |t: &Task| (t.status, t.owner.clone(), t.user_id.clone(), t.request_id.clone(), t.image_id);
        let times = |t: &Task| (t.created_at, t.updated_at, t.expires_at);
        assert_eq!((shown(found), times(found)), (shown(expected), times(expected)), "{what}");
    }
}

fn query(
    sort: TaskSort,
    descending: bool,
    owner: Option<&str>,
    status: Option<TaskStatus>,
    limit: usize,
) -> TaskQuery {
    TaskQuery {
        owner: owner.map(str::to_owned),
        task_type: Some(TaskType::Import),
        status,
        id: None,
        sort,
        descending,
        limit,
        after: None,
        now: at(4000),
    }
}

/// Every page, each begun behind the last task of the one before.
async fn walk(store: &dyn TaskStore, first: &TaskQuery) -> Vec<Task> {
    let mut query = first.clone();
    let mut all = Vec::new();
    loop {
        let page = store.list(&query).await.expect("page");
        assert!(page.tasks.len() <= query.limit, "a page holds at most its limit");
        assert!(!page.more || !page.tasks.is_empty(), "a page that is followed by another isn't empty");
        all.extend(page.tasks);
        if !page.more {
            return all;
        }
        let last = all.last().expect("a page with more has tasks").id;
        query.after = store.get(last).await.expect("marker");
    }
}

fn sort_tasks(tasks: &mut [Task], sort: TaskSort, descending: bool) {
    tasks.sort_by(|a, b| {
        let ascending = sort.compare(a, b);
        if descending { ascending.reverse() } else { ascending }
    });
}

fn ids(tasks: &[Task]) -> Vec<TaskId> {
    tasks.iter().map(|t| t.id).collect()
}
