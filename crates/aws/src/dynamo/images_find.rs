//! Lists of images.
//!
//! Invariants:
//! - No scan. A project's list reads its own records, public ones, and those shared with it, each by an index. In the
//!   order of creation, without filters, it reads about as many as it shows; else all of them, which the quota of
//!   images bounds.
//! - An admin's list over all projects does the same; by one name it reads those of that name. What would take more
//!   reads than a bound is given up, and says so.
//! - Memory is bounded by one page and one answer of DynamoDB.

use std::sync::{Mutex, PoisonError};

use aws_sdk_dynamodb::types::AttributeValue;
use futures::future::try_join;
use image_tasks_domain::images::{Condition, ImageSearch, Offer, Page, TextAttribute};
use image_tasks_domain::policy::Shown;
use image_tasks_domain::ports::{FoundImages, ImageStore as _, StoreResult};
use image_tasks_domain::{Image, Visibility};

use super::DynamoImages;
use super::item::{NAME_KEY, created_sort, image, string, text};
use super::merge::{Each, Filter, MOST_SEARCHED, Merge, Partition};

/// What of the indexes a list reads.
#[derive(Default)]
struct Reach {
    /// The images of a project.
    owner: Option<String>,
    /// The images of every project of that name.
    name: Option<String>,
    /// The images of every project with these visibilities.
    visibilities: Vec<Visibility>,
    /// Images that are shared with the caller's project.
    shared: bool,
}

impl Reach {
    fn of(search: &ImageSearch) -> Self {
        let project = &search.caller.project;
        let owner = search.demanded(TextAttribute::Owner);
        let shows = |visibility: &Visibility| match search.listing.shown {
            Shown::All => true,
            Shown::Only(one) => one == *visibility,
            Shown::Usual => *visibility != Visibility::Community,
        };
        if search.caller.is_admin() {
            // An empty name is no key of an index.
            let name = search.demanded(TextAttribute::Name).filter(|name| !name.is_empty());
            return match (owner, name) {
                (Some(owner), _) => Self { owner: Some(owner.to_owned()), ..Self::default() },
                (None, Some(name)) => Self { name: Some(name.to_owned()), ..Self::default() },
                // A list that leaves out others' community images holds one's own.
                (None, None) => Self {
                    owner: (search.listing.shown == Shown::Usual).then(|| project.clone()),
                    visibilities: Visibility::ALL.iter().copied().filter(shows).collect(),
                    ..Self::default()
                },
            };
        }
        let is_own = owner.map(|owner| owner == project);
        let everybodys = [Visibility::Public, Visibility::Community].into_iter();
        Self {
            owner: (is_own != Some(false)).then(|| project.clone()),
            name: None,
            visibilities: if is_own == Some(true) { Vec::new() } else { everybodys.filter(shows).collect() },
            shared: is_own != Some(true) && shows(&Visibility::Shared),
        }
    }

    fn partitions(&self) -> Vec<Partition> {
        let own = self.owner.iter().map(|owner| Partition::new("owner-created", "owner", owner));
        let named = self.name.iter().map(|name| Partition::new("name-created", NAME_KEY, name));
        let by = |v: &Visibility| Partition::new("visibility-created", "visibility", v.name());
        own.chain(named).chain(self.visibilities.iter().map(by)).collect()
    }
}

impl DynamoImages {
    pub(super) async fn found(&self, search: &ImageSearch) -> StoreResult<FoundImages> {
        let mut page = Page::new(search);
        let mut looked = Each::NOTHING;
        if search.listing.limit > 0 {
            match search.demanded_id() {
                Some(None) => {}
                Some(Some(id)) => {
                    looked.read = 1;
                    if let Some(image) = self.get(id).await? {
                        page.offer(image);
                    }
                }
                None => looked = self.look(search, &mut page).await?,
            }
        }
        Ok(FoundImages { page: page.finish(), items_read: looked.read, whole: looked.whole })
    }

