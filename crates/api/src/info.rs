//! `/v2/info`: what the service has, for clients that choose.

use image_tasks_domain::regions::Regions;
use serde_json::{Value, json};

/// A store for each region that images can be cloned from, this one first (Image service API v2, "List stores").
pub(crate) fn stores(regions: &Regions) -> Value {
    let store = |name: &str| {
        let endpoint =
            regions.listed().iter().find(|region| region.name == name).map(|r| r.endpoint.as_str());
        let description = match endpoint {
            Some(endpoint) => format!("Region {name}, {endpoint}"),
            None => format!("Region {name}"),
        };
        let mut store = json!({"id": name, "description": description});
        if name == regions.here() {
            store["default"] = Value::Bool(true);
        }
        store
    };
    json!({"stores": regions.names().into_iter().map(store).collect::<Vec<_>>()})
}
