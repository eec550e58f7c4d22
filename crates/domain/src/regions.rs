//! The regions of one cloud, as each deployment knows them.
//!
//! Invariants:
//! - Names are unique, and so are endpoints: a URL leads to one region.
//! - The own region is always known by its name; by its endpoint only where it is listed.

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use crate::source::is_bucket_name;

/// A region of the cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// AWS's name for it: `eu-west-1`.
    #[serde(rename = "region")]
    pub name: String,
    /// Scheme and host that clients see, no trailing slash.
    pub endpoint: String,
    /// Bucket of its image objects.
    pub images_bucket: String,
    /// Its DynamoDB table of images: the name, or the ARN where it is another account's.
    pub images_table: String,
}

/// The regions, and which of them this one is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Regions {
    here: String,
    listed: Vec<Region>,
}

impl Regions {
    /// All that are listed, which may include this one.
    ///
    /// # Errors
    /// What is wrong with the list.
    pub fn new(here: impl Into<String>, mut listed: Vec<Region>) -> Result<Self, String> {
        for (i, region) in listed.iter_mut().enumerate() {
            let name = &region.name;
            if name.is_empty()
                || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            {
                return Err(format!("entry {} has no region such as eu-west-1", i + 1));
            }
            region.endpoint = origin(&region.endpoint)
                .ok_or_else(|| format!("the endpoint of {name} must be http(s)://host[:port] and no more"))?;
            if !is_bucket_name(&region.images_bucket) {
                return Err(format!("the images_bucket of {name} is not a bucket name"));
            }
            if !is_table(&region.images_table, name) {
                return Err(format!(
                    "the images_table of {name} is neither a table's name nor a table's ARN in {name}"
                ));
            }
        }
        for (i, region) in listed.iter().enumerate() {
            if listed.iter().skip(i + 1).any(|r| r.name == region.name || r.endpoint == region.endpoint) {
                return Err(format!("region {} or its endpoint is listed twice", region.name));
            }
        }
        Ok(Self { here: here.into(), listed })
    }

    /// A list as an operator writes it: a JSON array; an empty text is an empty list.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_json(here: impl Into<String>, text: &str) -> Result<Self, String> {
        let listed = match text.trim() {
            "" => Vec::new(),
            text => serde_json::from_str(text).map_err(|e| format!("it is no list of regions: {e}"))?,
        };
        Self::new(here, listed)
    }

    /// Name of this region.
    pub fn here(&self) -> &str {
        &self.here
    }

    /// Those listed.
    pub fn listed(&self) -> &[Region] {
        &self.listed
    }

    /// Names of all, this one first.
    pub fn names(&self) -> Vec<&str> {
        let others = self.listed.iter().map(|r| r.name.as_str()).filter(|name| *name != self.here);
        std::iter::once(self.here.as_str()).chain(others).collect()
    }

    /// The region that answers at an origin, in any spelling.
    pub fn at(&self, origin_text: &str) -> Option<&Region> {
        let origin = origin(origin_text)?;
        self.listed.iter().find(|region| region.endpoint == origin)
    }
}

/// An origin in its one spelling: lower case, without the scheme's own port.
fn origin(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.host().is_some_and(|host| !matches!(host, Host::Domain("")))
        && url.username().is_empty()
        && url.password().is_none()
        && matches!(url.path(), "" | "/")
        && url.query().is_none()
        && url.fragment().is_none();
    plain.then(|| url.origin().ascii_serialization())
}

/// A name, or `arn:aws:dynamodb:region:account:table/name` in that region: DynamoDB takes both (API reference, `GetItem`).
fn is_table(text: &str, region: &str) -> bool {
    match text.split(':').collect::<Vec<_>>().as_slice() {
        [name] => is_table_name(name),
        ["arn", partition, "dynamodb", there, account, table] => {
            partition.starts_with("aws")
                && *there == region
                && account.len() == 12
                && account.bytes().all(|b| b.is_ascii_digit())
                && table.strip_prefix("table/").is_some_and(is_table_name)
        }
        _ => false,
    }
}

/// DynamoDB developer guide, "Naming rules": 3 to 255 of these characters.
fn is_table_name(text: &str) -> bool {
    (3..=255).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str, endpoint: &str) -> Region {
        Region {
            name: name.into(),
            endpoint: endpoint.into(),
            images_bucket: "images-bucket".into(),
            images_table: "images".into(),
        }
    }

    #[test]
    fn a_region_is_found_by_every_spelling_of_its_origin() {
        let listed =
            vec![region("eu-west-1", "https://Images.EU.example.com/"), region("us-east-1", "http://x:9292")];
        let regions = Regions::new("us-east-1", listed).unwrap();
        assert_eq!(regions.names(), ["us-east-1", "eu-west-1"]);
        for origin in ["https://images.eu.example.com", "https://IMAGES.eu.example.com:443/"] {
            assert_eq!(regions.at(origin).map(|r| r.name.as_str()), Some("eu-west-1"), "{origin}");
        }
        for origin in [
            "http://images.eu.example.com",
            "https://images.eu.example.com:8443",
            "https://u@images.eu.example.com",
            "https://images.eu.example.com.evil",
            "x",
        ] {
            assert_eq!(regions.at(origin), None, "{origin}");
        }
        assert_eq!(Regions::new("us-east-1", vec![]).unwrap().names(), ["us-east-1"]);
    }

    #[test]
    fn a_list_that_means_two_things_is_refused() {
        let good = || region("eu-west-1", "https://a.example");
        for (list, part) in [
            (vec![region("", "https://a.example")], "entry 1"),
            (vec![region("EU", "https://a.example")], "entry 1"),
            (vec![region("eu-west-1", "ftp://a.example")], "endpoint of eu-west-1"),
            (vec![region("eu-west-1", "https://a.example/v2")], "endpoint of eu-west-1"),
            (vec![Region { images_bucket: "No".into(), ..good() }], "images_bucket"),
            (vec![Region { images_table: "x y z".into(), ..good() }], "images_table"),
            (vec![good(), region("eu-west-1", "https://b.example")], "twice"),
            (vec![good(), region("eu-west-2", "https://a.example:443/")], "twice"),
        ] {
            let refused = Regions::new("us-east-1", list).unwrap_err();
            assert!(refused.contains(part), "{refused}");
        }
        for (table, taken) in [
            ("arn:aws:dynamodb:eu-west-1:123456789012:table/images", true),
            ("arn:aws:dynamodb:eu-west-2:123456789012:table/images", false),
            ("arn:aws:dynamodb:eu-west-1:1:table/images", false),
            ("arn:aws:dynamodb:eu-west-1:123456789012:table/images/index/x", false),
            ("arn:aws:s3:eu-west-1:123456789012:table/images", false),
        ] {
            let list = vec![Region { images_table: table.into(), ..good() }];
            assert_eq!(Regions::new("us-east-1", list).is_ok(), taken, "{table}");
        }
        let json = r#"[{"region":"eu-west-1","endpoint":"https://a.example","images_bucket":"images-bucket","images_table":"images"}]"#;
        assert_eq!(Regions::from_json("us-east-1", json), Regions::new("us-east-1", vec![good()]));
        assert_eq!(Regions::from_json("us-east-1", " "), Regions::new("us-east-1", vec![]));
        for text in ["x", "{}", "[5]", r#"[{"region":"eu-west-1"}]"#, &json.replace("region", "regoin")] {
            assert!(
                Regions::from_json("us-east-1", text).unwrap_err().starts_with("it is no list"),
                "{text}"
            );
        }
    }
}
