//! Which principal of IAM acts for which project, with which roles, as the operator maps them.
//!
//! Threat model: a caller chooses its session's name, so that never counts; whoever may make roles or users chooses
//! their names and paths, so an account is compared with the name, and both exactly, without patterns.
//!
//! Facts: IAM user guide, "IAM identifiers": a role's name is unique in its account whatever its path, and the ARN of
//! an assumed role has no path. API Gateway gives `arn:aws:iam::{account}:user/{path}{name}` or
//! `arn:aws:sts::{account}:assumed-role/{role}/{session}`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::caller::{self, Caller};
use crate::input::quoted;

/// Roles that mean something here.
const ROLES: [&str; 3] = ["admin", "member", "reader"];

/// The map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IamProjects(BTreeMap<Principal, Mapped>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mapped {
    project: String,
    roles: Vec<String>,
}

/// Who may be mapped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Principal {
    /// An IAM user, by its whole ARN.
    User(String),
    /// A role, whatever its path and session.
    Role { partition: String, account: String, name: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    principal: String,
    project: String,
    roles: Vec<String>,
}

impl IamProjects {
    /// From a JSON list of `principal` (the ARN of a user or a role), `project` and `roles`.
    ///
    /// # Errors
    /// What is wrong with it. A map that is wrong anywhere maps nobody.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let entries: Vec<Entry> = serde_json::from_str(text)
            .map_err(|error| format!("it is no JSON list of principal, project and roles: {error}"))?;
        let mut map = BTreeMap::new();
        for Entry { principal: arn, project, roles } in entries {
            let principal = Principal::mapped(&arn)
                .ok_or_else(|| format!("{} is the ARN of neither a user nor a role", quoted(&arn)))?;
            if !caller::is_project(&project) {
                let shape = "1 to 64 of A-Z a-z 0-9 - _ . @";
                return Err(format!("the project of {arn} is {}, not {shape}", quoted(&project)));
            }
            if roles.is_empty() || !roles.iter().all(|role| ROLES.contains(&role.as_str())) {
                return Err(format!("the roles of {arn} are not one or more of admin, member, reader"));
            }
            if map.insert(principal, Mapped { project, roles }).is_some() {
                return Err(format!("{arn} is there twice; a role's path doesn't tell it from another"));
            }
        }
        Ok(Self(map))
    }

    /// The caller that a principal is, by the ARN that API Gateway gives. Its user is that ARN.
    pub fn caller(&self, arn: &str) -> Option<Caller> {
        let Mapped { project, roles } = self.0.get(&Principal::calling(arn)?)?;
        Some(Caller { user: arn.to_owned(), project: project.clone(), roles: roles.clone() })
    }
}

