//! A login at Keystone.
//!
//! Facts: Identity API v3, "Authentication and token management". The token is the header `X-Subject-Token` of a 201;
//! the catalog is in its body.

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use super::clouds::Auth;
use crate::failure::Failure;
use crate::secret::Secret;

/// How long Keystone may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who logs in where, and the token of the last time.
pub(crate) struct Login {
    tokens: String,
    auth: Auth,
    method: Method,
    region: Option<String>,
    interface: String,
    token: Option<Secret>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Password,
    Token,
    ApplicationCredential,
}

impl Login {
    pub(super) fn new(
        auth: &Auth,
        region: Option<String>,
        interface: Option<String>,
    ) -> Result<Self, Failure> {
        let Some(url) = auth.get("auth_url") else {
            return Err(Failure::Usage("auth_url is missing: the address of Keystone".to_owned()));
        };
        let url = url.trim_end_matches('/');
        let url = if url.ends_with("/v3") { url.to_owned() } else { format!("{url}/v3") };
        // `public`, or with the ending of Identity v2: `publicURL`.
        let interface = interface.as_deref().unwrap_or("public").trim_end_matches("URL").to_owned();
        let method = method_of(auth)?;
        Ok(Self {
            tokens: format!("{url}/auth/tokens"),
            auth: auth.clone(),
            method,
            region,
            interface,
            token: None,
        })
    }

    /// The token of the last login.
    pub(crate) fn token(&self) -> Result<&Secret, Failure> {
        self.token.as_ref().ok_or_else(|| Failure::Usage("there is no login yet".to_owned()))
    }

    /// Logs in. The inner result is the endpoint that the catalog has, or why it has none.
    pub(crate) async fn renew(&mut self, client: &Client) -> Result<Result<String, Failure>, Failure> {
        let body = self.request()?.to_string();
        let request =
            client.post(&self.tokens).header(CONTENT_TYPE, "application/json").timeout(PATIENCE).body(body);
        let unreachable = |error: reqwest::Error| {
            Failure::Unreachable(format!("Keystone can't be reached: {}", crate::service::causes(&error)))
        };
        let answer = request.send().await.map_err(unreachable)?;
        let (status, token) = (answer.status(), answer.headers().get("x-subject-token").cloned());
        let body: Value =
            serde_json::from_slice(&answer.bytes().await.map_err(unreachable)?).unwrap_or_default();
        if status != StatusCode::CREATED {
            let what = format!("{} answered {status}", self.tokens);
            return Err(match body["error"]["message"].as_str() {
                _ if status.is_server_error() => Failure::Unreachable(what),
                Some(told) => Failure::Told(told.to_owned()),
                None => Failure::Usage(format!("{what}: is that a Keystone v3?")),
            });
        }
        let token = token.as_ref().and_then(|token| token.to_str().ok());
        let Some(token) = token else {
            return Err(Failure::Unreachable(format!("{} answered 201 without a token", self.tokens)));
        };
        self.token = Some(Secret::new(token));
        Ok(self.endpoint(&body["token"]["catalog"]))
    }

    /// Body of the login.
    fn request(&self) -> Result<Value, Failure> {
        let secret = |name: &str| {
            let missing = || Failure::Usage(format!("{name} is missing (OS_{})", name.to_uppercase()));
            self.auth.secret(name).ok_or_else(missing)
        };
        let identity = match self.method {
            Method::Password => {
                let mut user = self.user()?;
                user["password"] = json!(secret("password")?.expose());
                json!({"methods": ["password"], "password": {"user": user}})
            }
            Method::Token => json!({"methods": ["token"], "token": {"id": secret("token")?.expose()}}),
            Method::ApplicationCredential => {
                let mut credential = match self.auth.get("application_credential_id") {
                    Some(id) => json!({"id": id}),
                    None => {
                        json!({"name": self.auth.get("application_credential_name"), "user": self.user()?})
                    }
                };
                credential["secret"] = json!(secret("application_credential_secret")?.expose());
                // Its project is the credential's own: a scope beside it is refused.
                let identity =
                    json!({"methods": ["application_credential"], "application_credential": credential});
                return Ok(json!({"auth": {"identity": identity}}));
            }
        };
        let mut auth = json!({"identity": identity});
        if let Some(project) = self.thing("project") {
            auth["scope"] = json!({"project": project});
        }
        Ok(json!({"auth": auth}))
    }

    fn user(&self) -> Result<Value, Failure> {
        let name = self.auth.get("username").map(|name| json!({"name": name, "domain": self.domain("user")}));
        let user = self.auth.get("user_id").map(|id| json!({"id": id})).or(name);
        user.ok_or_else(|| Failure::Usage("username is missing (OS_USERNAME)".to_owned()))
    }

    /// Id or name in its domain.
    fn thing(&self, kind: &str) -> Option<Value> {
        let said = |what: &str| self.auth.get(&format!("{kind}_{what}"));
        let name = || said("name").map(|name| json!({"name": name, "domain": self.domain(kind)}));
        said("id").map(|id| json!({"id": id})).or_else(name)
    }

    /// The domain of the user or the project; `Default` as of a new Keystone where nothing is said.
    fn domain(&self, of: &str) -> Value {
        let said = |name: &str| {
            self.auth.get(&format!("{of}_domain_{name}")).or_else(|| match name {
                "id" => self.auth.get("default_domain_id").or_else(|| self.auth.get("default_domain")),
                _ => None,
            })
        };
        match (said("name"), said("id")) {
            (Some(name), _) => json!({"name": name}),
            (None, Some(id)) => json!({"id": id}),
            (None, None) => json!({"id": "default"}),
        }
    }

