//! Whom the local stack's Keystone knows, and what a client is told to be one of them.
//!
//! Names are ids: a project `demo` has the id `demo`, a user's password is the user's name. Nothing here is a secret:
//! the stack listens on loopback, and its API believes every development token anyway.

use std::fmt::Write;

/// The one domain, and its name.
pub const DOMAIN: (&str, &str) = ("default", "Default");

/// Every project.
pub const PROJECTS: &[&str] = &["demo", "partner", "admin"];

/// A user's role in a project. The first of a user is where it works unless it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Name and id of the user; its password too.
    pub user: &'static str,
    /// Name and id of the project.
    pub project: &'static str,
    /// With the roles that Keystone lets it imply.
    pub roles: &'static [&'static str],
}

const ADMIN: &[&str] = &["admin", "member", "reader"];
const MEMBER: &[&str] = &["member", "reader"];
const READER: &[&str] = &["reader"];

/// Who may do what where.
pub const GRANTS: &[Grant] = &[
    Grant { user: "demo", project: "demo", roles: MEMBER },
    Grant { user: "alice", project: "demo", roles: MEMBER },
    Grant { user: "reader", project: "demo", roles: READER },
    Grant { user: "bob", project: "partner", roles: MEMBER },
    Grant { user: "admin", project: "admin", roles: ADMIN },
    Grant { user: "admin", project: "demo", roles: ADMIN },
    Grant { user: "admin", project: "partner", roles: ADMIN },
];

impl Grant {
    /// The first of a user.
    #[must_use]
    pub fn of(user: &str) -> Option<&'static Self> {
        GRANTS.iter().find(|grant| grant.user == user)
    }

    /// The first of each user.
    pub fn firsts() -> impl Iterator<Item = &'static Self> {
        GRANTS.iter().filter(|grant| Self::of(grant.user) == Some(grant))
    }

    /// The development token that says so.
    #[must_use]
    pub fn token(&self) -> String {
        format!("{}:{}:{}", self.user, self.project, self.roles.join(","))
    }

    /// What stock clients read of their environment, to work as this user in a region.
    #[must_use]
    pub fn environment(&self, keystone: &str, region: &str) -> [(&'static str, String); 8] {
        [
            ("OS_AUTH_URL", format!("{keystone}/v3")),
            ("OS_IDENTITY_API_VERSION", "3".to_owned()),
            ("OS_USERNAME", self.user.to_owned()),
            ("OS_PASSWORD", self.user.to_owned()),
            ("OS_PROJECT_NAME", self.project.to_owned()),
            ("OS_USER_DOMAIN_NAME", DOMAIN.1.to_owned()),
            ("OS_PROJECT_DOMAIN_NAME", DOMAIN.1.to_owned()),
            ("OS_REGION_NAME", region.to_owned()),
        ]
    }
}

/// A `clouds.yaml` with a cloud for each user, named like it.
#[must_use]
pub fn clouds(keystone: &str, region: &str) -> String {
    let mut text = "# Clouds of the local stack, one for each user of its Keystone.\nclouds:\n".to_owned();
    for grant in Grant::firsts() {
        let _infallible = write!(
            text,
            "  {user}:\n    auth:\n      auth_url: {keystone}/v3\n      username: {user}\n      password: {user}\n      \
             project_name: {project}\n      user_domain_name: {domain}\n      project_domain_name: {domain}\n    \
             region_name: {region}\n    identity_api_version: 3\n",
            user = grant.user,
            project = grant.project,
            domain = DOMAIN.1,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_works_where_it_was_granted_first() {
        assert_eq!(Grant::of("admin").unwrap().token(), "admin:admin:admin,member,reader");
        assert_eq!(Grant::of("reader").unwrap().token(), "reader:demo:reader");
        assert_eq!(Grant::of("mallory"), None);
        let users: Vec<_> = Grant::firsts().map(|grant| grant.user).collect();
        assert_eq!(users, ["demo", "alice", "reader", "bob", "admin"]);
        assert!(GRANTS.iter().all(|grant| PROJECTS.contains(&grant.project)));
    }

    #[test]
    fn a_cloud_for_each_user() {
        let text = clouds("http://127.0.0.1:5000", "us-east-1");
        for grant in Grant::firsts() {
            assert!(text.contains(&format!("\n  {0}:\n    auth:\n", grant.user)), "{text}");
        }
        assert!(
            text.contains("\n      username: bob\n      password: bob\n      project_name: partner\n"),
            "{text}"
        );
    }
}
