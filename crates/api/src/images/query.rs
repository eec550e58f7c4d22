//! What a list of images is asked for: filters, order, page.
//!
//! What Glance refuses is refused, by name; what it would answer with a fault, too. Any other parameter is an extra
//! property that must have that value.

use image_tasks_domain::images::{
    Comparison, Condition, Listing, NumberAttribute, Sort, SortKey, TextAttribute, TimeAttribute,
};
use image_tasks_domain::input::quoted;
use image_tasks_domain::policy::Shown;
use image_tasks_domain::{InvalidInput, MemberStatus, Timestamp, Visibility};

use crate::links::Query;

type Checked<T> = Result<T, InvalidInput>;

/// Parameters that are no filters.
const PAGING: &[&str] = &["limit", "marker", "sort", "sort_key", "sort_dir"];

/// Text attributes that may be asked for with an operator; the others are compared as they are.
const WITH_OPERATORS: &[&str] = &["id", "name", "status", "disk_format", "container_format"];

pub(super) fn listing(query: &Query) -> Checked<Listing> {
    let mut listing = Listing {
        limit: query.limit()?,
        marker: query.get("marker").map(str::to_owned),
        sort: sort(query)?,
        ..Listing::default()
    };
    for tag in query.all("tag") {
        listing.conditions.push(Condition::Tag(tag.trim().to_owned()));
    }
    for (name, value) in query.last_of_each() {
        match name {
            "tag" => {}
            _ if PAGING.contains(&name) => {}
            "visibility" => listing.shown = shown(value)?,
            "member_status" => listing.member_status = member_status(value)?,
            "os_hidden" => listing.hidden = flag(name, &value.to_ascii_lowercase())?,
            "protected" => listing.conditions.push(Condition::Protected(flag(name, value)?)),
            "changes-since" => return refuse(name, "is not offered; filter by updated_at=gt:<time>"),
            _ => listing.conditions.push(condition(name, value)?),
        }
    }
    Ok(listing)
}

fn condition(name: &str, value: &str) -> Checked<Condition> {
    if let Some(attribute) = TextAttribute::ALL.iter().find(|attribute| attribute.name() == name) {
        let values =
            if WITH_OPERATORS.contains(&name) { texts(name, value)? } else { vec![value.to_owned()] };
        return Ok(Condition::Text(*attribute, values));
    }
    for (time, attribute) in
        [("created_at", TimeAttribute::CreatedAt), ("updated_at", TimeAttribute::UpdatedAt)]
    {
        if name == time {
            let (comparison, at) = time_value(name, value)?;
            return Ok(Condition::Time(attribute, comparison, at));
        }
    }
    let (bare, comparison) = match (name.strip_suffix("_min"), name.strip_suffix("_max")) {
        (Some(bare), _) => (bare, Comparison::Gte),
        (_, Some(bare)) => (bare, Comparison::Lte),
        (None, None) => (name, Comparison::Eq),
    };
    if let Some((_, attribute)) = NumberAttribute::ALL.iter().find(|(number, _)| *number == bare) {
        let Ok(number) = value.trim().parse() else {
            return refuse(name, format!("must be a whole number, not {}", quoted(value)));
        };
        return Ok(Condition::Number(*attribute, comparison, number));
    }
    if comparison != Comparison::Eq {
        let numbers: Vec<_> = NumberAttribute::ALL.iter().map(|(number, _)| *number).collect();
        return refuse(name, format!("is a range, which only {} have", numbers.join(", ")));
    }
    Ok(Condition::Property(name.to_owned(), value.to_owned()))
}

/// `x`, `eq:x`, or `in:x,"y, z"`.
fn texts(name: &str, value: &str) -> Checked<Vec<String>> {
    match value.split_once(':') {
        None => Ok(vec![value.to_owned()]),
        Some(("eq", value)) => Ok(vec![value.to_owned()]),
        Some(("in", list)) => items(name, list),
        Some((operator, _)) => {
            let told = format!(
                "has an unknown operator {}; eq and in are known, and eq:<value> takes any value",
                quoted(operator)
            );
            refuse(name, told)
        }
    }
}

/// Items between commas. One in quotation marks may hold commas, and such marks behind a backslash.
fn items(name: &str, list: &str) -> Checked<Vec<String>> {
    let mut items = Vec::new();
    let mut rest = list;
    loop {
        let (item, after) = match rest.strip_prefix('"') {
            Some(quoted) => in_quotes(quoted).ok_or_else(|| {
                InvalidInput::new(name, "has a quotation mark that isn't closed before a comma or the end")
            })?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let (item, after) = rest.split_at(end);
                if item.contains('"') {
                    return refuse(name, "has a quotation mark within an item; quote the whole item");
                }
                (item.to_owned(), after)
            }
        };
        items.push(item);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Ok(items),
        }
    }
}

