//! Manifests: which layer has the disk.
//!
//! | what is there | what is taken |
//! |---|---|
//! | an index of several platforms | the manifest of the one that is asked for, or the only one |
//! | a container image | its largest layer: the disk is a file in the folder `disk` of it |
//! | an artifact of one file | that file |

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::input::quoted;
use crate::sums::SourceHash;

/// Most bytes of a manifest: what the distribution specification says that registries take at least.
pub const MAX_MANIFEST: usize = 4 << 20;
/// Names that a message shows.
const SHOWN: usize = 8;

/// What a manifest leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifest {
    /// Another manifest, of a platform.
    Platform(SourceHash),
    /// The layer with the disk.
    Layer {
        /// Its digest.
        digest: SourceHash,
        /// Its bytes.
        size: u64,
        /// What is in it.
        content: Content,
    },
}

/// What a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// The image itself.
    File,
    /// Files of a container, of which the one in the folder `disk` is the image.
    Files,
}

/// Why no disk is found by a manifest: what was found, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OciRefused {
    /// More than [`MAX_MANIFEST`].
    #[error("is a manifest of more than {MAX_MANIFEST} bytes")]
    TooLong,
    /// Not what it should be.
    #[error("is no manifest of an OCI or Docker image: {0}")]
    NotAManifest(String),
    /// An index of no such platform.
    #[error(
        "has no image for {wanted}, but for {found}; say image_properties.architecture, or name one by its digest"
    )]
    NoPlatform {
        /// What was looked for.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// A container image of nothing.
    #[error("is a container image without layers; put the disk into it as /disk/NAME")]
    NoLayers,
    /// Nothing, or several files.
    #[error("is an artifact of {0} files; push the disk by itself, or in a container image as /disk/NAME")]
    Files(usize),
    /// An algorithm that isn't verified here.
    #[error("names {0}, which is no digest that is verified here; sha256 and sha512 are")]
    Digest(String),
}

