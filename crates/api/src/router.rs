//! Where a path leads, and which methods are taken there: the one table.

use http::{Method, StatusCode};

use crate::schemas::{self, Schema};
use crate::versions;

/// Where a path leads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Route<'a> {
    Healthcheck,
    Versions(StatusCode),
    Tasks,
    Task(&'a str),
    TaskCancel(&'a str),
    Images,
    Image(&'a str),
    ImageFile(&'a str),
    ImageStage(&'a str),
    ImageImport(&'a str),
    ImageTasks(&'a str),
    ImageMembers(&'a str),
    ImageMember(&'a str, &'a str),
    ImageTag(&'a str, &'a str),
    ImageDeactivate(&'a str),
    ImageReactivate(&'a str),
    ImportInfo,
    Stores,
    StoresDetail,
    Regions,
    Usage,
    Schema(Schema),
}

impl<'a> Route<'a> {
    /// A slash at the end leads nowhere, but for the versions, whose own links end so: a client that was given an
    /// empty id would get a list for a thing, or delete one.
    pub(crate) fn of(path: &'a str) -> Option<Self> {
        let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
        match segments.as_slice() {
            [""] => Some(Self::Versions(StatusCode::MULTIPLE_CHOICES)),
            ["healthcheck"] => Some(Self::Healthcheck),
            ["versions"] | ["versions", ""] => Some(Self::Versions(StatusCode::OK)),
            [v2] | [v2, ""] if versions::is_v2(v2) => Some(Self::Versions(StatusCode::MULTIPLE_CHOICES)),
            [v2, rest @ ..] if versions::is_v2(v2) => Self::of_v2(rest),
            [version, ..] if versions::is_version(version) => {
                Some(Self::Versions(StatusCode::MULTIPLE_CHOICES))
            }
            _ => None,
        }
    }

    fn of_v2(segments: &[&'a str]) -> Option<Self> {
        if segments.contains(&"") {
            return None;
        }
        match *segments {
            ["tasks"] => Some(Self::Tasks),
            ["tasks", id] => Some(Self::Task(id)),
            ["tasks", id, "cancel"] => Some(Self::TaskCancel(id)),
            ["images"] => Some(Self::Images),
            ["images", id] => Some(Self::Image(id)),
            ["images", id, "file"] => Some(Self::ImageFile(id)),
            ["images", id, "stage"] => Some(Self::ImageStage(id)),
            ["images", id, "import"] => Some(Self::ImageImport(id)),
            ["images", id, "tasks"] => Some(Self::ImageTasks(id)),
            ["images", id, "members"] => Some(Self::ImageMembers(id)),
            ["images", id, "members", member] => Some(Self::ImageMember(id, member)),
            ["images", id, "tags", tag] => Some(Self::ImageTag(id, tag)),
            ["images", id, "actions", "deactivate"] => Some(Self::ImageDeactivate(id)),
            ["images", id, "actions", "reactivate"] => Some(Self::ImageReactivate(id)),
            ["info", "import"] => Some(Self::ImportInfo),
            ["info", "stores"] => Some(Self::Stores),
            ["info", "stores", "detail"] => Some(Self::StoresDetail),
            ["info", "regions"] => Some(Self::Regions),
            ["info", "usage"] => Some(Self::Usage),
            ["schemas", ref name @ ..] => schemas::named(&name.join("/")).map(Self::Schema),
            _ => None,
        }
    }

    /// The methods that are taken here.
    pub(crate) const fn allow(self) -> &'static str {
        match self {
            Self::Tasks | Self::Images | Self::ImageMembers(_) => "GET, POST",
            Self::Image(_) => "GET, PATCH, DELETE",
            Self::ImageMember(..) => "GET, PUT, DELETE",
            Self::ImageFile(_) => "GET, PUT",
            Self::ImageStage(_) => "PUT",
            Self::ImageTag(..) => "PUT, DELETE",
            Self::TaskCancel(_)
            | Self::ImageImport(_)
            | Self::ImageDeactivate(_)
            | Self::ImageReactivate(_) => "POST",
            Self::Healthcheck
            | Self::Versions(_)
            | Self::Task(_)
            | Self::ImageTasks(_)
            | Self::ImportInfo
            | Self::Stores
            | Self::StoresDetail
            | Self::Regions
            | Self::Usage
            | Self::Schema(_) => "GET",
        }
    }

    /// What to do instead, for who asks what isn't offered here.
    pub(crate) fn instead(self, method: &Method) -> &'static str {
        match (self, method) {
            (Self::Task(_), &Method::DELETE) => {
                ". Tasks are not deleted: one that has ended goes by itself at its expires_at, and POST to \
                 .../cancel ends one that is at work"
            }
            _ => "",
        }
    }
}
