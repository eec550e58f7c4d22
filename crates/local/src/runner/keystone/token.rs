//! Development tokens, and to whom one is given.

use std::fmt;

use image_tasks_local::{DOMAIN, GRANTS, Grant};
use serde_json::Value;

/// `user:project:role,...`, as the API believes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) user: String,
    pub(super) project: String,
    pub(super) roles: Vec<String>,
}

impl Token {
    /// A token as a header has it; some clients percent-encode its punctuation.
    pub(super) fn read(text: &str) -> Option<Self> {
        let text = text.replace("%3A", ":").replace("%2C", ",");
        let mut parts = text.splitn(3, ':');
        let mut part = || parts.next().filter(|part| !part.is_empty()).map(str::to_owned);
        let (user, project) = (part()?, part()?);
        let roles = part().unwrap_or_else(|| "member".to_owned());
        Some(Self { user, project, roles: roles.split(',').map(str::to_owned).collect() })
    }
}

impl From<&Grant> for Token {
    fn from(grant: &Grant) -> Self {
        let roles = grant.roles.iter().map(|role| (*role).to_owned()).collect();
        Self { user: grant.user.to_owned(), project: grant.project.to_owned(), roles }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.user, self.project, self.roles.join(","))
    }
}

/// The token for a request's `auth` and the methods that it used, or why there is none.
pub(super) fn granted(auth: &Value) -> Result<(Token, Vec<String>), String> {
    let methods = auth["identity"]["methods"].as_array().into_iter().flatten();
    let methods: Vec<String> = methods.filter_map(|method| method.as_str().map(str::to_owned)).collect();
    let user = match methods.as_slice() {
        [method] if method == "password" => known(&auth["identity"]["password"]["user"])?,
        [method] if method == "token" => {
            let token = auth["identity"]["token"]["id"].as_str().and_then(Token::read);
            token.ok_or("The token is none of this Keystone")?.user
        }
        _ => return Err("auth.identity.methods must be [\"password\"] or [\"token\"]".to_owned()),
    };
    let wanted = match &auth["scope"] {
        Value::Null => None,
        scope => {
            let project = &scope["project"];
            Some(
                named(project)
                    .ok_or("Every token here is for a project: auth.scope.project has an id or a name")?,
            )
        }
    };
    let grant = GRANTS
        .iter()
        .find(|grant| grant.user == user && wanted.is_none_or(|project| grant.project == project))
        .ok_or_else(|| format!("{user} has no role in the project {}", wanted.unwrap_or("of its own")))?;
    Ok((grant.into(), methods))
}

/// Id or name, which are one; a domain beside it must be the one that there is.
fn named(thing: &Value) -> Option<&str> {
    let domain = &thing["domain"];
    let there = [domain["id"].as_str(), domain["name"].as_str()].into_iter().flatten();
    let name = thing["id"].as_str().or_else(|| thing["name"].as_str())?;
    there.into_iter().all(|domain| domain == DOMAIN.0 || domain == DOMAIN.1).then_some(name)
}

fn known(user: &Value) -> Result<String, String> {
    let grant = named(user).and_then(Grant::of);
    match (grant, user["password"].as_str()) {
        (Some(grant), Some(password)) if password == grant.user => Ok(grant.user.to_owned()),
        _ => Err("Unknown user or wrong password: a user's password is its name".to_owned()),
    }
}
