//! Who the caller is, and where the service is.
//!
//! Goal: the identities that people have already (OpenStack's variables and `clouds.yaml`, AWS profiles, a token in
//! hand) become one [`Session`]. What each may do is the service's to decide.

mod clouds;
mod keystone;
mod signature;

use reqwest::Url;

use crate::arguments::Global;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::secret::Secret;

pub(crate) use keystone::Login;
pub(crate) use signature::Signer;

/// What a request is sent with, and where.
pub(crate) struct Session {
    /// Address of the service, without `/v2` and without a slash at its end.
    pub(crate) endpoint: String,
    pub(crate) credential: Credential,
    /// Certificates of authorities beside the public ones, PEM.
    pub(crate) authorities: Option<Vec<u8>>,
}

/// What shows a request to be the caller's.
pub(crate) enum Credential {
    /// A token that can't be renewed here.
    Token(Secret),
    /// A login: where its token isn't taken any more, there is a new one for the asking.
    Login(Box<Login>),
    /// A signature for each request. The token beside it is for a Glance elsewhere that is cloned from.
    Signature { signer: Box<Signer>, token: Option<Secret> },
}

const NONE: &str = "it isn't known who you are: give --endpoint and --token, or --os-cloud, or set OS_AUTH_URL and the \
     variables beside it, or give --endpoint and --sigv4 (see --help)";

/// The identity that the arguments and the environment say.
pub(crate) async fn session(global: &Global, environment: &Environment) -> Result<Session, Failure> {
    let endpoint = global.endpoint.as_deref().or_else(|| environment.get("IMAGE_TASKS_ENDPOINT"));
    let endpoint = endpoint.map(base_of).transpose()?;
    let token = global.token.clone().or_else(|| environment.secret("OS_TOKEN"));
    let region = global.region.as_deref();
    let authorities = environment.get("OS_CACERT").map(read).transpose()?;
    if global.sigv4 || global.aws_profile.is_some() {
        let why = "--sigv4 needs the address of the service: --endpoint or IMAGE_TASKS_ENDPOINT";
        let endpoint = endpoint.ok_or_else(|| Failure::Usage(why.to_owned()))?;
        let signer = Signer::new(&endpoint, region, global.aws_profile.as_deref()).await?;
        let credential = Credential::Signature { signer: Box::new(signer), token };
        return Ok(Session { endpoint, credential, authorities });
    }
    let cloud = global.os_cloud.as_deref().or_else(|| environment.get("OS_CLOUD"));
    let cloud = match (endpoint, token, cloud) {
        // A cloud that is named on this command line is meant, whatever token lies about.
        (Some(endpoint), Some(token), _) if global.os_cloud.is_none() => {
            return Ok(Session { endpoint, credential: Credential::Token(token), authorities });
        }
        (endpoint, _, Some(name)) => clouds::Cloud { endpoint, ..clouds::named(name, environment)? },
        (endpoint, token, None) if environment.get("OS_AUTH_URL").is_some() => {
            let cloud = clouds::of_variables(environment, token);
            clouds::Cloud { endpoint: endpoint.or(cloud.endpoint), ..cloud }
        }
        (Some(_), None, None) => {
            let why =
                "there is an endpoint, but no identity: give --token, --os-cloud or --sigv4 (see --help)";
            return Err(Failure::Usage(why.to_owned()));
        }
        _ => return Err(Failure::Usage(NONE.to_owned())),
    };
    let region = region.or_else(|| environment.get("OS_REGION_NAME")).map(str::to_owned).or(cloud.region);
    let authorities = match cloud.authorities {
        Some(path) => Some(read(&path)?),
        None => authorities,
    };
    let mut login = Login::new(&cloud.auth, region, cloud.interface)?;
    let client = crate::service::client(authorities.as_deref())?;
    let endpoint = match (login.renew(&client).await?, cloud.endpoint) {
        (_, Some(endpoint)) => base_of(&endpoint)?,
        (offered, None) => base_of(&offered?)?,
    };
    Ok(Session { endpoint, credential: Credential::Login(Box::new(login)), authorities })
}

fn read(path: &str) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::Usage(format!("{path} can't be read: {error}")))
}

/// An address as people and catalogs write it, without slash and version at its end.
fn base_of(address: &str) -> Result<String, Failure> {
    let url = Url::parse(address).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let Some(url) = url.filter(|url| url.has_host() && url.query().is_none() && url.fragment().is_none())
    else {
        return Err(Failure::Usage(format!("the endpoint must be an http or https URL, not {address:?}")));
    };
    let base = url.as_str().trim_end_matches('/');
    let base = match base.rsplit_once('/') {
        Some((before, "v2")) => before,
        Some((before, last)) if last.strip_prefix("v2.").is_some_and(|minor| minor.parse::<u8>().is_ok()) => {
            before
        }
        _ => base,
    };
    Ok(base.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_the_service_not_a_version() {
        for address in [
            "https://x.org/image",
            "https://x.org/image/",
            "https://x.org/image/v2/",
            "https://x.org/image/v2.17",
        ] {
            assert_eq!(base_of(address).unwrap(), "https://x.org/image");
        }
        assert_eq!(base_of("http://127.0.0.1:9292").unwrap(), "http://127.0.0.1:9292");
        for bad in ["x.org", "ftp://x.org", "https://x.org?a=b", ""] {
            assert!(base_of(bad).is_err(), "{bad}");
        }
    }
}