    /// Offers what is in reach, until no other could be on the page.
    async fn look(&self, search: &ImageSearch, page: &mut Page<'_>) -> StoreResult<Each> {
        let reach = Reach::of(search);
        let page = Mutex::new(page);
        let offer = |image| page.lock().unwrap_or_else(PoisonError::into_inner).offer(image);
        let shared = async {
            if !reach.shared {
                return Ok(Each::NOTHING);
            }
            let of = (search.caller.project.as_str(), search.listing.member_status);
            let offer = |image| {
                offer(image);
            };
            self.each_shared(of, offer).await
        };
        let others = async {
            match search.by_creation() {
                Some(descending) => self.newest(search, &reach, descending, &offer).await,
                None => self.each(search, &reach, &offer).await,
            }
        };
        // Side by side: what is read second only makes the page that the first was held against fuller.
        let (shared, others) = try_join(shared, others).await?;
        Ok(shared.and(others))
    }

    /// Offers images in the list's own order until what follows is on a later page.
    async fn newest(
        &self,
        search: &ImageSearch,
        reach: &Reach,
        descending: bool,
        offer: &(impl Fn(Image) -> Offer + Sync),
    ) -> StoreResult<Each> {
        let mut merge = Merge {
            client: &self.client,
            table: &self.images,
            partitions: reach.partitions(),
            sort: "created_sort",
            behind: search.after.as_ref().map(|image| created_sort(image.created_at, image.id)),
            descending,
            filter: hidden(search),
        };
        let mut read = 0;
        loop {
            let found = merge.page(search.listing.limit.saturating_add(1)).await?;
            read += found.read;
            // Each round gets on: only a search that was given up finds nothing though there is more.
            if found.items.is_empty() || read >= MOST_SEARCHED {
                return Ok(Each { read, whole: !found.more });
            }
            for item in found.items {
                merge.behind = Some(string(&item, "created_sort")?.to_owned());
                if offer(image(item)?) == Offer::Later {
                    return Ok(Each { read, whole: true });
                }
            }
            if !found.more {
                return Ok(Each { read, whole: true });
            }
        }
    }

    /// Offers every image in reach, in no order.
    async fn each(
        &self,
        search: &ImageSearch,
        reach: &Reach,
        offer: &(impl Fn(Image) -> Offer + Sync),
    ) -> StoreResult<Each> {
        let mut looked = Each::NOTHING;
        for partition in reach.partitions() {
            let of_owner = partition.is_of("owner");
            let mut filter = hidden(search);
            for condition in &search.listing.conditions {
                demand(&mut filter, condition, &partition);
            }
            let merge = Merge {
                client: &self.client,
                table: &self.images,
                partitions: vec![partition],
                sort: "created_sort",
                behind: None,
                descending: true,
                filter,
            };
            let one = merge
                .each(|item| {
                    let image = image(item)?;
                    // It was offered with its owner's, maybe as it was a moment before or after.
                    if of_owner || reach.owner.as_ref() != Some(&image.owner) {
                        offer(image);
                    }
                    Ok(())
                })
                .await?;
            looked = looked.and(one);
            if !looked.whole {
                break;
            }
        }
        Ok(looked)
    }
}

fn hidden(search: &ImageSearch) -> Filter {
    let mut filter = Filter::default();
    filter.equals("os_hidden", AttributeValue::Bool(search.listing.hidden));
    filter
}

/// Lets DynamoDB leave out what a condition leaves out, where that is simply said. A key of the index can't stand in
/// a filter; and the page looks at each condition anyway.
fn demand(filter: &mut Filter, condition: &Condition, partition: &Partition) {
    match condition {
        Condition::Text(attribute, _) if partition.is_of(attribute.name()) => {}
        Condition::Text(attribute, values) => {
            if let [one] = values.as_slice() {
                filter.equals(attribute.name(), text(one));
            }
        }
        Condition::Protected(protected) => filter.equals("protected", AttributeValue::Bool(*protected)),
        Condition::Number(..) | Condition::Time(..) | Condition::Tag(_) | Condition::Property(..) => {}
    }
}
