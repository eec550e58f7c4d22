//! [`ImageRecords`] and [`ImageTasks`]: records change by what differs, ids are used once, lists hold what they should.

use serde_json::json;
use uuid::Uuid;

use super::{HOUR, active, assert_conflict, at, failure, importing, pending, stored};
use crate::caller::Caller;
use crate::image::{Image, ImageId, ImageStatus, Visibility};
use crate::images::{
    Comparison, Condition, ImageSearch, Listing, NumberAttribute, Sort, SortKey, TextAttribute,
    TimeAttribute, Usage,
};
use crate::member::{Member, MemberStatus};
use crate::policy::Shown;
use crate::ports::{ImageRecords, ImageTasks, TaskLife, TaskStore};
use crate::task::{Task, TaskType};

/// [`ImageRecords`].
pub async fn image_records(tasks: &dyn TaskStore, life: &dyn TaskLife, images: &dyn ImageRecords) {
    changes_what_differs(images).await;
    an_id_is_used_once(tasks, life, images).await;
    counts_what_a_project_has(images).await;
    finds_what_a_list_holds(images).await;
}

/// [`ImageTasks`]; tasks come to their images by [`TaskLife`].
pub async fn image_tasks(tasks: &dyn TaskStore, life: &dyn TaskLife, of: &dyn ImageTasks) {
    let image = importing("of-image", 0);
    assert_eq!(of.tasks_of(image.id, 10).await.expect("none"), []);
    let mut made = Vec::new();
    // One that is to fill the image's record is its task before it is bound to it, and where it never was.
    let input = json!({"image_id": image.id, "import_req": {}});
    for (n, fails) in [(5, true), (6, false)] {
        let fills =
            Task { task_type: TaskType::ApiImageImport, input: input.clone(), ..pending("of-image", n) };
        tasks.create(&fills, None, None).await.expect("create");
        if fails {
            life.fail(fills.id, &failure(), HOUR, at(9)).await.expect("fail");
        }
        let stored = stored(tasks, fills.id).await;
        assert_eq!((stored.image_id, stored.of_image()), (None, Some(image.id)));
        assert_eq!(
            of.tasks_of(image.id, 1).await.expect("tasks"),
            std::slice::from_ref(&stored),
            "fails: {fails}"
        );
        made.push(stored);
    }
    for n in 0..4 {
        let task = pending("of-image", n);
        tasks.create(&task, None, None).await.expect("create");
        match n {
            0 => life.begin(task.id, &image, at(9)).await.expect("begin"),
            // Works on another, or has not begun.
            1 => life.begin_on(task.id, importing("of-image", 0).id, at(9)).await.expect("begin"),
            2 => continue,
            _ => life.begin_on(task.id, image.id, at(9)).await.expect("begin"),
        }
        if n != 1 {
            made.push(stored(tasks, task.id).await);
        }
    }
    made.sort_by_key(|task| std::cmp::Reverse(task.created_at));
    assert_eq!(of.tasks_of(image.id, 10).await.expect("tasks"), made, "newest first");
    assert_eq!(of.tasks_of(image.id, 1).await.expect("tasks"), made[..1]);
}

/// A record without bytes, of that project.
fn queued(owner: &str, seconds: i64) -> Image {
    Image { status: ImageStatus::Queued, os_hidden: false, ..importing(owner, seconds) }
}

fn member(status: MemberStatus) -> Member {
    Member { status, created_at: at(1), updated_at: at(2) }
}

