//! The environment, read once.

use std::collections::BTreeMap;

use crate::secret::Secret;

/// Variables and their values. There is no `Debug`: some are secrets.
pub(crate) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// That of this process. A value that is no text is as none.
    pub(crate) fn read() -> Self {
        let texts = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self(texts.collect())
    }

    #[cfg(test)]
    pub(crate) fn of(variables: &[(&str, &str)]) -> Self {
        Self(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    /// A value; an empty one is as none, as OpenStack's clients have it.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(crate) fn secret(&self, name: &str) -> Option<Secret> {
        self.get(name).map(Secret::new)
    }

    /// Every variable of OpenStack: the name in lower case and without `OS_`, and the value.
    pub(crate) fn openstack(&self) -> BTreeMap<String, String> {
        let named = self.0.iter().filter(|(_, value)| !value.is_empty());
        named
            .filter_map(|(name, value)| Some((name.strip_prefix("OS_")?.to_ascii_lowercase(), value.clone())))
            .collect()
    }
}
