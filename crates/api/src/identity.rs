//! Who a request comes from.
//!
//! Threat model: headers are the caller's own words. They are believed only in
//! `development`, which the function refuses to start with outside a loopback
//! stack; otherwise the caller is who API Gateway authenticated.

use http::request::Parts;
use image_tasks_domain::Caller;

/// How callers are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// By the principal that API Gateway's IAM authorizer found, as [`IamPrincipal`] in the request's extensions.
    Iam,
    /// By `X-Auth-Token: {user}:{project}[:{role}[,{role}...]]`.
    Development,
}

/// Whom API Gateway authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IamPrincipal {
    /// AWS account: the owner of what it makes.
    pub account_id: String,
    /// ARN of the user or role session.
    pub arn: String,
}

impl Identity {
    /// The caller, if known.
    pub(crate) fn caller(self, request: &Parts) -> Option<Caller> {
        match self {
            Self::Iam => {
                let principal = request.extensions.get::<IamPrincipal>()?;
                Some(Caller {
                    user: principal.arn.clone(),
                    project: principal.account_id.clone(),
                    roles: vec!["member".to_owned()],
                })
            }
            Self::Development => believed(request.headers.get("x-auth-token")?.to_str().ok()?),
        }
    }

    /// What `WWW-Authenticate` asks for.
    pub(crate) const fn challenge(self) -> &'static str {
        match self {
            Self::Iam => "AWS4-HMAC-SHA256",
            Self::Development => "X-Auth-Token realm=\"{user}:{project}[:{role},...]\"",
        }
    }
}

/// A development token's caller; without roles a `member`.
fn believed(token: &str) -> Option<Caller> {
    let name = |part: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@');
        ((1..=64).contains(&part.len()) && part.bytes().all(plain)).then(|| part.to_owned())
    };
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

    fn parts(token: Option<&str>) -> Parts {
        let mut request = http::Request::new(());
        if let Some(token) = token {
            request.headers_mut().insert("x-auth-token", token.parse().unwrap());
        }
        request.into_parts().0
    }

    #[test]
    fn development_tokens() {
        let alice = Identity::Development.caller(&parts(Some("alice:demo"))).unwrap();
        assert_eq!((alice.user.as_str(), alice.project.as_str(), alice.is_admin()), ("alice", "demo", false));
        assert_eq!(Identity::Development.caller(&parts(Some("alice%3Ademo"))), Some(alice.clone()));
        assert_eq!(alice.roles, ["member"]);
        let root = Identity::Development.caller(&parts(Some("root:ops:admin,member"))).unwrap();
        assert!(root.is_admin());
        for bad in ["", "alice", "alice:", ":demo", "alice:demo:", "alice:demo:a,,b", "al ice:demo", "a#b:c"]
        {
            assert_eq!(Identity::Development.caller(&parts(Some(bad))), None, "{bad}");
        }
        assert_eq!(Identity::Development.caller(&parts(None)), None);
    }

    #[test]
    fn a_token_is_no_iam_identity() {
        let mut request = parts(Some("root:ops:admin"));
        assert_eq!(Identity::Iam.caller(&request), None);
        let arn = "arn:aws:iam::123456789012:user/alice";
        request.extensions.insert(IamPrincipal { account_id: "123456789012".into(), arn: arn.into() });
        let caller = Identity::Iam.caller(&request).unwrap();
        assert_eq!((caller.project.as_str(), caller.user.as_str()), ("123456789012", arn));
        assert!(!caller.is_admin());
    }
}
