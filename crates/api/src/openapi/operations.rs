//! What each method of each route does.

use super::operation::{Holds, Operation, Takes};
use super::parameters;
use crate::router::Route;

/// What a method does there; `None` where it isn't taken.
pub(super) fn operation(path: &str, route: Route<'_>, method: &str) -> Option<Operation> {
    match route {
        Route::Tasks | Route::Task(_) | Route::TaskCancel(_) => of_tasks(route, method),
        Route::Images
        | Route::Image(_)
        | Route::ImageFile(_)
        | Route::ImageStage(_)
        | Route::ImageUpload(_)
        | Route::ImageUploadComplete(_)
        | Route::ImageImport(_)
        | Route::ImageTasks(_)
        | Route::ImageTag(..)
        | Route::ImageDeactivate(_)
        | Route::ImageReactivate(_) => of_images(route, method),
        Route::ImageMembers(_) | Route::ImageMember(..) => of_members(route, method),
        Route::Healthcheck
        | Route::Versions(_)
        | Route::OpenApi
        | Route::ImportInfo
        | Route::Stores
        | Route::StoresDetail
        | Route::Regions
        | Route::Usage
        | Route::Schema(_)
        | Route::MetadefSchema(_) => of_service(path, route, method),
    }
}

fn of_tasks(route: Route<'_>, method: &str) -> Option<Operation> {
    let does = |id, summary| Operation::new("tasks", id, summary);
    Some(match (route, method) {
        (Route::Tasks, "GET") => does("listTasks", "List the project's tasks, newest first")
            .with(parameters::of_tasks())
            .answers(200, "A page; next is there if another task follows", Holds::Json("tasks"))
            .refuses(&[400]),
        (Route::Tasks, "POST") => does("createTask", "Ask for a task")
            .about("Repeated with the same Idempotency-Key and body within 24 hours, the answer is the first task.")
            .with(vec![parameters::idempotency_key()])
            .takes(Takes::Json("newTask"))
            .answers(201, "The task is stored and its work is started", Holds::Json("task"))
            .and_headers(&["Location"])
            .refuses(&[400, 409, 413]),
        (Route::Task(_), "GET") => does("showTask", "Show a task")
            .answers(200, "The task, and how far it is", Holds::Json("task"))
            .refuses(&[404]),
        (Route::TaskCancel(_), "POST") => does("cancelTask", "End a task that is at work")
            .about("What the task made is removed, and it ends with the failure Cancelled.")
            .answers(202, "The task will end", Holds::Json("task"))
            .refuses(&[404, 409]),
        _ => return None,
    })
}

fn of_images(route: Route<'_>, method: &str) -> Option<Operation> {
    let does = |id, summary| Operation::new("images", id, summary);
    Some(match (route, method) {
        (Route::Images, "GET") => does("listImages", "List images, newest first")
            .about("Any other parameter is the name of an extra property, which must have that value.")
            .with(parameters::of_images())
            .answers(200, "A page; next is there if another image follows", Holds::Json("images"))
            .refuses(&[400]),
        (Route::Images, "POST") => does("createImage", "Make a record without bytes")
            .takes(Takes::Json("newImage"))
            .answers(201, "The record", Holds::Json("image"))
            .and_headers(&["Location", "OpenStack-image-import-methods"])
            .refuses(&[400, 409, 413]),
        (Route::Image(_), "GET") => {
            does("showImage", "Show an image").answers(200, "The image", Holds::Json("image")).refuses(&[404])
        }
        (Route::Image(_), "PATCH") => does("updateImage", "Change attributes and properties")
            .about("All changes are made, or none.")
            .takes(Takes::Patch)
            .answers(200, "The image as it is now", Holds::Json("image"))
            .refuses(&[400, 404, 409, 413, 415]),
        (Route::Image(_), "DELETE") => does("deleteImage", "Delete an image and its bytes")
            .answers(204, "It is gone", Holds::Nothing)
            .refuses(&[404, 409]),
        (Route::ImageFile(_), "GET") => does("downloadImage", "Download an image")
            .answers(302, "Its bytes are at the URL in Location, for up to an hour", Holds::Nothing)
            .and_headers(&["Location"])
            .answers(204, "It has no bytes yet", Holds::Nothing)
            .refuses(&[404]),
        (Route::ImageFile(_), "PUT") => does("uploadImage", "Upload an image's bytes, and import them")
            .takes(Takes::Octets)
            .answers(204, "The image is active, or still importing", Holds::Nothing)
            .refuses(&[400, 404, 409, 413, 415]),
        (Route::ImageStage(_), "PUT") => {
            does("stageImage", "Upload an image's bytes, for an import that follows")
                .takes(Takes::Octets)
                .answers(204, "The bytes wait", Holds::Nothing)
                .refuses(&[404, 409, 413, 415])
        }
        (Route::ImageUpload(_), "POST") => does("uploadParts", "Begin an upload in parts, or go on with it")
            .about("Each part is put to its URL, without an X-Auth-Token. A URL that has ended is asked for again.")
            .takes(Takes::Json("partsRequest"))
            .answers(201, "The upload is begun: URLs of its first parts", Holds::Json("partUrls"))
            .answers(200, "URLs of the parts that were asked for", Holds::Json("partUrls"))
            .refuses(&[400, 404, 409, 413]),
        (Route::ImageUpload(_), "DELETE") => does("giveUpUpload", "Give an upload in parts up")
            .answers(204, "The record is without bytes", Holds::Nothing)
            .refuses(&[404, 409]),
        (Route::ImageUploadComplete(_), "POST") => does("completeUpload", "Join the parts of an upload")
            .takes(Takes::Json("completion"))
            .answers(204, "The bytes wait to be imported", Holds::Nothing)
            .refuses(&[400, 404, 409, 413]),
        (Route::ImageImport(_), "POST") => does("importImage", "Import staged bytes, those of a URL, or those of another image")
            .takes(Takes::Json("imageImport"))
            .answers(202, "A task of type api_image_import does it", Holds::Nothing)
            .refuses(&[400, 404, 409, 413]),
        (Route::ImageTasks(_), "GET") => does("listImageTasks", "List the tasks of an image, newest first")
            .answers(200, "At most 100 tasks", Holds::Json("imageTasks"))
            .refuses(&[404]),
        (Route::ImageTag(..), "PUT") => does("addTag", "Add a tag")
            .answers(204, "It is there", Holds::Nothing)
            .refuses(&[400, 404, 409, 413]),
        (Route::ImageTag(..), "DELETE") => {
            does("removeTag", "Remove a tag").answers(204, "It is gone", Holds::Nothing).refuses(&[404, 409])
        }
        (Route::ImageDeactivate(_), "POST") => {
            does("deactivateImage", "Keep an image's bytes from all but admins")
                .answers(204, "It is deactivated", Holds::Nothing)
                .refuses(&[404, 409])
        }
        (Route::ImageReactivate(_), "POST") => does("reactivateImage", "Hand an image's bytes out again")
            .answers(204, "It is active", Holds::Nothing)
            .refuses(&[404, 409]),
        _ => return None,
    })
}

