//! `clouds.yaml` and `OS_*`: how OpenStack's clients are told where Keystone is, and who logs in.
//!
//! Facts: openstacksdk user guide, "Configuring OpenStack SDK Applications". `secure.yaml` beside `clouds.yaml` adds
//! secrets. Vendor profiles (`profile`) and `verify: false` are refused rather than passed over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::environment::Environment;
use crate::failure::Failure;
use crate::secret::Secret;

/// Members of `auth`, by the names of `clouds.yaml`. There is no `Debug`: some are secrets.
#[derive(Default, Clone)]
pub(super) struct Auth(BTreeMap<String, String>);

/// A cloud.
#[derive(Default)]
pub(super) struct Cloud {
    pub(super) auth: Auth,
    pub(super) region: Option<String>,
    pub(super) interface: Option<String>,
    /// Instead of the catalog's.
    pub(super) endpoint: Option<String>,
    /// File with certificates of authorities.
    pub(super) authorities: Option<String>,
}

impl Auth {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn secret(&self, name: &str) -> Option<Secret> {
        self.get(name).map(Secret::new)
    }

    #[cfg(test)]
    pub(super) fn of(members: &[(&str, &str)]) -> Self {
        Self(members.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }
}

/// The cloud that `OS_*` describe.
pub(super) fn of_variables(environment: &Environment, token: Option<Secret>) -> Cloud {
    let mut auth = environment.openstack();
    if let Some(token) = token {
        auth.insert("token".to_owned(), token.expose().to_owned());
    }
    Cloud {
        interface: auth.get("interface").or_else(|| auth.get("endpoint_type")).cloned(),
        endpoint: auth.get("image_endpoint_override").cloned(),
        auth: Auth(auth),
        ..Cloud::default()
    }
}

/// The cloud of that name in the first `clouds.yaml` that there is.
pub(super) fn named(name: &str, environment: &Environment) -> Result<Cloud, Failure> {
    let directories = directories(environment);
    let find = |variable: &str, file: &str| {
        let said = environment.get(variable).map(PathBuf::from);
        said.or_else(|| directories.iter().map(|directory| directory.join(file)).find(|path| path.is_file()))
    };
    let Some(path) = find("OS_CLIENT_CONFIG_FILE", "clouds.yaml") else {
        let places: Vec<_> = directories.iter().map(|directory| directory.display().to_string()).collect();
        return Err(Failure::Usage(format!("there is no clouds.yaml in {}", places.join(", "))));
    };
    let mut clouds = read(&path)?;
    let Some(mut cloud) = clouds.remove(name) else {
        let names: Vec<_> = clouds.keys().map(String::as_str).collect();
        let told = format!("{} has no cloud {name:?}, but {}", path.display(), names.join(", "));
        return Err(Failure::Usage(told));
    };
    if let Some(secure) = find("OS_CLIENT_SECURE_FILE", "secure.yaml")
        && let Some(more) = read(&secure)?.remove(name)
    {
        cloud.auth.extend(more.auth);
    }
    cloud.checked(name, environment)
}

fn directories(environment: &Environment) -> Vec<PathBuf> {
    let home = environment.get("HOME").map(|home| PathBuf::from(home).join(".config"));
    let configuration = environment.get("XDG_CONFIG_HOME").map(PathBuf::from).or(home);
    let user = configuration.map(|directory| directory.join("openstack"));
    [Some(PathBuf::from(".")), user, Some(PathBuf::from("/etc/openstack"))].into_iter().flatten().collect()
}

fn read(path: &Path) -> Result<BTreeMap<String, CloudEntry>, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::Usage(format!("{} can't be read: {error}", path.display())))?;
    // The parser's own message would quote the lines around the fault, and these hold passwords.
    let file: File = serde_saphyr::from_str(&text)
        .map_err(|_| Failure::Usage(format!("{} is not YAML as clouds.yaml has it", path.display())))?;
    Ok(file.clouds)
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    clouds: BTreeMap<String, CloudEntry>,
}

#[derive(Deserialize)]
struct CloudEntry {
    /// As texts: an unquoted password of digits is no number.
    #[serde(default)]
    auth: BTreeMap<String, Option<String>>,
    auth_type: Option<String>,
    profile: Option<Value>,
    region_name: Option<String>,
    #[serde(default)]
    regions: Vec<Value>,
    interface: Option<String>,
    endpoint_type: Option<String>,
    image_endpoint_override: Option<String>,
    cacert: Option<String>,
    verify: Option<bool>,
}

/// What may be left out of the file for the environment to say.
const FROM_ENVIRONMENT: [&str; 3] = ["password", "token", "application_credential_secret"];

impl CloudEntry {
    fn checked(self, name: &str, environment: &Environment) -> Result<Cloud, Failure> {
        let refused = |what: &str| Failure::Usage(format!("the cloud {name:?} has {what}"));
        if self.profile.is_some() {
            return Err(refused("a profile, which isn't read here: write auth_url into its auth"));
        }
        if self.verify == Some(false) {
            return Err(refused("verify: false; certificates are always verified: name yours with cacert"));
        }
        let mut auth: BTreeMap<String, String> =
            self.auth.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        if let Some(kind) = self.auth_type {
            auth.insert("auth_type".to_owned(), kind);
        }
        for (variable, value) in environment.openstack() {
            if FROM_ENVIRONMENT.contains(&variable.as_str()) {
                auth.entry(variable).or_insert(value);
            }
        }
        let first =
            self.regions.first().and_then(|region| region.as_str().or_else(|| region["name"].as_str()));
        let first = first.map(str::to_owned);
        Ok(Cloud {
            auth: Auth(auth),
            region: self.region_name.or(first),
            interface: self.interface.or(self.endpoint_type),
            endpoint: self.image_endpoint_override,
            authorities: self.cacert,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cloud(text: &str, variables: &[(&str, &str)]) -> Result<Cloud, Failure> {
        let mut file: File = serde_saphyr::from_str(text).unwrap();
        file.clouds.remove("demo").unwrap().checked("demo", &Environment::of(variables))
    }

    #[test]
    fn a_cloud_as_the_guide_writes_it() {
        let text = "
clouds:
  demo:
    auth:
      auth_url: https://keystone.example.org/v3
      username: alice
      password: 0123
      project_name: demo
    regions:
      - name: west
        values: {}
      - east
    interface: internal
    identity_api_version: 3
";
        let cloud = cloud(text, &[("OS_PASSWORD", "other"), ("OS_PROJECT_NAME", "other")]).unwrap();
        assert_eq!(cloud.region.as_deref(), Some("west"));
        assert_eq!(cloud.interface.as_deref(), Some("internal"));
        assert_eq!(cloud.auth.get("project_name"), Some("demo"));
        assert_eq!(cloud.auth.get("password"), Some("0123"));
    }

    #[test]
    fn a_password_may_come_from_the_environment() {
        let text = "clouds: {demo: {auth: {auth_url: 'https://k', username: alice}}}";
        let cloud = cloud(text, &[("OS_PASSWORD", "secret"), ("OS_USERNAME", "bob")]).unwrap();
        assert_eq!((cloud.auth.get("password"), cloud.auth.get("username")), (Some("secret"), Some("alice")));
    }

    #[test]
    fn what_is_not_done_is_refused() {
        for member in ["profile: vexxhost", "verify: false"] {
            let text = format!("clouds:\n  demo:\n    {member}\n    auth: {{}}\n");
            assert!(matches!(cloud(&text, &[]), Err(Failure::Usage(_))), "{member}");
        }
    }
}
