//! Where a path leads, and which methods are taken there: the one table.

use http::{Method, StatusCode};

use crate::versions;

/// Where a path leads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Route<'a> {
    Healthcheck,
    Versions(StatusCode),
    OpenApi,
    Tasks,
    Task(&'a str),
    TaskCancel(&'a str),
    Images,
    Image(&'a str),
    ImageFile(&'a str),
    ImageStage(&'a str),
    ImageUpload(&'a str),
    ImageUploadComplete(&'a str),
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
    Schema(&'a str),
    MetadefSchema(&'a str),
}

/// What a path leads to whose named parts, of which there are at most two, are these.
type Lead = for<'a> fn(&'a str, &'a str) -> Route<'a>;

/// Every path below `/v2`, as it is documented, and what it leads to.
const V2: &[(&str, Lead)] = &[
    ("openapi.json", |_, _| Route::OpenApi),
    ("tasks", |_, _| Route::Tasks),
    ("tasks/{task_id}", |id, _| Route::Task(id)),
    ("tasks/{task_id}/cancel", |id, _| Route::TaskCancel(id)),
    ("images", |_, _| Route::Images),
    ("images/{image_id}", |id, _| Route::Image(id)),
    ("images/{image_id}/file", |id, _| Route::ImageFile(id)),
    ("images/{image_id}/stage", |id, _| Route::ImageStage(id)),
    ("images/{image_id}/upload", |id, _| Route::ImageUpload(id)),
    ("images/{image_id}/upload/complete", |id, _| Route::ImageUploadComplete(id)),
    ("images/{image_id}/import", |id, _| Route::ImageImport(id)),
    ("images/{image_id}/tasks", |id, _| Route::ImageTasks(id)),
    ("images/{image_id}/members", |id, _| Route::ImageMembers(id)),
    ("images/{image_id}/members/{member_id}", |id, member| Route::ImageMember(id, member)),
    ("images/{image_id}/tags/{tag}", |id, tag| Route::ImageTag(id, tag)),
    ("images/{image_id}/actions/deactivate", |id, _| Route::ImageDeactivate(id)),
    ("images/{image_id}/actions/reactivate", |id, _| Route::ImageReactivate(id)),
    ("info/import", |_, _| Route::ImportInfo),
    ("info/stores", |_, _| Route::Stores),
    ("info/stores/detail", |_, _| Route::StoresDetail),
    ("info/regions", |_, _| Route::Regions),
    ("info/usage", |_, _| Route::Usage),
    ("schemas/{schema}", |name, _| Route::Schema(name)),
    ("schemas/metadefs/{schema}", |name, _| Route::MetadefSchema(name)),
];

/// Paths elsewhere that are documented; versions that aren't served lead to those that are.
const ELSEWHERE: &[&str] = &["/", "/versions", "/v2", "/healthcheck"];

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
        V2.iter().find_map(|(path, lead)| {
            let (first, second) = named_parts(path, segments)?;
            Some(lead(first, second))
        })
    }

    /// Every path that is documented, with what it leads to.
    pub(crate) fn documented() -> impl Iterator<Item = (String, Route<'static>)> {
        let elsewhere = ELSEWHERE.iter().filter_map(|path| Some(((*path).to_owned(), Route::of(path)?)));
        elsewhere.chain(V2.iter().map(|(path, lead)| (format!("/v2/{path}"), lead("", ""))))
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
            Self::ImageUpload(_) => "POST, DELETE",
            Self::TaskCancel(_)
            | Self::ImageUploadComplete(_)
            | Self::ImageImport(_)
            | Self::ImageDeactivate(_)
            | Self::ImageReactivate(_) => "POST",
            Self::Healthcheck
            | Self::Versions(_)
            | Self::OpenApi
            | Self::Task(_)
            | Self::ImageTasks(_)
            | Self::ImportInfo
            | Self::Stores
            | Self::StoresDetail
            | Self::Regions
            | Self::Usage
            | Self::Schema(_)
            | Self::MetadefSchema(_) => "GET",
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

/// What stands in a path's segments where the documented path has names; `None` if it is another path.
fn named_parts<'a>(path: &str, segments: &[&'a str]) -> Option<(&'a str, &'a str)> {
    let documented = path.split('/');
    if documented.clone().count() != segments.len() {
        return None;
    }
    let mut named = Vec::new();
    for (part, segment) in documented.zip(segments) {
        if part.starts_with('{') {
            named.push(*segment);
        } else if part != *segment {
            return None;
        }
    }
    Some((named.first().copied().unwrap_or_default(), named.get(1).copied().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_where_it_is_documented_to_lead() {
        for (path, route) in Route::documented() {
            assert!(path.matches('{').count() <= 2, "{path}");
            let filled = path.replace(['{', '}'], "");
            let found = Route::of(&filled).unwrap_or_else(|| panic!("{path} leads nowhere"));
            assert_eq!(std::mem::discriminant(&found), std::mem::discriminant(&route), "{path}");
        }
    }

    #[test]
    fn named_parts_are_told_apart() {
        assert!(matches!(Route::of("/v2/images/a/members/b"), Some(Route::ImageMember("a", "b"))));
        assert!(matches!(Route::of("/v2.3/images/a/tags/b"), Some(Route::ImageTag("a", "b"))));
        assert!(matches!(Route::of("/v2/schemas/metadefs/tag"), Some(Route::MetadefSchema("tag"))));
        for nothing in ["/v2/images//file", "/v2/images/a/b", "/v2/info", "/v2/images/a/actions/x", "/v2x"] {
            assert!(Route::of(nothing).is_none(), "{nothing}");
        }
    }
}