fn of_members(route: Route<'_>, method: &str) -> Option<Operation> {
    let does = |id, summary| Operation::new("members", id, summary);
    Some(match (route, method) {
        (Route::ImageMembers(_), "GET") => {
            does("listMembers", "List the members that the caller may know of")
                .answers(200, "The owner sees all, a member itself", Holds::Json("members"))
                .refuses(&[404])
        }
        (Route::ImageMembers(_), "POST") => does("createMember", "Share an image with a project")
            .takes(Takes::Json("newMember"))
            .answers(200, "The member, whose status is pending", Holds::Json("member"))
            .refuses(&[400, 404, 409, 413]),
        (Route::ImageMember(..), "GET") => does("showMember", "Show a member")
            .answers(200, "The member", Holds::Json("member"))
            .refuses(&[404]),
        (Route::ImageMember(..), "PUT") => does("updateMember", "Say whether the project wants the image")
            .takes(Takes::Json("memberStatus"))
            .answers(200, "The member as it is now", Holds::Json("member"))
            .refuses(&[400, 404, 409, 413]),
        (Route::ImageMember(..), "DELETE") => does("deleteMember", "Share an image with a project no longer")
            .answers(204, "It is shared no longer", Holds::Nothing)
            .refuses(&[404, 409]),
        _ => return None,
    })
}

fn of_service(path: &str, route: Route<'_>, method: &str) -> Option<Operation> {
    if method != "GET" {
        return None;
    }
    let does = |id, summary| Operation::new("service", id, summary);
    Some(match route {
        Route::Healthcheck => {
            does("healthcheck", "Whether the service answers").open().answers(200, "It does", Holds::Text)
        }
        Route::Versions(status) => {
            let id = match path {
                "/" => "chooseVersion",
                "/v2" => "chooseMinorVersion",
                _ => "listVersions",
            };
            does(id, "The versions of the API").open().answers(
                status.as_u16(),
                "Versions with links",
                Holds::Json("versions"),
            )
        }
        Route::OpenApi => does("describe", "This document").open().answers(
            200,
            "An OpenAPI 3.1 document",
            Holds::Json("document"),
        ),
        Route::ImportInfo => does("showImportMethods", "The methods of imports into a record").answers(
            200,
            "Their names",
            Holds::Json("importInfo"),
        ),
        Route::Stores => does("listStores", "Where bytes go: the one store, which is the region").answers(
            200,
            "The store",
            Holds::Json("stores"),
        ),
        Route::StoresDetail => does("listStoresDetail", "The same, with what an operator wants to know")
            .answers(200, "The store", Holds::Json("storesDetail")),
        Route::Regions => does("listRegions", "Regions that images can be cloned from, this one first")
            .answers(200, "Their names and endpoints", Holds::Json("regions")),
        Route::Usage => does("showUsage", "What the project uses, and may use").answers(
            200,
            "Counts of images, sizes in MiB; -1 is no limit",
            Holds::Json("usage"),
        ),
        Route::Schema(_) => does("showSchema", "A JSON schema of what is sent and shown")
            .answers(200, "The schema", Holds::Json("schema"))
            .refuses(&[404]),
        Route::MetadefSchema(_) => does("showMetadefSchema", "A JSON schema of metadata definitions")
            .answers(200, "The schema", Holds::Json("schema"))
            .refuses(&[404]),
        _ => return None,
    })
}
