//! An image id given twice: what outlives a cancelled import touches nothing of the next one.

use image_tasks_e2e::{Tenant, pause};
use image_tasks_local::{Content, Source, SourceServer};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// Two parts, so that the object is made of an upload.
const FIRST: u64 = 110 * MIB;

fn raw(seed: u64, length: u64) -> Source {
    Source::new(Content::Pattern { seed, length })
}

fn input(url: &str, id: &str) -> Value {
    json!({"import_from": url, "import_from_format": "raw", "image_properties": {"id": id}})
}

/// When the first import's worker goes on: seen from the second import.
#[derive(Clone, Copy)]
enum Released {
    Before,
    Beside,
    After,
}

#[tokio::test]
async fn a_cancelled_imports_late_worker_changes_nothing_of_the_next_image_with_its_id() {
    let tenant = Tenant::new("same-id");
    for n in 0..10u64 {
        let released = [Released::Before, Released::Beside, Released::After][usize::try_from(n % 3).unwrap()];
        let id = uuid::Uuid::new_v4().to_string();
        let (servers, seeds) =
            ((SourceServer::start().await.unwrap(), SourceServer::start().await.unwrap()), (50 + n, 80 + n));
        let held = Source { hold_at: Some((5 + 10 * n) * MIB), ..raw(seeds.0, FIRST) };
        let first = tenant.import(input(&servers.0.serve("/first", held), &id)).await;
        while servers.0.bodies_now() == 0 {
            pause().await;
        }
        let cancel = format!("/v2/tasks/{}/cancel", first["id"].as_str().unwrap());
        assert_eq!(tenant.request(Method::POST, &cancel, None).await.status(), StatusCode::ACCEPTED);
        let first = tenant.ended(&first).await;
        assert_eq!(first["message"], "Cancelled: cancelled by tester", "{first}");
        if let Released::Before = released {
            servers.0.release();
        }
        // By turns made in one call and in parts.
        let size = if n % 2 == 0 { 3 * MIB } else { FIRST };
        let second = tenant.import(input(&servers.1.serve("/second", raw(seeds.1, size)), &id)).await;
        if let Released::Beside = released {
            servers.0.release();
        }
        let second = tenant.ended(&second).await;
        assert_eq!(second["status"], "success", "{n}: {second}");
        servers.0.release();
        while servers.0.bodies_now() > 0 {
            pause().await;
        }
        let image = tenant.get(&format!("/v2/images/{id}")).await.body;
        tenant.is_pattern(&image, seeds.1, size).await;
        let place = |task: &Value| format!("images/{id}/{}", task["id"].as_str().unwrap());
        tenant.nothing_under(tenant.stack.images_bucket(), &place(&first)).await;
        assert_eq!(tenant.object_key(&image).await, place(&second), "{n}");
    }
}
