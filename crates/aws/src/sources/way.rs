//! The way to a source: the redirects between the location that a user names and the server that has the bytes.
//!
//! A redirector over mirrors leads each request to another one, whose validators say nothing of the first one's. So the
//! mirror that was found when a source was looked at is part of what is pinned, and it alone is asked from then on. Its
//! address may be signed and expire; then a new one is asked for, which has to be of the same mirror.
//!
//! Invariants:
//! - A login is dropped for good where a redirect leads to another origin.
//! - Validators of different origins are never compared.

use image_tasks_domain::address::AddressPolicy;
use image_tasks_domain::source::{SourceLocation, shown};
use image_tasks_domain::{Failure, FailureCode, Login};
use image_tasks_flows::ports::{SourceInfo, SourcePin};
use reqwest::Url;
use reqwest::header::{ACCEPT, HeaderValue};

use super::http::Server;
use super::{Terms, agrees, changed};

/// Redirects followed at most.
const REDIRECTS: usize = 5;

/// Where a source is said to be, and who may be connected to on the way to it.
pub(super) struct Way {
    pub(super) url: Url,
    pub(super) login: Option<Login>,
    /// What every server is asked for, where that isn't anything.
    pub(super) accept: Option<&'static str>,
    /// Addresses that may be connected to for the URL's own origin.
    pub(super) own: AddressPolicy,
    /// Those for all others.
    pub(super) others: AddressPolicy,
    pub(super) terms: Terms,
}

impl Way {
    /// The server at its end, and what that says of the source; with a pin, of that version alone.
    pub(super) async fn end(&self, pin: Option<&SourcePin>) -> Result<(Server, SourceInfo), Failure> {
        let Some(pin) = pin else { return self.walk(&self.url).await };
        let Some(SourceLocation::Http(mirror)) = &pin.mirror else {
            return self.same(self.walk(&self.url).await?, pin);
        };
        match self.walk(mirror).await {
            Err(failure) if has_expired(&failure) => self.anew(pin, failure).await,
            found => self.same(found?, pin),
        }
    }

    /// The same mirror by an address of now, where the one that was pinned is not answered any longer.
    pub(super) async fn anew(
        &self,
        pin: &SourcePin,
        failure: Failure,
    ) -> Result<(Server, SourceInfo), Failure> {
        match self.walk(&self.url).await {
            Ok(found) if self.is_same_origin(&found.1.pin, pin) => self.same(found, pin),
            Ok(_) => Err(lost(&failure.message)),
            Err(_) => Err(failure),
        }
    }

    fn same(&self, found: (Server, SourceInfo), pin: &SourcePin) -> Result<(Server, SourceInfo), Failure> {
        let has_validator = pin.etag.is_some() || pin.last_modified.is_some();
        if (pin.mirror.is_some() || has_validator) && !self.is_same_origin(&found.1.pin, pin) {
            return Err(lost(&format!("{} leads to {} now", shown(&self.origin(pin)), found.0.what)));
        }
        if agrees(&found.1, pin) { Ok(found) } else { Err(changed(&found.0.what)) }
    }

    fn is_same_origin(&self, one: &SourcePin, other: &SourcePin) -> bool {
        self.origin(one).origin() == self.origin(other).origin()
    }

    /// Where the bytes of a version are.
    fn origin(&self, pin: &SourcePin) -> Url {
        match &pin.mirror {
            Some(SourceLocation::Http(mirror)) => mirror.clone(),
            _ => self.url.clone(),
        }
    }

    /// Follows redirects from there.
    async fn walk(&self, from: &Url) -> Result<(Server, SourceInfo), Failure> {
        let mut url = from.clone();
        let mut is_away = url.origin() != self.url.origin();
        for _ in 0..=REDIRECTS {
            let (login, policy) =
                if is_away { (None, &self.others) } else { (self.login.as_ref(), &self.own) };
            let mut server = Server::at(&url, login, policy, &self.terms).await?;
            if let Some(accept) = self.accept {
                server = server.with(ACCEPT, HeaderValue::from_static(accept));
            }
            if is_away {
                server.what = format!("{} (where {} leads)", shown(&url), shown(&self.url));
            }
            let answer = server.ask(Some("bytes=0-0"), None).await?;
            if answer.status().is_redirection() {
                let next = server.next_hop(&answer)?;
                is_away |= next.origin() != url.origin();
                url = next;
                continue;
            }
            let mut info = server.info(answer).await?;
            info.pin.mirror = is_away.then_some(SourceLocation::Http(url));
            return Ok((server, info));
        }
        let message = format!("{} redirects more than {REDIRECTS} times", shown(from));
        Err(Failure::new(FailureCode::SourceInvalid, message))
    }
}

/// Whether this is what a server answers to an address that it signed for some minutes only.
pub(super) fn has_expired(failure: &Failure) -> bool {
    matches!(failure.code, FailureCode::SourceDenied | FailureCode::SourceNotFound)
}

fn lost(why: &str) -> Failure {
    let message = format!(
        "{why}: the mirror that was read first does not give the image any longer, and bytes of another one can't \
         be told from it; ask again, with os_hash_value if that is known: then another mirror may go on"
    );
    Failure::new(FailureCode::SourceUnreachable, message)
}