async fn changes_what_differs(images: &dyn ImageRecords) {
    let was = queued("records", 0);
    images.add(&was).await.expect("add");
    assert_eq!(images.get(was.id).await.expect("get"), Some(was.clone()));
    // Two who read the same change different things: both stay.
    let renamed = Image { name: Some("other".into()), ..was.clone() };
    let tagged = Image { tags: vec!["z".into()], min_ram: 7, ..was.clone() };
    let shared = Image { members: [("p".to_owned(), member(MemberStatus::Pending))].into(), ..was.clone() };
    for is in [&renamed, &tagged, &shared] {
        images.replace(&was, is).await.expect("another attribute");
    }
    let both = Image {
        name: renamed.name.clone(),
        tags: tagged.tags.clone(),
        min_ram: 7,
        members: shared.members,
        ..was.clone()
    };
    assert_eq!(images.get(was.id).await.expect("get"), Some(both.clone()));
    // What was changed meanwhile isn't overwritten.
    let again = Image { name: None, min_disk: 99, ..was.clone() };
    assert_conflict(images.replace(&was, &again).await, "the name changed");
    assert_eq!(images.get(was.id).await.expect("get"), Some(both.clone()), "nothing is written");
    // Nor anything where it is judged otherwise by now.
    for now in [
        Image { status: ImageStatus::Importing, ..both.clone() },
        Image { owner: "records-other".into(), ..both.clone() },
        Image { visibility: Visibility::Private, ..both.clone() },
        Image { protected: true, ..both.clone() },
    ] {
        images.replace(&both, &now).await.expect("replace");
        let late = Image { min_disk: 42, ..both.clone() };
        assert_conflict(images.replace(&both, &late).await, "judged by what was");
        assert_conflict(images.remove(&both).await, "judged by what was");
        images.replace(&now, &both).await.expect("back");
    }
    // Attributes come and go, the bytes too.
    let full = active(both.clone(), 9);
    images.replace(&both, &full).await.expect("everything");
    assert_eq!(images.get(was.id).await.expect("get"), Some(full.clone()));
    let bare = Image { name: None, members: Default::default(), stored: None, ..full.clone() };
    images.replace(&full, &bare).await.expect("less");
    assert_eq!(images.get(was.id).await.expect("get"), Some(bare.clone()));
    let unknown = Image { id: ImageId(Uuid::new_v4()), ..bare.clone() };
    assert_conflict(images.replace(&unknown, &Image { min_ram: 1, ..unknown.clone() }).await, "no record");
    assert_eq!(images.get(unknown.id).await.expect("get"), None);
}

async fn an_id_is_used_once(tasks: &dyn TaskStore, life: &dyn TaskLife, images: &dyn ImageRecords) {
    let image = queued("records", 0);
    assert!(!images.is_taken(image.id).await.expect("is taken"));
    images.add(&image).await.expect("create");
    assert!(images.is_taken(image.id).await.expect("is taken"));
    assert_conflict(images.add(&image).await, "there already");
    images.remove(&image).await.expect("remove");
    assert_eq!(images.get(image.id).await.expect("get"), None);
    assert!(images.is_taken(image.id).await.expect("is taken"), "it was an image's");
    assert_conflict(images.add(&image).await, "was an image's");
    assert_conflict(images.remove(&image).await, "removed already");
    assert_conflict(images.replace(&image, &Image { min_ram: 1, ..image.clone() }).await, "removed");
    let task = pending("records", 0);
    tasks.create(&task, None, None).await.expect("create");
    let importing = Image { id: image.id, ..importing("records", 0) };
    assert_conflict(life.begin(task.id, &importing, at(1)).await, "was an image's");
    assert_eq!(images.get(image.id).await.expect("get"), None);
}

async fn counts_what_a_project_has(images: &dyn ImageRecords) {
    let counted = async |most: usize| images.count("count", most).await.expect("count");
    assert_eq!((counted(10).await, images.usage("count").await.expect("usage")), (0, Usage::default()));
    let mut made = Vec::new();
    for n in 0..3_i64 {
        let status = if n == 0 { ImageStatus::Importing } else { ImageStatus::Queued };
        let image = Image { status, size: Some(5 + n.unsigned_abs()), ..queued("count", n) };
        images.add(&image).await.expect("add");
        made.push(image);
    }
    images.add(&queued("count-other", 0)).await.expect("add");
    assert_eq!((counted(10).await, counted(3).await, counted(2).await), (3, 3, 2));
    let usage = Usage { images: 3, importing: 1, bytes: 18 };
    assert_eq!(images.usage("count").await.expect("usage"), usage);
    images.remove(&made[2]).await.expect("remove");
    assert_eq!(counted(10).await, 2, "what is gone doesn't count");
}

