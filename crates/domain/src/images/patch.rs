//! `PATCH /v2/images/{id}`: JSON patches of one level, in the two dialects that Images v2 has.
//!
//! Threat model: the body is an attacker's. All of it is read before any of it is done.

use std::collections::btree_map::Entry;

use serde_json::{Map, Value, json};

use crate::caller::Caller;
use crate::image::{Image, ImageStatus};
use crate::image_properties::{ATTRIBUTES, ImageProperties, is_services_own};
use crate::input::{Checked, InvalidInput, Members, quoted, type_of};
use crate::policy;
use crate::rejection::{Answer, Rejection};

/// Most changes of one patch.
const MOST: usize = 1000;

/// How a change is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `{"replace": "/name", "value": "x"}`. Here `add` makes what isn't there, and only that.
    V20,
    /// `{"op": "replace", "path": "/name", "value": "x"}`, as RFC 6902 has it.
    V21,
}

/// Changes of an image, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    dialect: Dialect,
    changes: Vec<Change>,
}

#[derive(Debug, Clone, PartialEq)]
struct Change {
    name: String,
    operation: Operation,
}

#[derive(Debug, Clone, PartialEq)]
enum Operation {
    Add(Value),
    Replace(Value),
    Remove,
}

impl Patch {
    /// Reads a patch.
    ///
    /// # Errors
    /// Invalid what is no patch, or sets an attribute to what it can't be; forbidden what the service decides.
    pub fn parse(body: &Value, dialect: Dialect) -> Answer<Self> {
        let Value::Array(list) = body else {
            let told = format!("must be an array of changes, not {}", type_of(body));
            return Err(InvalidInput::new("The request body", told).into());
        };
        if list.len() > MOST {
            return Err(Rejection::TooLarge(format!("A patch has at most {MOST} changes")));
        }
        let changes = list.iter().enumerate().map(|(n, change)| Change::parse(n, change, dialect));
        Ok(Self { dialect, changes: changes.collect::<Answer<_>>()? })
    }

    /// Does it.
    ///
    /// # Errors
    /// Forbidden what the caller or the image's state doesn't allow; a conflict where a property to be replaced or
    /// removed isn't there.
    pub fn apply(&self, caller: &Caller, image: &mut Image) -> Answer<()> {
        self.changes.iter().try_for_each(|change| change.apply(self.dialect, caller, image))
    }
}

impl Change {
    fn parse(n: usize, change: &Value, dialect: Dialect) -> Answer<Self> {
        let at = format!("[{n}]");
        let Value::Object(members) = change else {
            return Err(InvalidInput::new(at, format!("must be an object, not {}", type_of(change))).into());
        };
        let (op, pointer) = match dialect {
            Dialect::V21 => (text(members, &at, "op")?, text(members, &at, "path")?),
            Dialect::V20 => {
                let ops: Vec<_> = OPERATIONS.iter().filter(|op| members.contains_key(**op)).collect();
                match ops.as_slice() {
                    [op] => (**op, text(members, &at, op)?),
                    _ => {
                        let told = format!("must have exactly one member of {}", OPERATIONS.join(", "));
                        return Err(InvalidInput::new(at, told).into());
                    }
                }
            }
        };
        let name = attribute_of(pointer)
            .ok_or_else(|| InvalidInput::new(&at, format!("{} is no attribute's path", quoted(pointer))))?;
        let value = || {
            let none = || InvalidInput::new(&at, format!("{op} needs a member named value"));
            members.get("value").cloned().ok_or_else(none)
        };
        let operation = match op {
            "add" => Operation::Add(value()?),
            "replace" => Operation::Replace(value()?),
            "remove" => Operation::Remove,
            other => {
                let told = format!("op must be one of {}, not {}", OPERATIONS.join(", "), quoted(other));
                return Err(InvalidInput::new(at, told).into());
            }
        };
        check_settable(&name)?;
        let change = Self { name, operation };
        change.said()?;
        Ok(change)
    }

    /// The new value, read by the attribute's own rule.
    fn said(&self) -> Checked<Option<ImageProperties>> {
        match &self.operation {
            Operation::Remove => Ok(None),
            Operation::Add(value) | Operation::Replace(value) => {
                let said = json!({(self.name.as_str()): value});
                ImageProperties::of(&Members::of(&said, "", "")?).map(Some)
            }
        }
    }

