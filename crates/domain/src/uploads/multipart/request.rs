//! What clients say of uploads in parts, read and held against what is stored.
//!
//! Threat model: the bodies are an attacker's. Every refusal names the parameter.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use uuid::Uuid;

use super::MOST_URLS;
use crate::image::StagedBytes;
use crate::input::{Checked, InvalidInput, Members, quoted, type_of};
use crate::ports::StagedPart;
use crate::transfer::TransferPlan;

/// What is asked for.
pub(super) enum PartsRequest {
    /// To begin with a file of that many bytes.
    Begin(u64),
    /// URLs of these parts of an upload that is under way.
    More(StagedBytes, Vec<u32>),
}

impl PartsRequest {
    pub(super) fn parse(body: &Value) -> Checked<Self> {
        let members = Members::of(body, "The request body", "")?;
        if let Some(upload) = upload_id(&members)? {
            if members.get("size").is_some() {
                return members
                    .refuse("size", "begins an upload, upload_id goes on with one; send one of them");
            }
            return Ok(Self::More(upload, part_numbers(&members)?));
        }
        match members.get("size") {
            None => {
                members.refuse("size", "is required: the file's bytes; or upload_id, to go on with an upload")
            }
            Some(size) => match size.as_u64() {
                Some(size) if size > 0 => Ok(Self::Begin(size)),
                _ => members.refuse("size", format!("must be a whole number from 1, not {}", shown(size))),
            },
        }
    }
}

/// What a client says of the parts that it put.
pub(super) struct Completion {
    /// The upload that it means.
    pub(super) upload: StagedBytes,
    /// Numbers and ETags, without quotes.
    parts: Vec<(u32, String)>,
    /// CRC64NVME of the whole file, base64 as S3 writes it.
    pub(super) crc64nvme: Option<String>,
}

impl Completion {
    pub(super) fn parse(body: &Value) -> Checked<Self> {
        let members = Members::of(body, "The request body", "")?;
        let Some(upload) = upload_id(&members)? else { return members.refuse("upload_id", "is required") };
        let crc64nvme = members.string("crc64nvme")?.map(str::to_owned);
        if let Some(text) = crc64nvme.as_ref().filter(|text| !is_crc64nvme(text)) {
            let told = format!("must be the 8 bytes of a CRC64NVME in base64, not {}", quoted(text));
            return members.refuse("crc64nvme", told);
        }
        let parts = match members.get("parts") {
            None => return members.refuse("parts", "is required"),
            Some(Value::Array(parts)) => parts.iter().enumerate().map(|(n, part)| said_part(n, part)),
            Some(other) => {
                return members.refuse("parts", format!("must be an array, not {}", type_of(other)));
            }
        };
        Ok(Self { upload, parts: parts.collect::<Checked<_>>()?, crc64nvme })
    }

    /// The parts in order: every one, and each once.
    fn in_order(&self, plan: &TransferPlan) -> Checked<Vec<(u32, &str)>> {
        let count = plan.parts();
        let mut parts: Vec<_> = self.parts.iter().map(|(number, etag)| (*number, etag.as_str())).collect();
        parts.sort_by_key(|(number, _)| *number);
        let refuse = |told: String| {
            Err(InvalidInput::new("parts", format!("must name each part from 1 to {count} once; {told}")))
        };
        let mut next = 1;
        for (number, _) in &parts {
            if *number == 0 || *number > count {
                return refuse(format!("there is no part {number}"));
            }
            if *number < next {
                return refuse(format!("part {number} is there twice"));
            }
            if *number > next {
                return refuse(format!("part {next} is missing"));
            }
            next += 1;
        }
        if next <= count { refuse(format!("part {next} is missing")) } else { Ok(parts) }
    }

    /// Whether the store has these parts, and in all the bytes that the upload was begun with.
    pub(super) fn check(&self, plan: &TransferPlan, stored: &[StagedPart]) -> Checked<()> {
        let refuse = |told: String| Err(InvalidInput::new("parts", told));
        for (number, etag) in self.in_order(plan)? {
            let place = stored.binary_search_by_key(&number, |part| part.number).ok();
            let Some(part) = place.and_then(|place| stored.get(place)) else {
                return refuse(format!("part {number} was not uploaded"));
            };
            if part.etag != etag {
                let (is, said) = (quoted(&part.etag), quoted(etag));
                return refuse(format!("part {number} is stored with the ETag {is}, not {said}"));
            }
        }
        check_size(plan, stored.iter().map(|part| part.size).sum())
    }
}

pub(super) fn check_size(plan: &TransferPlan, stored: u64) -> Checked<()> {
    if stored == plan.size {
        return Ok(());
    }
    let told = format!("have {stored} bytes in all, but the upload was begun with a size of {}", plan.size);
    Err(InvalidInput::new("parts", told))
}

fn shown(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        other => type_of(other).to_owned(),
    }
}