/// Reads on behind an opening mark: the item, and what follows the closing one.
fn in_quotes(text: &str) -> Option<(String, &str)> {
    let mut item = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => item.push(chars.next()?.1),
            '"' => {
                let after = text.get(at + 1..)?;
                return (after.is_empty() || after.starts_with(',')).then_some((item, after));
            }
            c => item.push(c),
        }
    }
    None
}

/// A time by itself, or behind an operator.
fn time_value(name: &str, value: &str) -> Checked<(Comparison, Timestamp)> {
    if let Some(at) = time(value) {
        return Ok((Comparison::Eq, at));
    }
    let (operator, text) = value.split_once(':').unwrap_or(("eq", value));
    let known = Comparison::ALL.iter().find(|(known, _)| *known == operator);
    match (known, time(text)) {
        (Some((_, comparison)), Some(at)) => Ok((*comparison, at)),
        (Some(_), None) => {
            refuse(name, format!("must be a time as 2026-11-18T11:06:40Z, not {}", quoted(text)))
        }
        (None, _) => {
            let names: Vec<_> = Comparison::ALL.iter().map(|(known, _)| *known).collect();
            refuse(
                name,
                format!("must be a time, or one behind {}:, not {}", names.join(":, "), quoted(value)),
            )
        }
    }
}

/// RFC 3339; without an offset it is UTC, without a time of day midnight. A plus sign in a query is a blank.
fn time(text: &str) -> Option<Timestamp> {
    let text = text.replace(' ', "+");
    [text.clone(), format!("{text}Z"), format!("{text}T00:00:00Z")].iter().find_map(|text| text.parse().ok())
}

fn shown(value: &str) -> Checked<Shown> {
    if value == "all" {
        return Ok(Shown::All);
    }
    match Visibility::from_name(value) {
        Some(visibility) => Ok(Shown::Only(visibility)),
        None => {
            let names: Vec<_> = Visibility::ALL.iter().map(|v| v.name()).collect();
            refuse("visibility", format!("must be one of {}, all, not {}", names.join(", "), quoted(value)))
        }
    }
}

fn member_status(value: &str) -> Checked<Option<MemberStatus>> {
    match (value, MemberStatus::from_name(value)) {
        ("all", _) => Ok(None),
        (_, Some(status)) => Ok(Some(status)),
        (_, None) => {
            let names: Vec<_> = MemberStatus::ALL.iter().map(|s| s.name()).collect();
            refuse(
                "member_status",
                format!("must be one of {}, all, not {}", names.join(", "), quoted(value)),
            )
        }
    }
}

fn flag(name: &str, value: &str) -> Checked<bool> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        other => refuse(name, format!("must be true or false, not {}", quoted(other))),
    }
}

/// `sort=key:dir,key,...`, or `sort_key` and `sort_dir`, each as often as wanted. Ties are broken by created_at and id.
fn sort(query: &Query) -> Checked<Vec<Sort>> {
    let old = query.all("sort_key").chain(query.all("sort_dir")).next().is_some();
    let (keys, directions): (Vec<_>, Vec<_>) = match query.get("sort") {
        Some(_) if old => return refuse("sort", "can't be combined with sort_key and sort_dir"),
        Some(list) => list.trim().split(',').map(|one| one.split_once(':').unwrap_or((one, "desc"))).unzip(),
        None => (query.all("sort_key").collect(), query.all("sort_dir").collect()),
    };
    let parameter = if old { "sort_key" } else { "sort" };
    let mut keys: Vec<SortKey> =
        keys.iter().map(|key| sort_key(parameter, key.trim())).collect::<Checked<_>>()?;
    let parameter = if old { "sort_dir" } else { "sort" };
    let directions: Vec<bool> =
        directions.iter().map(|direction| descending(parameter, direction.trim())).collect::<Checked<_>>()?;
    if keys.is_empty() {
        keys.push(SortKey::CreatedAt);
    }
    let (each, ties) = match directions.as_slice() {
        [] => (vec![true; keys.len()], true),
        [one] => (vec![*one; keys.len()], *one),
        several if several.len() == keys.len() => (several.to_vec(), true),
        several => {
            let told = format!("is given {} times for {} keys", several.len(), keys.len());
            return refuse("sort_dir", told);
        }
    };
    let mut sort: Vec<Sort> =
        keys.iter().zip(each).map(|(key, descending)| Sort { key: *key, descending }).collect();
    for key in [SortKey::CreatedAt, SortKey::Id] {
        if !keys.contains(&key) {
            sort.push(Sort { key, descending: ties });
        }
    }
    Ok(sort)
}