    /// The endpoint of type `image`, in the region that was asked for or else the first.
    fn endpoint(&self, catalog: &Value) -> Result<String, Failure> {
        let services = catalog.as_array().into_iter().flatten().filter(|service| service["type"] == "image");
        let endpoints: Vec<&Value> = services
            .flat_map(|service| service["endpoints"].as_array().into_iter().flatten())
            .filter(|endpoint| endpoint["interface"] == self.interface.as_str())
            .collect();
        let is_there = |endpoint: &&&Value| {
            self.region
                .as_deref()
                .is_none_or(|name| endpoint["region_id"] == name || endpoint["region"] == name)
        };
        let found = endpoints.iter().find(is_there).and_then(|endpoint| endpoint["url"].as_str());
        found.map(str::to_owned).ok_or_else(|| {
            let mut regions: Vec<_> =
                endpoints.iter().filter_map(|endpoint| endpoint["region"].as_str()).collect();
            regions.dedup();
            Failure::Usage(match &self.region {
                Some(region) if !regions.is_empty() => {
                    format!("the catalog has no image service in {region}, but in {}", regions.join(", "))
                }
                _ if self.auth_is_unscoped() => "the catalog is empty: the login names no project \
                     (project_name or OS_PROJECT_NAME)"
                    .to_owned(),
                _ => format!("the catalog has no {} endpoint of type image: give --endpoint", self.interface),
            })
        })
    }

    fn auth_is_unscoped(&self) -> bool {
        self.method != Method::ApplicationCredential && self.thing("project").is_none()
    }
}

/// What `auth_type` says, or else what there is.
fn method_of(auth: &Auth) -> Result<Method, Failure> {
    match auth.get("auth_type") {
        Some("v3password" | "password") => Ok(Method::Password),
        Some("v3token" | "token") => Ok(Method::Token),
        Some("v3applicationcredential") => Ok(Method::ApplicationCredential),
        Some(other) => Err(Failure::Usage(format!(
            "auth_type {other:?} isn't known: v3password, v3token and v3applicationcredential are"
        ))),
        None if auth.get("application_credential_secret").is_some() => Ok(Method::ApplicationCredential),
        None if auth.get("token").is_some() && auth.get("password").is_none() => Ok(Method::Token),
        None => Ok(Method::Password),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(members: &[(&str, &str)], region: Option<&str>) -> Login {
        let url = [("auth_url", "https://keystone.example.org/")];
        Login::new(&Auth::of(&[&url, members].concat()), region.map(str::to_owned), None).unwrap()
    }

    #[test]
    fn a_password_with_names() {
        let login = login(
            &[
                ("username", "alice"),
                ("password", "secret"),
                ("project_name", "demo"),
                ("user_domain_name", "Default"),
                ("project_domain_id", "default"),
            ],
            None,
        );
        assert_eq!(login.tokens, "https://keystone.example.org/v3/auth/tokens");
        let user = json!({"name": "alice", "domain": {"name": "Default"}, "password": "secret"});
        assert_eq!(
            login.request().unwrap(),
            json!({"auth": {
                "identity": {"methods": ["password"], "password": {"user": user}},
                "scope": {"project": {"name": "demo", "domain": {"id": "default"}}},
            }})
        );
    }

    #[test]
    fn an_application_credential_has_its_own_scope() {
        let id = [("application_credential_id", "abc"), ("application_credential_secret", "s")];
        let request = login(&[&id[..], &[("project_name", "demo")]].concat(), None).request().unwrap();
        assert_eq!(
            request["auth"]["identity"]["application_credential"],
            json!({"id": "abc", "secret": "s"})
        );
        assert!(request["auth"].get("scope").is_none());
        let name = [("application_credential_name", "ci"), id[1], ("user_id", "u")];
        let request = login(&name, None).request().unwrap();
        let credential = &request["auth"]["identity"]["application_credential"];
        assert_eq!(*credential, json!({"name": "ci", "user": {"id": "u"}, "secret": "s"}));
    }

    #[test]
    fn a_token_is_scoped_anew() {
        let request = login(&[("token", "t"), ("project_id", "p")], None).request().unwrap();
        let expected = json!({
            "identity": {"methods": ["token"], "token": {"id": "t"}}, "scope": {"project": {"id": "p"}},
        });
        assert_eq!(request["auth"], expected);
    }

    #[test]
    fn a_missing_member_is_named() {
        let told = login(&[("username", "alice")], None).request().unwrap_err().to_string();
        assert_eq!(told, "image-tasks: password is missing (OS_PASSWORD)");
        let told = Login::new(&Auth::of(&[]), None, None).err().unwrap().to_string();
        assert!(told.contains("auth_url"), "{told}");
    }

    #[test]
    fn the_catalog_is_asked_by_type_interface_and_region() {
        let endpoint = |interface, region, url| json!({"interface": interface, "region": region, "url": url});
        let catalog = json!([
            {"type": "identity", "endpoints": [endpoint("public", "west", "https://keystone")]},
            {"type": "image", "endpoints": [
                endpoint("internal", "west", "https://internal"),
                endpoint("public", "west", "https://west"),
                endpoint("public", "east", "https://east"),
            ]},
        ]);
        let asked = |region| login(&[], region).endpoint(&catalog);
        assert_eq!(asked(None).unwrap(), "https://west");
        assert_eq!(asked(Some("east")).unwrap(), "https://east");
        let told = asked(Some("mars")).unwrap_err().to_string();
        assert_eq!(told, "image-tasks: the catalog has no image service in mars, but in west, east");
    }
}