fn upload_id(members: &Members<'_>) -> Checked<Option<StagedBytes>> {
    match members.string("upload_id")? {
        None => Ok(None),
        Some(text) => match Uuid::try_parse(text) {
            Ok(id) => Ok(Some(StagedBytes(id))),
            Err(_) => members.refuse("upload_id", "is no id of an upload"),
        },
    }
}

fn part_number(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0)
}

fn part_numbers(members: &Members<'_>) -> Checked<Vec<u32>> {
    let told = format!("must be an array of 1 to {MOST_URLS} numbers of parts");
    match members.get("part_numbers") {
        None => members.refuse("part_numbers", "is required"),
        Some(Value::Array(list)) if (1..=MOST_URLS).contains(&list.len()) => {
            let numbers: Option<Vec<u32>> = list.iter().map(part_number).collect();
            numbers.map_or_else(|| members.refuse("part_numbers", told), Ok)
        }
        Some(_) => members.refuse("part_numbers", told),
    }
}

fn said_part(n: usize, part: &Value) -> Checked<(u32, String)> {
    let prefix = format!("parts[{n}].");
    let members = Members::of(part, &format!("parts[{n}]"), &prefix)?;
    let Some(number) = members.get("part_number").and_then(part_number) else {
        return members.refuse("part_number", "must be a whole number from 1");
    };
    match members.short_string("etag", 128)? {
        // S3's answer has quotes around it, which some clients take off.
        Some(etag) => Ok((number, etag.trim_matches('"').to_owned())),
        None => members.refuse("etag", "is required"),
    }
}

/// Whether that is the one way to write 8 bytes in base64 (RFC 4648).
fn is_crc64nvme(text: &str) -> bool {
    STANDARD.decode(text).is_ok_and(|bytes| bytes.len() == 8)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn completion(numbers: &[u32]) -> Completion {
        let parts = numbers.iter().map(|number| (*number, format!("e{number}"))).collect();
        Completion { upload: StagedBytes(Uuid::from_u128(1)), parts, crc64nvme: None }
    }

    #[test]
    fn every_part_is_named_once_in_any_order() {
        let plan = TransferPlan { size: 10, part_size: 4 };
        let told = |numbers: &[u32]| completion(numbers).in_order(&plan).unwrap_err().to_string();
        let begins = "parts: must name each part from 1 to 3 once; ";
        for (numbers, rest) in [
            (&[][..], "part 1 is missing"),
            (&[1, 2], "part 3 is missing"),
            (&[3, 1], "part 2 is missing"),
            (&[1, 2, 2, 3], "part 2 is there twice"),
            (&[1, 2, 3, 4], "there is no part 4"),
            (&[0, 1, 2, 3], "there is no part 0"),
        ] {
            assert_eq!(told(numbers), format!("{begins}{rest}"), "{numbers:?}");
        }
        let said = completion(&[2, 3, 1]);
        assert_eq!(said.in_order(&plan).unwrap(), [(1, "e1"), (2, "e2"), (3, "e3")]);
    }

    #[test]
    fn parts_are_the_stored_ones_and_all_of_the_file() {
        let plan = TransferPlan { size: 10, part_size: 4 };
        let stored = |sizes: [u64; 3]| {
            let part = |(size, number)| StagedPart { number, size, etag: format!("e{number}") };
            sizes.into_iter().zip(1..).map(part).collect::<Vec<_>>()
        };
        let said = completion(&[1, 2, 3]);
        said.check(&plan, &stored([4, 4, 2])).unwrap();
        let told = |stored: &[StagedPart]| said.check(&plan, stored).unwrap_err().to_string();
        assert_eq!(told(&stored([4, 4, 2])[..2]), "parts: part 3 was not uploaded");
        let mut other = stored([4, 4, 2]);
        other[1].etag = "new".into();
        assert_eq!(told(&other), r#"parts: part 2 is stored with the ETag "new", not "e2""#);
        let sizes = "parts: have 9 bytes in all, but the upload was begun with a size of 10";
        assert_eq!(told(&stored([4, 4, 1])), sizes);
    }

    #[test]
    fn a_checksum_is_written_in_one_way() {
        for (text, is) in [
            ("rosUhgp5mIg=", true),
            ("AAAAAAAAAAA=", true),
            ("++++//////8=", true),
            // The last digit says more than four bits.
            ("rosUhgp5mIh=", false),
            ("rosUhgp5mIg", false),
            ("rosUhgp5mIg==", false),
            ("rosUhgp5mI==", false),
            ("rosUhgp5-Ig=", false),
            ("", false),
            ("=", false),
        ] {
            assert_eq!(is_crc64nvme(text), is, "{text}");
        }
    }

    #[test]
    fn an_etag_has_quotes_or_not() {
        for etag in ["abc", "\"abc\""] {
            let body = json!({
                "upload_id": Uuid::from_u128(1),
                "parts": [{"part_number": 1, "etag": etag}],
            });
            assert_eq!(Completion::parse(&body).unwrap().parts, [(1, "abc".to_owned())]);
        }
    }
}