/// A manifest or an index: clients may leave out the `mediaType` that tells one from the other.
///
/// These are the members that matter here. The crate of OCI's types would bring 17 others, for members that don't.
#[derive(Deserialize)]
struct Document {
    manifests: Option<Vec<Descriptor>>,
    layers: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

/// Reads a manifest. `architecture` is Glance's name of a processor, as `image_properties.architecture` has it.
///
/// # Errors
/// [`OciRefused`] where it doesn't lead to a disk.
pub fn read(bytes: &[u8], architecture: Option<&str>) -> Result<Manifest, OciRefused> {
    if bytes.len() > MAX_MANIFEST {
        return Err(OciRefused::TooLong);
    }
    let document = serde_json::from_slice(bytes).map_err(|e| OciRefused::NotAManifest(e.to_string()))?;
    match document {
        Document { manifests: Some(manifests), layers: None, .. } => platform(&manifests, architecture),
        Document { manifests: None, layers: Some(layers), config } => layer(config.as_ref(), &layers),
        Document { .. } => Err(OciRefused::NotAManifest("it has neither layers nor manifests".to_owned())),
    }
}

fn platform(manifests: &[Descriptor], architecture: Option<&str>) -> Result<Manifest, OciRefused> {
    // Attestations are listed beside the images that they are of, for a platform that is none.
    let is_image = |manifest: &&Descriptor| manifest.platform.as_ref().is_none_or(|of| of.os != "unknown");
    let images: Vec<_> = manifests.iter().filter(is_image).collect();
    let wanted = architecture.map(processor);
    let fits = |manifest: &&&Descriptor| {
        let of = manifest.platform.as_ref();
        of.is_some_and(|of| of.os == "linux" && wanted.is_none_or(|wanted| wanted == of.architecture))
    };
    let mut fitting = images.iter().filter(fits);
    let chosen = match (images.as_slice(), wanted, fitting.next(), fitting.next()) {
        ([only], None, _, _) => only,
        (_, _, Some(one), None) => one,
        // Variants of one processor are alike to a disk; where none is asked for there is no telling.
        (_, Some(_), Some(one), Some(_)) => one,
        _ => return Err(no_platform(&images, wanted)),
    };
    Ok(Manifest::Platform(digest(chosen)?))
}

fn no_platform(images: &[&Descriptor], wanted: Option<&str>) -> OciRefused {
    let found: BTreeSet<_> = images.iter().filter_map(|manifest| manifest.platform.as_ref()).collect();
    let found: Vec<_> =
        found.into_iter().take(SHOWN).map(|of| quoted(&format!("{}/{}", of.os, of.architecture))).collect();
    OciRefused::NoPlatform {
        wanted: wanted.map_or_else(|| "one platform alone".to_owned(), |wanted| format!("linux/{wanted}")),
        found: if found.is_empty() { "none".to_owned() } else { found.join(", ") },
    }
}

/// OCI names processors as Go does.
fn processor(glance: &str) -> &str {
    match glance {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "i686" | "i386" => "386",
        other => other,
    }
}

fn layer(config: Option<&Descriptor>, layers: &[Descriptor]) -> Result<Manifest, OciRefused> {
    let (layer, content) = if config.is_some_and(is_of_container) {
        let largest = layers.iter().max_by_key(|layer| layer.size);
        (largest.ok_or(OciRefused::NoLayers)?, Content::Files)
    } else if let [only] = layers {
        (only, Content::File)
    } else {
        return Err(OciRefused::Files(layers.len()));
    };
    Ok(Manifest::Layer { digest: digest(layer)?, size: layer.size, content })
}

/// What its configuration says it is, since tools give any media type to an artifact's files.
fn is_of_container(config: &Descriptor) -> bool {
    matches!(
        config.media_type.as_str(),
        "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json"
    )
}

fn digest(of: &Descriptor) -> Result<SourceHash, OciRefused> {
    SourceHash::from_digest(&of.digest).ok_or_else(|| OciRefused::Digest(quoted(&of.digest)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const OCI: &str = "application/vnd.oci.image";

    fn part(media_type: &str, digit: &str, size: u64) -> Value {
        json!({"mediaType": media_type, "digest": format!("sha256:{}", digit.repeat(64)), "size": size})
    }

    fn manifest(config: &str, layers: &[Value]) -> Value {
        json!({"schemaVersion": 2, "config": part(config, "c", 2), "layers": layers})
    }

    fn index(platforms: &[(&str, &str, &str)]) -> Value {
        let of = |(os, processor, digit): &(&str, &str, &str)| {
            let mut manifest = part(&format!("{OCI}.manifest.v1+json"), digit, 5);
            if !os.is_empty() {
                manifest["platform"] = json!({"os": os, "architecture": processor});
            }
            manifest
        };
        json!({"schemaVersion": 2, "manifests": platforms.iter().map(of).collect::<Vec<_>>()})
    }

    fn found(manifest: &Value, architecture: Option<&str>) -> Result<Manifest, String> {
        read(manifest.to_string().as_bytes(), architecture).map_err(|refused| refused.to_string())
    }

    fn sha256(digit: &str) -> SourceHash {
        SourceHash::Sha256(digit.repeat(64))
    }

    #[test]
    fn the_largest_layer_of_a_container_or_the_one_file() {
        let layers = [part(&format!("{OCI}.layer.v1.tar+gzip"), "b", 8), part("application/x-note", "a", 9)];
        for config in ["application/vnd.docker.container.image.v1+json", &format!("{OCI}.config.v1+json")] {
            let layer = Manifest::Layer { digest: sha256("a"), size: 9, content: Content::Files };
            assert_eq!(found(&manifest(config, &layers), None), Ok(layer), "{config}");
        }
        for config in ["application/vnd.oci.empty.v1+json", "application/vnd.unknown.config.v1+json"] {
            let layer = Manifest::Layer { digest: sha256("a"), size: 9, content: Content::File };
            for name in ["application/vnd.example.qcow2", &format!("{OCI}.layer.v1.tar")] {
                let manifest = manifest(config, &[part(name, "a", 9)]);
                assert_eq!(found(&manifest, None), Ok(layer.clone()), "{config} {name}");
            }
        }
    }

    #[test]
    fn one_platform_of_several() {
        let both = index(&[("linux", "amd64", "a"), ("linux", "arm64", "b"), ("unknown", "unknown", "e")]);
        assert_eq!(found(&both, Some("x86_64")), Ok(Manifest::Platform(sha256("a"))));
        assert_eq!(found(&both, Some("aarch64")), Ok(Manifest::Platform(sha256("b"))));
        for one in [
            index(&[("linux", "s390x", "a"), ("unknown", "unknown", "e")]),
            index(&[("", "", "a")]),
            index(&[("windows", "amd64", "b"), ("linux", "amd64", "a")]),
        ] {
            assert_eq!(found(&one, None), Ok(Manifest::Platform(sha256("a"))), "{one}");
        }
        let told = found(&both, None).unwrap_err();
        assert!(told.starts_with(
            "has no image for one platform alone, but for \"linux/amd64\", \"linux/arm64\"; say"
        ));
        let told = found(&both, Some("riscv64")).unwrap_err();
        assert!(told.starts_with("has no image for linux/riscv64, but for \"linux/amd64\""), "{told}");
    }

    #[test]
    fn what_leads_to_no_disk_is_told() {
        let empty = "application/vnd.oci.empty.v1+json";
        let file = part("application/octet-stream", "a", 9);
        let mut odd = file.clone();
        odd["digest"] = json!(format!("sha384:{}", "a".repeat(96)));
        for (manifest, words) in [
            (json!({}), "is no manifest of an OCI or Docker image: it has neither"),
            (json!({"layers": 5}), "is no manifest of an OCI or Docker image: "),
            (json!({"layers": [], "manifests": []}), "it has neither layers nor manifests"),
            (manifest(empty, &[]), "is an artifact of 0 files"),
            (manifest(&format!("{OCI}.config.v1+json"), &[]), "is a container image without layers"),
            (
                manifest(empty, &[file.clone(), file.clone()]),
                "is an artifact of 2 files; push the disk by itself",
            ),
            (manifest(empty, &[odd]), "names \"sha384:"),
            (index(&[]), "but for none"),
        ] {
            let told = found(&manifest, None).unwrap_err();
            assert!(told.contains(words), "{words}: {told}");
        }
        let mut bad = file;
        bad["digest"] = json!("sha256:../../x");
        assert!(found(&manifest(empty, &[bad]), None).unwrap_err().starts_with("names \"sha256:../"));
        assert_eq!(read(&vec![b' '; MAX_MANIFEST + 1], None), Err(OciRefused::TooLong));
    }
}
