//! Several index partitions read as one ordered list.
//!
//! Goal: a page costs about as many items as it shows, whatever the tables
//! hold, and never more than a bound. Each partition is read ahead by one page only; the merge asks for more
//! of a partition when it runs out of it.

use std::cmp::Ordering;
use std::collections::VecDeque;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use futures::future::try_join_all;
use image_tasks_domain::ports::StoreResult;

use super::item::{Item, item_size, string};
use crate::failures::store_error;

/// Most items read for one page once it has something to show. Filters and expired tasks that DynamoDB has
/// not deleted yet cost reads without showing anything; a page then ends short, and the next goes on.
const MOST_READ: usize = 2000;
/// Most items read for one page that may end up with nothing to show: some 10 MB, ten reads.
pub(super) const MOST_SEARCHED: usize = 20_000;
/// Most bytes of a page's items, one item apart: a page of records is held whole in a function of 512 MB, and an answer
/// holds 6 MB (Lambda developer guide, "Lambda quotas").
const MOST_BYTES: usize = 5 << 20;
/// Items asked for at once where a filter left too few of the first ones.
const REFILL: i32 = 250;

/// An ordered read of one or more partitions of an index.
pub(super) struct Merge<'a> {
    pub(super) client: &'a Client,
    pub(super) table: &'a str,
    /// Partitions to merge.
    pub(super) partitions: Vec<Partition>,
    /// Sort attribute of their indexes.
    pub(super) sort: &'static str,
    /// Only items strictly behind this value of the sort attribute, in the direction of reading.
    pub(super) behind: Option<String>,
    pub(super) descending: bool,
    pub(super) filter: Filter,
}

/// One partition of an index: the items whose `attribute` has this value.
#[derive(Clone)]
pub(super) struct Partition {
    index: &'static str,
    attribute: &'static str,
    value: String,
}

impl Partition {
    pub(super) fn new(index: &'static str, attribute: &'static str, value: impl Into<String>) -> Self {
        Self { index, attribute, value: value.into() }
    }

    /// Whether the partitions of its index are by this attribute.
    pub(super) fn is_of(&self, attribute: &str) -> bool {
        self.attribute == attribute
    }
}

/// A condition on items beyond their keys.
#[derive(Clone, Default)]
pub(super) struct Filter {
    pub(super) clauses: Vec<String>,
    pub(super) names: Vec<(String, String)>,
    pub(super) values: Vec<(String, AttributeValue)>,
}

impl Filter {
    /// The attribute has this value. Asked again of the same attribute, nothing has two.
    pub(super) fn equals(&mut self, name: &str, value: AttributeValue) {
        if self.names.iter().any(|(_, named)| named == name) {
            return;
        }
        self.clauses.push(format!("#{name} = :{name}"));
        self.names.push((format!("#{name}"), name.to_owned()));
        self.values.push((format!(":{name}"), value));
    }
}

/// What a read found.
pub(super) struct Found {
    /// In order, at most as many as asked for.
    pub(super) items: Vec<Item>,
    /// Whether there is, or may be, another behind them.
    pub(super) more: bool,
    /// Items that DynamoDB read.
    pub(super) read: usize,
    /// Where nothing was found and the read was given up: the keys of the last item before what was not read.
    pub(super) last: Option<Item>,
}

/// What a read of every item came to.
pub(super) struct Each {
    /// Items that DynamoDB read.
    pub(super) read: usize,
    /// Whether that was all.
    pub(super) whole: bool,
}

impl Each {
    /// Nothing was to be read.
    pub(super) const NOTHING: Self = Self { read: 0, whole: true };

    /// This and another read.
    pub(super) fn and(self, other: Self) -> Self {
        Self { read: self.read + other.read, whole: self.whole && other.whole }
    }
}

/// A partition as far as it has been read.
struct Cursor<'a> {
    partition: &'a Partition,
    ready: VecDeque<(String, Item)>,
    next: Option<Item>,
    ended: bool,
}

