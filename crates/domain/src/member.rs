//! A project that an image is shared with.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// What the project said to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberStatus {
    /// Nothing yet: the image is seen by its id, and not in lists.
    Pending,
    /// Yes: the image is in the project's lists.
    Accepted,
    /// No: as pending.
    Rejected,
}

impl MemberStatus {
    /// Every status.
    pub const ALL: &'static [MemberStatus] = &[Self::Pending, Self::Accepted, Self::Rejected];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
        }
    }

    /// The status of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|status| status.name() == name)
    }
}

/// A share, as the image's record has it under the project's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// What the project said to it.
    pub status: MemberStatus,
    /// When the image was shared.
    pub created_at: Timestamp,
    /// When the status last changed.
    pub updated_at: Timestamp,
}