/// Every project sees of these what it should, in every order, page by page.
async fn finds_what_a_list_holds(images: &dyn ImageRecords) {
    let mut all = Vec::new();
    for n in 0..24_i64 {
        let visibility = Visibility::ALL[usize::try_from(n).unwrap_or(0) % 4];
        let mut image = queued(if n % 3 == 0 { "find-a" } else { "find-b" }, 9000 + n / 2);
        image.visibility = visibility;
        image.name = (n % 5 != 0).then(|| format!("n{}", n % 7));
        image.os_hidden = n % 11 == 10;
        image.protected = n % 2 == 0;
        image.size = (n % 4 != 1).then(|| 1000 + n.unsigned_abs() % 6);
        image.min_ram = u32::try_from(n % 3).unwrap_or(0);
        image.tags = if n % 2 == 0 { vec!["even".into(), "x".into()] } else { vec!["x".into()] };
        image.properties = [("os".to_owned(), format!("{}", n % 3))].into();
        images.add(&image).await.expect("create");
        let status = MemberStatus::ALL[usize::try_from(n / 4).unwrap_or(0) % 3];
        let shared = Image { members: [("find-c".to_owned(), member(status))].into(), ..image.clone() };
        images.replace(&image, &shared).await.expect("share");
        all.push(shared);
    }
    // One that was shared and isn't any more, and one that is gone.
    let was = all.pop().expect("an image");
    let unshared = Image { members: Default::default(), visibility: Visibility::Shared, ..was.clone() };
    images.replace(&was, &unshared).await.expect("unshare");
    all.push(unshared);
    let gone = all.remove(1);
    images.remove(&gone).await.expect("remove");

    for (project, role) in [
        ("find-a", "member"),
        ("find-b", "reader"),
        ("find-c", "member"),
        ("nobody", "member"),
        ("ops", "admin"),
    ] {
        let caller = Caller { user: "u".into(), project: project.into(), roles: vec![role.into()] };
        for listing in listings() {
            for limit in [3, 1000] {
                let listing = Listing { limit, ..listing.clone() };
                let search = ImageSearch { caller: caller.clone(), listing, after: None };
                let mut wanted: Vec<&Image> = all.iter().filter(|image| search.holds(image)).collect();
                wanted.sort_by(|a, b| search.order(a, b));
                let found = walk(images, &search).await;
                // An admin's view has what other suites made.
                let found: Vec<&Image> = found.iter().filter(|i| i.owner.starts_with("find-")).collect();
                assert_eq!(found, wanted, "{project} {:?}", search.listing);
            }
        }
    }
}

fn listings() -> Vec<Listing> {
    let of = |conditions: Vec<Condition>| Listing { conditions, ..Listing::default() };
    let text = |attribute, values: &[&str]| {
        Condition::Text(attribute, values.iter().map(|value| (*value).to_owned()).collect())
    };
    let mut listings = vec![
        Listing::default(),
        Listing { hidden: true, ..Listing::default() },
        of(vec![text(TextAttribute::Name, &["n2"])]),
        of(vec![text(TextAttribute::Name, &["n2", "n3"])]),
        of(vec![text(TextAttribute::Name, &["nosuchname"])]),
        of(vec![text(TextAttribute::Owner, &["find-a"])]),
        of(vec![text(TextAttribute::Owner, &["find-b"]), text(TextAttribute::Status, &["queued"])]),
        of(vec![text(TextAttribute::Id, &["nonsense"])]),
        of(vec![Condition::Number(NumberAttribute::Size, Comparison::Gte, 1003)]),
        of(vec![Condition::Number(NumberAttribute::MinRam, Comparison::Eq, 1)]),
        of(vec![Condition::Time(TimeAttribute::CreatedAt, Comparison::Lt, at(9005))]),
        of(vec![Condition::Protected(true)]),
        of(vec![Condition::Tag("even".into()), Condition::Tag("x".into())]),
        of(vec![Condition::Property("os".into(), "1".into())]),
    ];
    for shown in Visibility::ALL.iter().map(|v| Shown::Only(*v)).chain([Shown::All]) {
        for member_status in MemberStatus::ALL.iter().copied().map(Some).chain([None]) {
            listings.push(Listing { shown, member_status, ..Listing::default() });
        }
    }
    for (_, key) in SortKey::ALL {
        for descending in [true, false] {
            let ties = [SortKey::CreatedAt, SortKey::Id].into_iter().filter(|tie| tie != key);
            let keys = std::iter::once(*key).chain(ties);
            let sort = keys.map(|key| Sort { key, descending }).collect();
            listings.push(Listing { sort, ..Listing::default() });
        }
    }
    listings
}

async fn walk(images: &dyn ImageRecords, first: &ImageSearch) -> Vec<Image> {
    let mut search = first.clone();
    let mut all: Vec<Image> = Vec::new();
    loop {
        let found = images.find(&search).await.expect("page");
        assert!(found.whole);
        let page = found.page;
        assert!(page.images.len() <= search.listing.limit, "a page holds at most its limit");
        assert!(!page.more || !page.images.is_empty(), "a page that is followed by another isn't empty");
        all.extend(page.images);
        if !page.more {
            return all;
        }
        search.after = all.last().cloned();
    }
}
