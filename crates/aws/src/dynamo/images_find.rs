//! Lists of images.
//!
//! Invariants:
//! - No scan. A project's list reads its own records, public ones, and those shared with it, each by an index. In the
//!   order of creation, without filters, it reads about as many as it shows; else all of them, which the quota of
//!   images bounds.
//! - Memory is bounded by one page and one answer of DynamoDB.

use aws_sdk_dynamodb::types::AttributeValue;
use image_tasks_domain::Visibility;
use image_tasks_domain::images::{Condition, ImageSearch, Offer, Page, TextAttribute};
use image_tasks_domain::policy::Shown;
use image_tasks_domain::ports::{ImagePage, ImageStore as _, StoreResult};

use super::DynamoImages;
use super::item::{created_sort, image, string, text};
use super::merge::{Filter, Merge, Partition};

/// What of the indexes a list reads.
struct Reach {
    /// The images of a project.
    owner: Option<String>,
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
            return match owner {
                Some(owner) => {
                    Self { owner: Some(owner.to_owned()), visibilities: Vec::new(), shared: false }
                }
                // A list that leaves out others' community images holds one's own.
                None => Self {
                    owner: (search.listing.shown == Shown::Usual).then(|| project.clone()),
                    visibilities: Visibility::ALL.iter().copied().filter(shows).collect(),
                    shared: false,
                },
            };
        }
        let is_own = owner.map(|owner| owner == project);
        let everybodys = [Visibility::Public, Visibility::Community].into_iter();
        Self {
            owner: (is_own != Some(false)).then(|| project.clone()),
            visibilities: if is_own == Some(true) { Vec::new() } else { everybodys.filter(shows).collect() },
            shared: is_own != Some(true) && shows(&Visibility::Shared),
        }
    }

    fn partitions(&self) -> Vec<Partition> {
        let own = self.owner.iter().map(|owner| Partition::new("owner-created", "owner", owner));
        let by = |v: &Visibility| Partition::new("visibility-created", "visibility", v.name());
        own.chain(self.visibilities.iter().map(by)).collect()
    }
}

impl DynamoImages {
    pub(super) async fn found(&self, search: &ImageSearch) -> StoreResult<ImagePage> {
        let mut page = Page::new(search);
        if search.listing.limit == 0 {
            return Ok(page.finish());
        }
        if let Some(id) = search.demanded_id() {
            if let Some(id) = id
                && let Some(image) = self.get(id).await?
            {
                page.offer(image);
            }
            return Ok(page.finish());
        }
        let reach = Reach::of(search);
        if reach.shared {
            let status = search.listing.member_status;
            self.each_shared(&search.caller.project, status, |image| {
                page.offer(image);
            })
            .await?;
        }
        match search.by_creation() {
            Some(descending) => self.newest(search, &reach, descending, &mut page).await?,
            None => self.each(search, &reach, &mut page).await?,
        }
        Ok(page.finish())
    }

    /// Offers images in the list's own order until what follows is on a later page.
    async fn newest(
        &self,
        search: &ImageSearch,
        reach: &Reach,
        descending: bool,
        page: &mut Page<'_>,
    ) -> StoreResult<()> {
        let mut merge = Merge {
            client: &self.client,
            table: &self.images,
            partitions: reach.partitions(),
            sort: "created_sort",
            behind: search.after.as_ref().map(|image| created_sort(image.created_at, image.id)),
            descending,
            filter: hidden(search),
        };
        loop {
            let found = merge.page(search.listing.limit.saturating_add(1)).await?;
            for item in found.items {
                merge.behind = Some(string(&item, "created_sort")?.to_owned());
                if page.offer(image(item)?) == Offer::Later {
                    return Ok(());
                }
            }
            if !found.more {
                return Ok(());
            }
        }
    }

    /// Offers every image in reach, in no order.
    async fn each(&self, search: &ImageSearch, reach: &Reach, page: &mut Page<'_>) -> StoreResult<()> {
        for partition in reach.partitions() {
            let of_owner = partition.is_of("owner");
            let mut filter = hidden(search);
            for condition in &search.listing.conditions {
                demand(&mut filter, condition, of_owner);
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
            merge
                .each(|item| {
                    let image = image(item)?;
                    // It was offered with its owner's, maybe as it was a moment before or after.
                    if of_owner || reach.owner.as_ref() != Some(&image.owner) {
                        page.offer(image);
                    }
                    Ok(())
                })
                .await?;
        }
        Ok(())
    }
}

fn hidden(search: &ImageSearch) -> Filter {
    let mut filter = Filter::default();
    filter.equals("os_hidden", AttributeValue::Bool(search.listing.hidden));
    filter
}

/// Lets DynamoDB leave out what a condition leaves out, where that is simply said. A key of the index can't stand in
/// a filter; and the page looks at each condition anyway.
fn demand(filter: &mut Filter, condition: &Condition, of_owner: bool) {
    match condition {
        Condition::Text(TextAttribute::Owner, _) if of_owner => {}
        Condition::Text(attribute, values) => {
            if let [one] = values.as_slice() {
                filter.equals(attribute.name(), text(one));
            }
        }
        Condition::Protected(protected) => filter.equals("protected", AttributeValue::Bool(*protected)),
        Condition::Number(..) | Condition::Time(..) | Condition::Tag(_) | Condition::Property(..) => {}
    }
}
