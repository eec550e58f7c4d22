//! A list of images as it is asked for: what it holds, in which order.

use std::borrow::Cow;
use std::cmp::Ordering;

use crate::caller::Caller;
use crate::image::{Image, ImageId};
use crate::member::MemberStatus;
use crate::policy::{self, Shown};
use crate::tasks::DEFAULT_LIMIT;
use crate::time::Timestamp;

/// What is asked of a list, as far as the wire's own rules go.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing {
    /// Which visibilities.
    pub shown: Shown,
    /// What the caller's project said to images that are shared with it; `None`: whatever it said.
    pub member_status: Option<MemberStatus>,
    /// Hidden images, or those that aren't.
    pub hidden: bool,
    /// All of these must hold.
    pub conditions: Vec<Condition>,
    /// First key first; the last is [`SortKey::Id`], which makes the order total.
    pub sort: Vec<Sort>,
    /// At most this many; more than [`MAX_LIMIT`](crate::tasks::MAX_LIMIT) are never given.
    pub limit: usize,
    /// Start behind the image of this id.
    pub marker: Option<String>,
}

impl Default for Listing {
    fn default() -> Self {
        Self {
            shown: Shown::Usual,
            member_status: Some(MemberStatus::Accepted),
            hidden: false,
            conditions: Vec::new(),
            sort: Sort::newest_first(),
            limit: DEFAULT_LIMIT,
            marker: None,
        }
    }
}

/// One key of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sort {
    /// By what.
    pub key: SortKey,
    /// Largest first.
    pub descending: bool,
}

impl Sort {
    /// The order of a list of which none is asked.
    pub fn newest_first() -> Vec<Self> {
        [SortKey::CreatedAt, SortKey::Id].map(|key| Self { key, descending: true }).into()
    }
}

/// What images can be ordered by. An image without a value comes first in ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the attributes' own names")]
pub enum SortKey {
    Name,
    Status,
    ContainerFormat,
    DiskFormat,
    Size,
    Id,
    CreatedAt,
    UpdatedAt,
}

impl SortKey {
    /// Every key, under its name on the wire.
    pub const ALL: &'static [(&'static str, SortKey)] = &[
        ("name", Self::Name),
        ("status", Self::Status),
        ("container_format", Self::ContainerFormat),
        ("disk_format", Self::DiskFormat),
        ("size", Self::Size),
        ("id", Self::Id),
        ("created_at", Self::CreatedAt),
        ("updated_at", Self::UpdatedAt),
    ];

    fn compare(self, a: &Image, b: &Image) -> Ordering {
        match self {
            Self::Name => a.name.cmp(&b.name),
            Self::Status => a.status.name().cmp(b.status.name()),
            Self::ContainerFormat => a.container_format.cmp(&b.container_format),
            Self::DiskFormat => a.disk_format.cmp(&b.disk_format),
            Self::Size => a.size.cmp(&b.size),
            Self::Id => a.id.cmp(&b.id),
            Self::CreatedAt => a.created_at.cmp(&b.created_at),
            Self::UpdatedAt => a.updated_at.cmp(&b.updated_at),
        }
    }
}

/// What must hold of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The attribute is one of these.
    Text(TextAttribute, Vec<String>),
    /// The attribute is there and compares so.
    Number(NumberAttribute, Comparison, i64),
    /// The time compares so.
    Time(TimeAttribute, Comparison, Timestamp),
    /// It can't be deleted, or it can.
    Protected(bool),
    /// It has this tag.
    Tag(String),
    /// It has this extra property with this value.
    Property(String, String),
}

impl Condition {
    /// Whether it holds.
    pub fn holds(&self, image: &Image) -> bool {
        match self {
            Self::Text(attribute, wanted) => {
                attribute.of(image).is_some_and(|value| wanted.iter().any(|one| *one == value))
            }
            Self::Number(attribute, comparison, wanted) => attribute
                .of(image)
                .is_some_and(|value| comparison.holds(&i128::from(value), &i128::from(*wanted))),
            Self::Time(TimeAttribute::CreatedAt, comparison, wanted) => {
                comparison.holds(&image.created_at, wanted)
            }
            Self::Time(TimeAttribute::UpdatedAt, comparison, wanted) => {
                comparison.holds(&image.updated_at, wanted)
            }
            Self::Protected(wanted) => image.protected == *wanted,
            Self::Tag(tag) => image.tags.contains(tag),
            Self::Property(name, value) => image.properties.get(name) == Some(value),
        }
    }
}

/// Attributes that are texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the attributes' own names")]
pub enum TextAttribute {
    Id,
    Name,
    Status,
    DiskFormat,
    ContainerFormat,
    Owner,
    Checksum,
    OsHashAlgo,
    OsHashValue,
}

