//! `/v2/info`: what the service has, for clients that choose.

use image_tasks_domain::Caller;
use image_tasks_domain::image_import::METHODS;
use image_tasks_domain::images::Usage;
use image_tasks_domain::regions::Regions;
use image_tasks_domain::rejection::{Answer, Rejection};
use serde_json::{Value, json};

/// The methods that POST to an image's `import` takes (Image service API v2, "Import methods and values discovery").
pub(crate) fn import() -> Value {
    json!({"import-methods": {"description": "Import methods available.", "type": "array", "value": METHODS}})
}

/// A store for each region that images can be cloned from, this one first (Image service API v2, "List stores").
/// Images are made in this one alone; the others can only be read.
pub(crate) fn stores(regions: &Regions) -> Value {
    let store = |name: &str| {
        let endpoint =
            regions.listed().iter().find(|region| region.name == name).map(|r| r.endpoint.as_str());
        let description = match endpoint {
            Some(endpoint) => format!("Region {name}, {endpoint}"),
            None => format!("Region {name}"),
        };
        // Texts, as Glance has them.
        let kind = if name == regions.here() { "default" } else { "read-only" };
        json!({"id": name, "description": description, (kind): "true"})
    };
    json!({"stores": regions.names().into_iter().map(store).collect::<Vec<_>>()})
}

/// The same with what an operator wants to know of each.
pub(crate) fn stores_detail(caller: &Caller, regions: &Regions) -> Answer<Value> {
    if !caller.is_admin() {
        return Err(Rejection::Forbidden("The stores' details are shown to the role admin".to_owned()));
    }
    let mut stores = stores(regions);
    for store in stores["stores"].as_array_mut().into_iter().flatten() {
        store["type"] = json!("s3");
        store["properties"] = json!({});
        store["weight"] = json!(0);
    }
    Ok(stores)
}

/// What a project uses and may use, with Glance's names and units: MiB of sizes; -1 is no limit.
pub(crate) fn usage(usage: Usage, quota: usize) -> Value {
    let of = |limit: Value, usage: u64| json!({"limit": limit, "usage": usage});
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    json!({"usage": {
        "image_count_total": of(json!(quota), count(usage.images)),
        "image_count_uploading": of(json!(-1), count(usage.importing)),
        "image_size_total": of(json!(-1), usage.bytes >> 20),
        "image_stage_total": of(json!(-1), 0),
    }})
}