impl Merge<'_> {
    /// The first `limit` items.
    pub(super) async fn page(&self, limit: usize) -> StoreResult<Found> {
        let ahead = i32::try_from(limit.saturating_add(1)).unwrap_or(i32::MAX);
        let mut cursors: Vec<_> = self.partitions.iter().map(Cursor::new).collect();
        let mut read: usize =
            try_join_all(cursors.iter_mut().map(|c| self.fill(c, ahead))).await?.iter().sum();
        let mut items: Vec<Item> = Vec::new();
        let (mut last, mut bytes) = (String::new(), 0);
        loop {
            while let Some(dry) = cursors.iter().position(|c| c.ready.is_empty() && !c.ended) {
                if read >= MOST_READ && !items.is_empty() {
                    return Ok(Found { items, more: true, read, last: None });
                }
                if read >= MOST_SEARCHED {
                    let last = self.read_to(&cursors)?;
                    return Ok(Found { items, more: true, read, last });
                }
                if let Some(dry) = cursors.get_mut(dry) {
                    read += self.fill(dry, ahead.max(REFILL)).await?;
                }
            }
            let best = cursors.iter_mut().filter(|c| !c.ready.is_empty()).min_by(|a, b| {
                self.order(&a.ready.front().map(|(key, _)| key), &b.ready.front().map(|(key, _)| key))
            });
            let Some((key, item)) = best.and_then(|c| c.ready.pop_front()) else {
                return Ok(Found { items, more: false, read, last: None });
            };
            // One record may lie in two partitions (a caller's own image that is public).
            if key == last {
                continue;
            }
            bytes += item_size(&item);
            if items.len() == limit || (bytes > MOST_BYTES && !items.is_empty()) {
                return Ok(Found { items, more: true, read, last: None });
            }
            last = key;
            items.push(item);
        }
    }

    /// The place up to which all partitions have been read: that of the one that was read least far.
    fn read_to(&self, cursors: &[Cursor<'_>]) -> StoreResult<Option<Item>> {
        let unread = cursors.iter().filter(|c| c.ready.is_empty()).filter_map(|c| c.next.as_ref());
        let places =
            unread.map(|next| Ok((string(next, self.sort)?, next))).collect::<StoreResult<Vec<_>>>()?;
        Ok(places.into_iter().min_by(|(a, _), (b, _)| self.order(a, b)).map(|(_, next)| next.clone()))
    }

    /// Every item, in the order of one partition after the other; given up where there are too many.
    pub(super) async fn each(&self, mut visit: impl FnMut(Item) -> StoreResult<()>) -> StoreResult<Each> {
        let mut read = 0;
        for partition in &self.partitions {
            let mut cursor = Cursor::new(partition);
            while !cursor.ended {
                if read >= MOST_SEARCHED {
                    return Ok(Each { read, whole: false });
                }
                read += self.fill(&mut cursor, i32::MAX).await?;
                for (_, item) in cursor.ready.drain(..) {
                    visit(item)?;
                }
            }
        }
        Ok(Each { read, whole: true })
    }

    fn order<T: Ord>(&self, a: &T, b: &T) -> Ordering {
        if self.descending { b.cmp(a) } else { a.cmp(b) }
    }

    /// Reads the next items of a partition: at most `limit` of them, at most 1 MB. Returns how many were read.
    async fn fill(&self, cursor: &mut Cursor<'_>, limit: i32) -> StoreResult<usize> {
        let mut condition = "#partition = :partition".to_owned();
        let mut query = self
            .client
            .query()
            .table_name(self.table)
            .index_name(cursor.partition.index)
            .scan_index_forward(!self.descending)
            .limit(limit)
            .set_exclusive_start_key(cursor.next.take())
            .expression_attribute_names("#partition", cursor.partition.attribute)
            .expression_attribute_values(":partition", AttributeValue::S(cursor.partition.value.clone()));
        if let Some(behind) = &self.behind {
            condition += if self.descending { " AND #sort < :behind" } else { " AND #sort > :behind" };
            query = query
                .expression_attribute_names("#sort", self.sort)
                .expression_attribute_values(":behind", AttributeValue::S(behind.clone()));
        }
        if !self.filter.clauses.is_empty() {
            query = query.filter_expression(self.filter.clauses.join(" AND "));
        }
        for (name, attribute) in &self.filter.names {
            query = query.expression_attribute_names(name, attribute);
        }
        for (name, value) in &self.filter.values {
            query = query.expression_attribute_values(name, value.clone());
        }
        let found = query.key_condition_expression(condition).send().await.map_err(store_error)?;
        let read = usize::try_from(found.scanned_count()).unwrap_or(0);
        cursor.ended = found.last_evaluated_key.is_none();
        cursor.next = found.last_evaluated_key;
        for item in found.items.unwrap_or_default() {
            cursor.ready.push_back((string(&item, self.sort)?.to_owned(), item));
        }
        Ok(read)
    }
}

impl<'a> Cursor<'a> {
    fn new(partition: &'a Partition) -> Self {
        Self { partition, ready: VecDeque::new(), next: None, ended: false }
    }
}