impl Principal {
    /// As an operator names it.
    fn mapped(arn: &str) -> Option<Self> {
        match parts(arn)? {
            ("iam", partition, account, resource) => match resource.split_once('/')? {
                ("user", _) => Some(Self::User(arn.to_owned())),
                ("role", path_and_name) => {
                    let name = path_and_name.rsplit('/').next()?;
                    Self::role(partition, account, name)
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// As it calls.
    fn calling(arn: &str) -> Option<Self> {
        match parts(arn)? {
            ("iam", _, _, resource) if resource.starts_with("user/") => Some(Self::User(arn.to_owned())),
            ("sts", partition, account, resource) => {
                let (name, session) = resource.strip_prefix("assumed-role/")?.split_once('/')?;
                (!session.is_empty()).then(|| Self::role(partition, account, name))?
            }
            _ => None,
        }
    }

    fn role(partition: &str, account: &str, name: &str) -> Option<Self> {
        let (partition, account) = (partition.to_owned(), account.to_owned());
        (!name.is_empty()).then(|| Self::Role { partition, account, name: name.to_owned() })
    }
}

/// Service, partition, account and resource of an ARN of IAM or STS.
fn parts(arn: &str) -> Option<(&str, &str, &str, &str)> {
    let mut parts = arn.splitn(6, ':');
    let (prefix, partition, service) = (parts.next()?, parts.next()?, parts.next()?);
    let (region, account, resource) = (parts.next()?, parts.next()?, parts.next()?);
    let is_account = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
    let plain = resource.bytes().all(|b| b.is_ascii_graphic() && b != b'*' && b != b'?');
    let named = resource.rsplit('/').next().is_some_and(|name| !name.is_empty());
    (prefix == "arn" && !partition.is_empty() && region.is_empty() && is_account && plain && named)
        .then_some((service, partition, account, resource))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = r#"[
        {"principal": "arn:aws:iam::123456789012:user/team/alice", "project": "demo", "roles": ["member"]},
        {"principal": "arn:aws:iam::123456789012:role/Builder", "project": "builds", "roles": ["member"]},
        {"principal": "arn:aws:iam::123456789012:role/aws-reserved/sso.amazonaws.com/Ops_1a2b", "project": "ops",
         "roles": ["admin", "member"]}
    ]"#;

    fn project(arn: &str) -> Option<String> {
        IamProjects::from_json(MAP).unwrap().caller(arn).map(|caller| caller.project)
    }

    #[test]
    fn users_are_compared_by_their_arn_and_roles_by_account_and_name() {
        for (arn, expected) in [
            ("arn:aws:iam::123456789012:user/team/alice", Some("demo")),
            ("arn:aws:iam::123456789012:user/alice", None),
            ("arn:aws:iam::123456789012:user/team/Alice", None),
            ("arn:aws:iam::123456789012:user/team/alice/", None),
            ("arn:aws:iam::210987654321:user/team/alice", None),
            ("arn:aws:sts::123456789012:assumed-role/Builder/any", Some("builds")),
            ("arn:aws:sts::123456789012:assumed-role/Builder/Ops_1a2b", Some("builds")),
            ("arn:aws:sts::123456789012:assumed-role/builder/any", None),
            ("arn:aws:sts::123456789012:assumed-role/Builder2/any", None),
            ("arn:aws:sts::123456789012:assumed-role/other/Builder", None),
            ("arn:aws:sts::210987654321:assumed-role/Builder/any", None),
            ("arn:aws-cn:sts::123456789012:assumed-role/Builder/any", None),
            ("arn:aws:sts::123456789012:assumed-role/Builder", None),
            ("arn:aws:sts::123456789012:assumed-role/Builder/", None),
            ("arn:aws:sts::123456789012:assumed-role/Ops_1a2b/jane@example.com", Some("ops")),
            ("arn:aws:iam::123456789012:role/Builder", None),
            ("arn:aws:sts::123456789012:federated-user/Builder", None),
            ("arn:aws:iam::123456789012:root", None),
            ("", None),
        ] {
            assert_eq!(project(arn).as_deref(), expected, "{arn}");
        }
    }

    #[test]
    fn a_mapped_caller_has_the_roles_of_the_map_and_its_own_name() {
        let arn = "arn:aws:sts::123456789012:assumed-role/Ops_1a2b/jane@example.com";
        let caller = IamProjects::from_json(MAP).unwrap().caller(arn).unwrap();
        assert_eq!((caller.user.as_str(), caller.is_admin()), (arn, true));
        assert_eq!(caller.roles, ["admin", "member"]);
    }

    #[test]
    fn a_map_that_is_wrong_anywhere_is_refused_with_what_is_wrong() {
        let entry = |principal: &str, project: &str, roles: &str| {
            format!(r#"[{{"principal": "{principal}", "project": "{project}", "roles": {roles}}}]"#)
        };
        let role = "arn:aws:iam::123456789012:role/A";
        let twice = format!(
            r#"[{{"principal": "{role}", "project": "a", "roles": ["member"]}},
                {{"principal": "arn:aws:iam::123456789012:role/path/A", "project": "b", "roles": ["admin"]}}]"#
        );
        for (text, told) in [
            (String::new(), "no JSON list"),
            ("{}".to_owned(), "no JSON list"),
            (entry(role, "a", r#""member""#), "no JSON list"),
            (entry(role, "a", r#"["member"], "more": 1"#), "no JSON list"),
            (entry("arn:aws:iam::123456789012:role/*", "a", r#"["member"]"#), "neither a user nor a role"),
            (entry("arn:aws:iam::123456789012:role/", "a", r#"["member"]"#), "neither a user nor a role"),
            (entry("arn:aws:iam::123456789012:group/A", "a", r#"["member"]"#), "neither a user nor a role"),
            (entry("arn:aws:iam::12345:user/a", "a", r#"["member"]"#), "neither a user nor a role"),
            (
                entry("arn:aws:sts::123456789012:assumed-role/A/s", "a", r#"["member"]"#),
                "neither a user nor a role",
            ),
            (entry(role, "", r#"["member"]"#), "the project of"),
            (entry(role, "a/b", r#"["member"]"#), "the project of"),
            (entry(role, "a", "[]"), "the roles of"),
            (entry(role, "a", r#"["Admin"]"#), "the roles of"),
            (twice, "is there twice"),
        ] {
            let refused = IamProjects::from_json(&text).unwrap_err();
            assert!(refused.contains(told), "{text}: {refused}");
        }
        assert_eq!(IamProjects::from_json("[]"), Ok(IamProjects::default()));
    }
}