    fn apply(&self, dialect: Dialect, caller: &Caller, image: &mut Image) -> Answer<()> {
        let (name, said) = (&self.name, self.said()?);
        let conflict = |told: &str| Err(Rejection::Conflict(format!("Property {name} {told}")));
        if ATTRIBUTES.contains(&name.as_str()) {
            return match (said, &self.operation) {
                (None, _) => Err(Rejection::Forbidden(format!("Attribute '{name}' can't be removed"))),
                (Some(_), Operation::Add(_)) if dialect == Dialect::V20 => conflict("is there already"),
                (Some(said), _) => set(image, name, said, caller),
            };
        }
        let value = said.and_then(|mut said| said.extra.remove(name));
        match (image.properties.entry(name.clone()), value, &self.operation) {
            (Entry::Occupied(_), Some(_), Operation::Add(_)) if dialect == Dialect::V20 => {
                conflict("is there already")
            }
            (Entry::Occupied(mut there), Some(value), _) => {
                there.insert(value);
                Ok(())
            }
            (Entry::Occupied(there), None, _) => {
                there.remove();
                Ok(())
            }
            (Entry::Vacant(place), Some(value), Operation::Add(_)) => {
                place.insert(value);
                Ok(())
            }
            (Entry::Vacant(_), ..) => conflict("is not there"),
        }
    }
}

const OPERATIONS: &[&str] = &["add", "remove", "replace"];

/// Sets an attribute to what was said of it.
fn set(image: &mut Image, name: &str, said: ImageProperties, caller: &Caller) -> Answer<()> {
    let is_made = image.status != ImageStatus::Queued;
    match name {
        "disk_format" | "container_format" if is_made => {
            let told = format!("Attribute '{name}' can only be changed while the image is queued");
            return Err(Rejection::Forbidden(told));
        }
        "disk_format" => image.disk_format = said.disk_format.map(str::to_owned),
        "container_format" => image.container_format = said.container_format.map(str::to_owned),
        "min_disk" => image.min_disk = said.min_disk,
        "min_ram" => image.min_ram = said.min_ram,
        "name" => image.name = said.name,
        "os_hidden" => image.os_hidden = said.os_hidden,
        "protected" => image.protected = said.protected,
        "tags" => image.tags = said.tags.into_iter().collect(),
        "owner" => {
            if !caller.is_admin() {
                return Err(Rejection::Forbidden("Only an admin may change an image's owner".to_owned()));
            }
            image.owner = said.owner.unwrap_or_else(|| image.owner.clone());
        }
        "visibility" => {
            let wanted = said.visibility.unwrap_or(image.visibility);
            if wanted != image.visibility {
                policy::check_visibility(caller, wanted)?;
            }
            image.visibility = wanted;
        }
        // `id`: refused before.
        _ => {}
    }
    Ok(())
}

/// Whether callers set that member of an image at all.
pub(super) fn check_settable(name: &str) -> Answer<()> {
    if is_services_own(name) || matches!(name, "id" | "location") {
        return Err(Rejection::Forbidden(format!("Attribute '{name}' is read-only")));
    }
    Ok(())
}

fn text<'a>(members: &'a Map<String, Value>, at: &str, name: &str) -> Checked<&'a str> {
    match members.get(name) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(InvalidInput::new(at, format!("{name} must be a string, not {}", type_of(other)))),
        None => Err(InvalidInput::new(at, format!("has no member named {name}"))),
    }
}

/// The one name that a JSON pointer (RFC 6901) leads to; `None` where it leads deeper, or nowhere.
fn attribute_of(pointer: &str) -> Option<String> {
    let token = pointer.strip_prefix('/')?;
    let mut rest = token;
    while let Some((_, after)) = rest.split_once('~') {
        rest = after.strip_prefix(['0', '1'])?;
    }
    let is_one = !token.is_empty() && !token.contains('/');
    is_one.then(|| token.replace("~1", "/").replace("~0", "~"))
}

#[cfg(test)]
mod tests;
