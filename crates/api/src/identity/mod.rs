//! Who a request comes from.
//!
//! Threat model: headers are the caller's own words. A token is believed only as far as Keystone vouches for it, and is
//! never logged. In `development` it is believed as it is, which the function refuses to start with outside a loopback
//! stack. A principal is who API Gateway authenticated; what it chose itself, its session's name, decides nothing.
//!
//! Invariant: where it can't be told who calls, nobody does: the answer is a 5xx, never another caller or 401, at which
//! clients throw good tokens away.

mod cache;
mod iam;
mod keystone;

use std::sync::Arc;

use http::request::Parts;
use image_tasks_domain::rejection::Rejection;
use image_tasks_domain::{Caller, Scope, caller};

use crate::error::ApiError;

pub use self::iam::MappedPrincipals;
pub use self::keystone::Keystone;

/// How callers are known.
#[derive(Clone)]
pub enum Identity {
    /// By `X-Auth-Token`, which Keystone is asked about.
    Keystone(Arc<Keystone>),
    /// By the principal that API Gateway's IAM authorizer found, as [`IamPrincipal`] in the request's extensions; its
    /// project and roles by the operator's map. `None`: there is one project, the account, of which all are members.
    Iam(Option<Arc<MappedPrincipals>>),
    /// By `X-Auth-Token: {user}:{project}[:{role}[,{role}...]]`.
    Development,
}

/// Whom API Gateway authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IamPrincipal {
    /// AWS account: the owner of what it makes, where principals aren't mapped.
    pub account_id: String,
    /// ARN of the user or role session.
    pub arn: String,
}

impl Identity {
    /// The caller.
    pub(crate) async fn caller(&self, request: &Parts) -> Result<Caller, ApiError> {
        match self {
            Self::Keystone(keystone) => {
                let token = request.headers.get(X_AUTH_TOKEN).and_then(|token| token.to_str().ok());
                let valid = keystone.token(token.ok_or_else(|| self.unauthenticated())?).await?;
                let valid = valid.ok_or_else(|| self.unauthenticated())?;
                project_of(&valid.scope).map_err(|scope| {
                    forbidden(format!(
                        "Your token is {scope}, but images and tasks belong to projects; ask Keystone for a token \
                         of a project"
                    ))
                })
            }
            Self::Iam(map) => {
                let principal = request.extensions.get::<IamPrincipal>();
                let IamPrincipal { account_id, arn } = principal.ok_or_else(|| self.unauthenticated())?;
                match map {
                    None => Ok(Caller {
                        user: arn.clone(),
                        project: account_id.clone(),
                        roles: vec!["member".to_owned()],
                    }),
                    Some(map) => map.projects().await?.caller(arn).ok_or_else(|| {
                        forbidden(format!(
                            "{arn} acts for no project here; the service's operator maps it to one"
                        ))
                    }),
                }
            }
            Self::Development => {
                let token = request.headers.get(X_AUTH_TOKEN).and_then(|token| token.to_str().ok());
                token.and_then(believed).ok_or_else(|| self.unauthenticated())
            }
        }
    }

    fn unauthenticated(&self) -> ApiError {
        ApiError::Unauthenticated { challenge: self.challenge().to_owned() }
    }

    /// What `WWW-Authenticate` asks for.
    fn challenge(&self) -> &str {
        match self {
            Self::Keystone(keystone) => keystone.challenge(),
            Self::Iam(_) => "AWS4-HMAC-SHA256",
            Self::Development => "X-Auth-Token realm=\"{user}:{project}[:{role},...]\"",
        }
    }
}

const X_AUTH_TOKEN: &str = "x-auth-token";

fn forbidden(told: String) -> ApiError {
    Rejection::Forbidden(told).into()
}

/// The caller that a token of a project stands for; of any other what it is.
fn project_of(scope: &Scope) -> Result<Caller, &'static str> {
    match scope {
        Scope::Project(caller) => Ok(caller.clone()),
        Scope::Domain => Err("of a domain"),
        Scope::System => Err("of the system"),
        Scope::Nothing => Err("of no project (unscoped)"),
    }
}

/// A development token's caller; without roles a `member`.
fn believed(token: &str) -> Option<Caller> {
    let name = |part: &str| caller::is_project(part).then(|| part.to_owned());
    // python-glanceclient percent-encodes a token's punctuation.
    let token = token.replace("%3A", ":").replace("%2C", ",");
    let mut parts = token.splitn(3, ':');
    let user = name(parts.next()?)?;
    let project = name(parts.next()?)?;
    let roles = match parts.next() {
        None => vec!["member".to_owned()],
        Some(roles) => roles.split(',').map(name).collect::<Option<Vec<_>>>()?,
    };
    Some(Caller { user, project, roles })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn development_tokens() {
        let alice = believed("alice:demo").unwrap();
        assert_eq!((alice.user.as_str(), alice.project.as_str(), alice.is_admin()), ("alice", "demo", false));
        assert_eq!(believed("alice%3Ademo"), Some(alice.clone()));
        assert_eq!(alice.roles, ["member"]);
        assert!(believed("root:ops:admin,member").unwrap().is_admin());
        for bad in ["", "alice", "alice:", ":demo", "alice:demo:", "alice:demo:a,,b", "al ice:demo", "a#b:c"]
        {
            assert_eq!(believed(bad), None, "{bad}");
        }
    }
}