fn sort_key(parameter: &str, name: &str) -> Checked<SortKey> {
    match SortKey::ALL.iter().find(|(known, _)| *known == name) {
        Some((_, key)) => Ok(*key),
        None => {
            let names: Vec<_> = SortKey::ALL.iter().map(|(known, _)| *known).collect();
            refuse(parameter, format!("must be one of {}, not {}", names.join(", "), quoted(name)))
        }
    }
}

fn descending(parameter: &str, name: &str) -> Checked<bool> {
    match name {
        "desc" => Ok(true),
        "asc" => Ok(false),
        other => refuse(parameter, format!("must be one of asc, desc, not {}", quoted(other))),
    }
}

fn refuse<T>(name: &str, told: impl Into<String>) -> Checked<T> {
    Err(InvalidInput::new(name, told))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Checked<Listing> {
        listing(&Query::of(&format!("/v2/images?{query}").parse().unwrap()))
    }

    #[test]
    fn items_of_lists() {
        let list = |text: &str| items("name", text).ok();
        let some = |items: &[&str]| Some(items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>());
        assert_eq!(list("a,b"), some(&["a", "b"]));
        assert_eq!(list(r#""a,b",c"#), some(&["a,b", "c"]));
        assert_eq!(list(r#""say \"a\"""#), some(&["say \"a\""]));
        assert_eq!(list("a,,b"), some(&["a", "", "b"]));
        assert_eq!(list(""), some(&[""]));
        for bad in [r#""a"#, r#""a"b"#, r#"a"b"#, r#"a,"b"#, "\"\\"] {
            assert_eq!(list(bad), None, "{bad}");
        }
    }

    #[test]
    fn orders() {
        let order = |query: &str| {
            read(query).map(|l| l.sort.iter().map(|s| (s.key, s.descending)).collect::<Vec<_>>()).ok()
        };
        use SortKey::{CreatedAt, Id, Name, Size};
        assert_eq!(order(""), Some(vec![(CreatedAt, true), (Id, true)]));
        assert_eq!(order("sort=name:asc"), Some(vec![(Name, false), (CreatedAt, false), (Id, false)]));
        assert_eq!(
            order("sort=name:asc,size"),
            Some(vec![(Name, false), (Size, true), (CreatedAt, true), (Id, true)])
        );
        let two = Some(vec![(Name, false), (Size, true), (CreatedAt, true), (Id, true)]);
        assert_eq!(order("sort_key=name&sort_dir=asc&sort_key=size&sort_dir=desc"), two);
        assert_eq!(
            order("sort_key=name&sort_key=size&sort_dir=asc"),
            Some(vec![(Name, false), (Size, false), (CreatedAt, false), (Id, false)])
        );
        assert_eq!(order("sort_dir=asc"), Some(vec![(CreatedAt, false), (Id, false)]));
        for bad in [
            "sort=nonsense",
            "sort=name:up",
            "sort=",
            "sort=name&sort_key=size",
            "sort_key=owner",
            "sort_dir=up",
            "sort_key=name&sort_dir=asc&sort_dir=desc",
        ] {
            assert_eq!(order(bad), None, "{bad}");
        }
    }

    #[test]
    fn times() {
        for (query, comparison) in [
            ("2026-11-18T11:06:40Z", Comparison::Eq),
            ("2026-11-18T12:06:40%2B01:00", Comparison::Eq),
            ("2026-11-18T12:06:40+01:00", Comparison::Eq),
            ("2026-11-18T11:06:40", Comparison::Eq),
            ("gt:2026-11-18T11:06:40", Comparison::Gt),
            ("neq:2026-11-18T11:06:40Z", Comparison::Neq),
            ("lte:2026-11-18T11:06:40.5Z", Comparison::Lte),
        ] {
            let conditions = read(&format!("created_at={query}")).unwrap().conditions;
            let at = Timestamp::from_epoch(1_795_000_000);
            assert_eq!(conditions, [Condition::Time(TimeAttribute::CreatedAt, comparison, at)], "{query}");
        }
        assert!(read("updated_at=2026-11-18").is_ok());
        for bad in ["", "x", "gt:x", "over:2026-11-18T11:06:40Z", "gt:", "2026-11-18T25:00:00Z"] {
            assert_eq!(read(&format!("updated_at={bad}")).unwrap_err().parameter, "updated_at", "{bad}");
        }
    }
}
