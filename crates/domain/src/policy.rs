//! Who may see and do what: the one place that decides it.
//!
//! Callers ask in requests; a task acts later for the project that asked for it. Both are judged by the same rules.
//! Images and tasks that a project may not see look to it like ones that don't exist.

use crate::caller::Caller;
use crate::failure::{Failure, FailureCode};
use crate::image::{Image, ImageStatus, Visibility};
use crate::task::Task;

/// Whether a project may read an image: by its id, its bytes, as the source of a clone.
pub fn sees(project: &str, image: &Image) -> bool {
    image.owner == project || matches!(image.visibility, Visibility::Public | Visibility::Community)
}

/// Whether a project's lists hold an image. A community image has to be asked for by its id.
pub fn lists(project: &str, image: &Image) -> bool {
    image.owner == project || image.visibility == Visibility::Public
}

/// Whether a caller may read an image; an admin reads all.
pub fn caller_sees_image(caller: &Caller, image: &Image) -> bool {
    caller.is_admin() || sees(&caller.project, image)
}

/// Whether a caller may read a task; an admin reads all.
pub fn caller_sees_task(caller: &Caller, task: &Task) -> bool {
    caller.may_see(&task.owner)
}

/// Whether a caller may create and cancel tasks: `reader`, OpenStack's role for looking on, may not.
pub fn may_create_tasks(caller: &Caller) -> bool {
    caller.is_admin() || caller.roles.iter().any(|role| role == "member")
}

/// Whether a project may have an image exported now.
///
/// # Errors
/// Why not, as the task's failure.
pub fn check_export(project: &str, image: &Image) -> Result<(), Failure> {
    let id = image.id;
    if image.owner != project {
        let message = format!("image {id} belongs to another project; only its owner may export it");
        return Err(Failure::new(FailureCode::NotOwner, message));
    }
    if image.status != ImageStatus::Active {
        let message = format!("image {id} is {}; only an active image can be exported", image.status.name());
        return Err(Failure::new(FailureCode::ImageNotActive, message));
    }
    Ok(())
}