impl TextAttribute {
    /// Every attribute.
    pub const ALL: &'static [TextAttribute] = &[
        Self::Id,
        Self::Name,
        Self::Status,
        Self::DiskFormat,
        Self::ContainerFormat,
        Self::Owner,
        Self::Checksum,
        Self::OsHashAlgo,
        Self::OsHashValue,
    ];

    /// Its name, on the wire and in the record.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Name => "name",
            Self::Status => "status",
            Self::DiskFormat => "disk_format",
            Self::ContainerFormat => "container_format",
            Self::Owner => "owner",
            Self::Checksum => "checksum",
            Self::OsHashAlgo => "os_hash_algo",
            Self::OsHashValue => "os_hash_value",
        }
    }

    fn of(self, image: &Image) -> Option<Cow<'_, str>> {
        match self {
            Self::Id => Some(Cow::Owned(image.id.to_string())),
            Self::Name => image.name.as_deref().map(Cow::Borrowed),
            Self::Status => Some(Cow::Borrowed(image.status.name())),
            Self::DiskFormat => image.disk_format.as_deref().map(Cow::Borrowed),
            Self::ContainerFormat => image.container_format.as_deref().map(Cow::Borrowed),
            Self::Owner => Some(Cow::Borrowed(&image.owner)),
            Self::Checksum => image.checksum.as_deref().map(Cow::Borrowed),
            Self::OsHashAlgo => image.os_hash_algo.as_deref().map(Cow::Borrowed),
            Self::OsHashValue => image.os_hash_value.as_deref().map(Cow::Borrowed),
        }
    }
}

/// Attributes that are numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the attributes' own names")]
pub enum NumberAttribute {
    Size,
    VirtualSize,
    MinDisk,
    MinRam,
}

impl NumberAttribute {
    /// Every attribute, under its name on the wire.
    pub const ALL: &'static [(&'static str, NumberAttribute)] = &[
        ("size", Self::Size),
        ("virtual_size", Self::VirtualSize),
        ("min_disk", Self::MinDisk),
        ("min_ram", Self::MinRam),
    ];

    fn of(self, image: &Image) -> Option<u64> {
        match self {
            Self::Size => image.size,
            Self::VirtualSize => image.virtual_size,
            Self::MinDisk => Some(image.min_disk.into()),
            Self::MinRam => Some(image.min_ram.into()),
        }
    }
}

/// Attributes that are times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the attributes' own names")]
pub enum TimeAttribute {
    CreatedAt,
    UpdatedAt,
}

/// How a value stands to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the operators' own names")]
pub enum Comparison {
    Eq,
    Neq,
    Gt,
    Gte,
    Lt,
    Lte,
}

impl Comparison {
    /// Every comparison, under its name on the wire.
    pub const ALL: &'static [(&'static str, Comparison)] = &[
        ("eq", Self::Eq),
        ("neq", Self::Neq),
        ("gt", Self::Gt),
        ("gte", Self::Gte),
        ("lt", Self::Lt),
        ("lte", Self::Lte),
    ];

    fn holds<T: Ord>(self, left: &T, right: &T) -> bool {
        let order = left.cmp(right);
        match self {
            Self::Eq => order.is_eq(),
            Self::Neq => order.is_ne(),
            Self::Gt => order.is_gt(),
            Self::Gte => order.is_ge(),
            Self::Lt => order.is_lt(),
            Self::Lte => order.is_le(),
        }
    }
}

/// A page that is to be found.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageSearch {
    /// Who asks.
    pub caller: Caller,
    /// For what.
    pub listing: Listing,
    /// Start behind this image, which the caller sees.
    pub after: Option<Image>,
}

impl ImageSearch {
    /// Whether the image is in the list, on this page or a later one.
    pub fn holds(&self, image: &Image) -> bool {
        let Listing { shown, member_status, hidden, conditions, .. } = &self.listing;
        image.os_hidden == *hidden
            && policy::caller_lists_image(&self.caller, image, *shown, *member_status)
            && conditions.iter().all(|condition| condition.holds(image))
            && self.after.as_ref().is_none_or(|after| self.order(after, image).is_lt())
    }

    /// The list's order.
    pub fn order(&self, a: &Image, b: &Image) -> Ordering {
        let by = |sort: &Sort| {
            let ascending = sort.key.compare(a, b);
            if sort.descending { ascending.reverse() } else { ascending }
        };
        self.listing.sort.iter().map(by).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    }

    /// Where the order is that of creation and nothing is to be left out beside hidden images: whether newest first.
    pub fn by_creation(&self) -> Option<bool> {
        match self.listing.sort.as_slice() {
            [Sort { key: SortKey::CreatedAt, descending }, Sort { key: SortKey::Id, descending: same }]
                if descending == same && self.listing.conditions.is_empty() =>
            {
                Some(*descending)
            }
            _ => None,
        }
    }

    /// The one value that a condition demands of an attribute.
    pub fn demanded(&self, attribute: TextAttribute) -> Option<&str> {
        self.listing.conditions.iter().find_map(|condition| match condition {
            Condition::Text(of, values) if *of == attribute => match values.as_slice() {
                [one] => Some(one.as_str()),
                _ => None,
            },
            _ => None,
        })
    }

    /// The one id that is asked for; `Some(None)` where the text is none.
    pub fn demanded_id(&self) -> Option<Option<ImageId>> {
        let text = self.demanded(TextAttribute::Id)?;
        Some(text.parse().ok().filter(|id: &ImageId| id.to_string() == text))
    }
}
