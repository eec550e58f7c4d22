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

/// The one store that bytes can be uploaded to: this region's (Image service API v2, "List stores").
pub(crate) fn stores(here: &str) -> Value {
    // Texts, as Glance has them.
    json!({"stores": [{"id": here, "description": format!("Region {here}"), "default": "true"}]})
}

/// The same with what an operator wants to know of it.
pub(crate) fn stores_detail(caller: &Caller, here: &str) -> Answer<Value> {
    if !caller.is_admin() {
        return Err(Rejection::Forbidden("The stores' details are shown to the role admin".to_owned()));
    }
    let mut stores = stores(here);
    for store in stores["stores"].as_array_mut().into_iter().flatten() {
        store["type"] = json!("s3");
        store["properties"] = json!({});
        store["weight"] = json!(0);
    }
    Ok(stores)
}

/// Regions that images can be cloned from, this one first. `endpoint` is null where no list names it.
pub(crate) fn regions(regions: &Regions) -> Value {
    let region = |name: &str| {
        let listed = regions.listed().iter().find(|region| region.name == name);
        json!({"id": name, "endpoint": listed.map(|region| &region.endpoint), "here": name == regions.here()})
    };
    json!({"regions": regions.names().into_iter().map(region).collect::<Vec<_>>()})
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
