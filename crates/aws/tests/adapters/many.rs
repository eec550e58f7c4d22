//! Lists among 100,000 images and 100,000 tasks of 1,000 projects: how many items DynamoDB reads for one page.

#![allow(clippy::print_stdout, reason = "a table that a person reads")]

use aws_sdk_dynamodb::Client;
use image_tasks_domain::images::{Condition, ImageSearch, Listing, Sort, SortKey, TextAttribute};
use image_tasks_domain::ports::{ImageRecords as _, TaskQuery, TaskSort, TaskStore as _};
use image_tasks_domain::{Caller, Image, Task, TaskStatus, Visibility};

use crate::dynamo::{image, put_all, query, stores, task};
use crate::dynamo_images::put_images;
use crate::support::dynamodb;

const PROJECTS: usize = 1000;
const OF_EACH: usize = 100;
/// Partitions that all tasks together are spread over.
const SHARDS: usize = 4;

fn owner(project: usize) -> String {
    format!("project-{project}")
}

/// Every project has one public image, one community image, and 98 of its own.
async fn fill(client: &Client) {
    for n in 0..OF_EACH {
        let seconds = i64::try_from(n).unwrap();
        let tasks: Vec<Task> = (0..PROJECTS).map(|project| task(&owner(project), seconds)).collect();
        put_all(client, tasks.iter()).await;
        let visibility = match n {
            0 => Visibility::Public,
            1 => Visibility::Community,
            _ => Visibility::Private,
        };
        let images = (0..PROJECTS).map(|project| Image {
            name: Some(format!("image-{n}")),
            os_hidden: false,
            visibility,
            ..image(&owner(project), seconds)
        });
        put_images(client, &images.collect::<Vec<_>>()).await;
    }
}

#[tokio::test]
#[ignore = "minutes: cargo local conformance"]
async fn a_page_among_100_000_costs_what_its_project_has() {
    let client = dynamodb().await;
    fill(&client).await;
    let (tasks, images) = stores(&client);
    let mut beyond = Vec::new();
    let mut told = |what: &str, read: usize, most: usize| {
        println!("{what}: {read} items");
        if read > most {
            beyond.push(format!("{what}: {read} items, more than {most}"));
        }
    };

    // Clients ask for 20 (glanceclient), 25 (nothing said) and 1,000 (what is given at most).
    for limit in [20, 25, 1000] {
        for (who, owner, partitions) in [("a project's", Some("project-7"), 1), ("an admin's", None, SHARDS)]
        {
            let page = tasks.list(&TaskQuery { limit, ..query(owner) }).await.unwrap();
            told(&format!("{who} tasks, {limit} of them"), page.items_read, (limit + 1) * partitions);
        }
    }
    let nothing = TaskQuery { status: Some(TaskStatus::Failure), ..query(Some("project-7")) };
    let page = tasks.list(&nothing).await.unwrap();
    assert!(page.tasks.is_empty() && !page.more);
    told("a project's tasks by a status that none has", page.items_read, OF_EACH);
    let page = tasks.list(&TaskQuery { sort: TaskSort::Type, ..query(Some("project-7")) }).await.unwrap();
    told("a project's tasks by type", page.items_read, OF_EACH);
    // An admin's search is given up before it costs more, and goes on from there.
    let page = tasks.list(&TaskQuery { owner: None, ..nothing }).await.unwrap();
    assert!(page.more);
    told("an admin's tasks by a status that none has", page.items_read, 22_000);

    let caller =
        |role: &str| Caller { user: "u".into(), project: "project-7".into(), roles: vec![role.into()] };
    let by = |attribute, value: &str| vec![Condition::Text(attribute, vec![value.to_owned()])];
    let by_name = [SortKey::Name, SortKey::Id].map(|key| Sort { key, descending: false });
    let usual = Listing::default();
    // Its own, and what is public of the others.
    let seen = OF_EACH + PROJECTS;
    for (what, role, listing, most) in [
        ("a project's images, 25 of them", "member", usual.clone(), 2 * 27),
        ("a project's images, 1,000 of them", "member", Listing { limit: 1000, ..usual.clone() }, seen),
        ("a project's images by name", "member", Listing { sort: by_name.to_vec(), ..usual.clone() }, seen),
        (
            "a project's images of a name that none has",
            "member",
            Listing { conditions: by(TextAttribute::Name, "nosuchname"), ..usual.clone() },
            seen,
        ),
        (
            "a project's images of a status that none has",
            "member",
            Listing { conditions: by(TextAttribute::Status, "deactivated"), ..usual.clone() },
            seen,
        ),
        ("an admin's images, 25 of them", "admin", usual.clone(), 5 * 27),
        (
            "an admin's images of a name that none has",
            "admin",
            Listing { conditions: by(TextAttribute::Name, "nosuchname"), ..usual.clone() },
            0,
        ),
        (
            "an admin's images of one project",
            "admin",
            Listing { conditions: by(TextAttribute::Owner, "project-9"), ..usual.clone() },
            OF_EACH,
        ),
    ] {
        let search = ImageSearch { caller: caller(role), listing, after: None };
        let found = images.find(&search).await.unwrap();
        assert!(found.whole, "{what}");
        told(what, found.items_read, most);
    }
    // What can't be found in an index is given up, and the caller is told to name an owner or a name.
    let listing = Listing { conditions: by(TextAttribute::Status, "deactivated"), ..usual };
    let found = images.find(&ImageSearch { caller: caller("admin"), listing, after: None }).await.unwrap();
    assert!(!found.whole);
    told("an admin's images of a status that none has", found.items_read, 23_500);
    assert_eq!(beyond, [""; 0]);
}
