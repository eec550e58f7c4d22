//! Connections to addresses that have been checked, and to no others.

use std::net::{IpAddr, SocketAddr};

use image_tasks_domain::address::AddressPolicy;
use image_tasks_domain::source::{SourceRefused, shown};
use image_tasks_domain::{Failure, FailureCode};
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use url::Host;

use super::{Terms, forbidden};

/// A client that connects to checked addresses of the URL's host only: its name is resolved once, here.
pub(super) async fn client(url: &Url, policy: &AddressPolicy, terms: &Terms) -> Result<Client, Failure> {
    let what = shown(url);
    let port = url.port_or_known_default().unwrap_or(0);
    let builder = Client::builder()
        .user_agent(concat!("image-tasks/", env!("CARGO_PKG_VERSION")))
        // Each hop is ours to check; and a proxy would connect for us, unchecked.
        .redirect(Policy::none())
        .no_proxy()
        .referer(false)
        .http1_only()
        .tls_certs_merge(terms.roots.clone())
        .connect_timeout(terms.patience.connect)
        .read_timeout(terms.patience.idle);
    let builder = match url.host() {
        Some(Host::Ipv4(ip)) => checked(builder, policy, ip.into(), port, &what)?,
        Some(Host::Ipv6(ip)) => checked(builder, policy, ip.into(), port, &what)?,
        Some(Host::Domain(name)) => {
            policy.check_name_port(port).map_err(|r| forbidden(&what, &r.into()))?;
            let addresses = resolve(name, port, policy, &what).await?;
            builder.resolve_to_addrs(name, &addresses)
        }
        None => return Err(forbidden(&what, &SourceRefused::NoHost)),
    };
    builder.build().map_err(|e| Failure::new(FailureCode::Internal, format!("no HTTP client: {e}")))
}

fn checked(
    builder: reqwest::ClientBuilder,
    policy: &AddressPolicy,
    address: IpAddr,
    port: u16,
    what: &str,
) -> Result<reqwest::ClientBuilder, Failure> {
    policy.check(address, port).map_err(|refused| forbidden(what, &refused.into()))?;
    Ok(builder)
}

/// The addresses of a name that may be connected to; a failure where there are none.
async fn resolve(
    name: &str,
    port: u16,
    policy: &AddressPolicy,
    what: &str,
) -> Result<Vec<SocketAddr>, Failure> {
    let found = tokio::net::lookup_host((name, port)).await.map_err(|error| {
        // getaddrinfo's EAI_AGAIN; anything else is the name's own fault (gai_strerror(3)).
        if error.to_string().contains("Temporary failure") {
            Failure::transient(format!("{what}: the name {name} can't be resolved now"))
        } else {
            let message = format!("{what}: there is no address for the name {name}");
            Failure::new(FailureCode::SourceUnreachable, message)
        }
    })?;
    let mut allowed = Vec::new();
    let mut refused = None;
    for address in found {
        match policy.check(address.ip(), port) {
            Ok(()) => allowed.push(address),
            Err(why) => refused = Some(why),
        }
    }
    match refused {
        Some(why) if allowed.is_empty() => Err(forbidden(what, &why.into())),
        _ if allowed.is_empty() => {
            let message = format!("{what}: there is no address for the name {name}");
            Err(Failure::new(FailureCode::SourceUnreachable, message))
        }
        _ => Ok(allowed),
    }
}
