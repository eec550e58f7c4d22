//! What Keystone says of a token.
//!
//! Threat model: Keystone is the operator's and is believed. Still, each member that is used is checked: the project
//! becomes part of keys, and an answer of something else at Keystone's address must make nobody a caller.
//!
//! Facts: Identity API v3, "Validate and show information for token".

use serde::Deserialize;

use crate::caller::{self, Caller};
use crate::time::Timestamp;

/// Most characters of a token that Keystone is asked about. Fernet tokens have some 250, JWS tokens some 800; what is
/// longer doesn't fit into a header field of common servers (8 KiB a field in Apache, gunicorn, nginx).
pub const MOST_TOKEN: usize = 4096;

/// A token that Keystone vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeystoneToken {
    /// What it is good for.
    pub scope: Scope,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// What a token is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// A project: its user, with the roles that it has there.
    Project(Caller),
    /// A domain.
    Domain,
    /// The system, Keystone's word for all of a cloud.
    System,
    /// Nothing but asking for another token.
    Nothing,
}

impl KeystoneToken {
    /// From the body of Keystone's answer.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        let Document { token } = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let scope = match (token.project, token.domain, token.system) {
            (Some(project), None, None) => {
                if !caller::is_project(&project.id) {
                    return Err("the project's id is not 1 to 64 of A-Z a-z 0-9 - _ . @".to_owned());
                }
                if token.user.id.is_empty() || token.user.id.len() > 255 {
                    return Err("the user's id has not 1 to 255 bytes".to_owned());
                }
                Scope::Project(Caller {
                    user: token.user.id,
                    project: project.id,
                    // As oslo.policy compares them: older clouds have a role `Member`.
                    roles: token.roles.into_iter().map(|role| role.name.to_lowercase()).collect(),
                })
            }
            (None, Some(_), None) => Scope::Domain,
            (None, None, Some(_)) => Scope::System,
            (None, None, None) => Scope::Nothing,
            _ => return Err("the token has more than one scope".to_owned()),
        };
        let expires_at = token.expires_at.parse().map_err(|_| "expires_at is no time".to_owned())?;
        Ok(Self { scope, expires_at })
    }
}

#[derive(Deserialize)]
struct Document {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    user: WithId,
    expires_at: String,
    project: Option<WithId>,
    domain: Option<serde::de::IgnoredAny>,
    system: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    roles: Vec<Role>,
}

#[derive(Deserialize)]
struct WithId {
    id: String,
}

#[derive(Deserialize)]
struct Role {
    name: String,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// As keystone 30.0.0 answered, with `nocatalog`.
    fn answer() -> Value {
        json!({"token": {
            "methods": ["password"],
            "user": {"domain": {"id": "default", "name": "Default"}, "id": "6ad133a5b9c54107b7199aff5f2ffdcb",
                "name": "alice", "password_expires_at": null},
            "audit_ids": ["OgIqhqv5S7ebHa7Zl7oZIg"],
            "expires_at": "2026-11-26T14:09:13.000000Z", "issued_at": "2026-11-26T13:09:13.000000Z",
            "project": {"domain": {"id": "default", "name": "Default"},
                "id": "307d79d2e3b94247899982392bb757e7", "name": "demo"},
            "is_domain": false,
            "roles": [{"id": "480629a179304c099c5c098a06850978", "name": "Member"},
                {"id": "bda08ab8e17f41fbbcfafa801b9ad35e", "name": "reader"}]
        }})
    }

    /// The answer with a member of its token replaced; a null is taken for none, as Keystone's clients do.
    fn with(changes: &[(&str, Value)]) -> Result<KeystoneToken, String> {
        let mut answer = answer();
        for (name, value) in changes {
            answer["token"][*name] = value.clone();
        }
        KeystoneToken::parse(answer.to_string().as_bytes())
    }

    #[test]
    fn a_token_of_a_project_is_a_caller() {
        let token = with(&[]).unwrap();
        assert_eq!(token.expires_at.to_string(), "2026-11-26T14:09:13Z");
        let Scope::Project(caller) = token.scope else { panic!("{token:?}") };
        assert_eq!(caller.user, "6ad133a5b9c54107b7199aff5f2ffdcb");
        assert_eq!(caller.project, "307d79d2e3b94247899982392bb757e7");
        assert_eq!(caller.roles, ["member", "reader"]);
    }

    #[test]
    fn other_scopes_are_told_apart() {
        let scope = |changes: &[(&str, Value)]| {
            let mut all = vec![("project", Value::Null)];
            all.extend(changes.iter().cloned());
            with(&all).unwrap().scope
        };
        assert_eq!(scope(&[("domain", json!({"id": "default"}))]), Scope::Domain);
        assert_eq!(scope(&[("system", json!({"all": true}))]), Scope::System);
        assert_eq!(scope(&[("roles", Value::Array(Vec::new()))]), Scope::Nothing);
    }

    #[test]
    fn what_is_no_token_makes_no_caller() {
        for (name, value) in [
            ("expires_at", json!("tomorrow")),
            ("expires_at", Value::Null),
            ("user", json!({})),
            ("user", json!({"id": ""})),
            ("user", json!({"id": "u".repeat(256)})),
            ("project", json!({"id": ""})),
            ("project", json!({"id": "a/b"})),
            ("project", json!({"id": "p".repeat(65)})),
            ("project", json!("demo")),
            ("roles", json!([{"id": "x"}])),
            ("domain", json!({"id": "default"})),
        ] {
            assert!(with(&[(name, value.clone())]).is_err(), "{name}: {value}");
        }
        for body in ["", "{}", "[]", "null", "<html>", r#"{"token": {}}"#] {
            assert!(KeystoneToken::parse(body.as_bytes()).is_err(), "{body}");
        }
    }
}
