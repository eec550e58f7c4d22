//! Who may see and do what: the one place that decides it.
//!
//! Callers ask in requests; a task acts later for the project that asked for it. Both are judged by the same rules.
//! Images and tasks that a project may not see look to it like ones that don't exist.

use crate::caller::Caller;
use crate::failure::{Failure, FailureCode};
use crate::image::{Image, ImageStatus, Visibility};
use crate::member::MemberStatus;
use crate::rejection::{Answer, Rejection};
use crate::task::Task;

/// Whether a project may read an image: by its id, its bytes, as the source of a clone. Whom an image is shared with
/// sees it whatever it said to that.
pub fn sees(project: &str, image: &Image) -> bool {
    image.owner == project
        || match image.visibility {
            Visibility::Public | Visibility::Community => true,
            Visibility::Shared => image.members.contains_key(project),
            Visibility::Private => false,
        }
}

/// Whether a project finds an image without asking for anything: its own and public ones.
pub fn lists(project: &str, image: &Image) -> bool {
    image.owner == project || image.visibility == Visibility::Public
}

/// Which visibilities a list of images holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// All but other projects' community images.
    Usual,
    /// All.
    All,
    /// This one.
    Only(Visibility),
}

/// Whether a caller's list holds an image: its own, public ones, those that are shared with it and to which it said
/// `member_status` (`None`: whatever it said), and community ones where they are asked for. An admin's, every image.
pub fn caller_lists_image(
    caller: &Caller,
    image: &Image,
    shown: Shown,
    member_status: Option<MemberStatus>,
) -> bool {
    let own = image.owner == caller.project;
    let within_reach = own
        || caller.is_admin()
        || match image.visibility {
            Visibility::Public | Visibility::Community => true,
            Visibility::Shared => image
                .members
                .get(&caller.project)
                .is_some_and(|member| member_status.is_none_or(|status| status == member.status)),
            Visibility::Private => false,
        };
    within_reach
        && match shown {
            Shown::Usual => own || image.visibility != Visibility::Community,
            Shown::All => true,
            Shown::Only(visibility) => image.visibility == visibility,
        }
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
    is_member(caller)
}

/// Whether a caller may do more than look on.
fn is_member(caller: &Caller) -> bool {
    caller.is_admin() || caller.roles.iter().any(|role| role == "member")
}

fn forbidden<T>(told: impl Into<String>) -> Answer<T> {
    Err(Rejection::Forbidden(told.into()))
}

/// Whether a caller may make images at all.
///
/// # Errors
/// [`Rejection::Forbidden`].
pub fn check_create_images(caller: &Caller) -> Answer<()> {
    if is_member(caller) { Ok(()) } else { forbidden("Creating images needs the role member or admin") }
}

/// Whether a caller may give an image to that project; an admin to any.
///
/// # Errors
/// [`Rejection::Forbidden`].
pub fn check_owner(caller: &Caller, owner: &str) -> Answer<()> {
    if caller.may_see(owner) {
        return Ok(());
    }
    forbidden(format!("You may not make images owned by '{owner}'"))
}

/// Whether a caller may give an image that visibility: a public one is everybody's business, so only an admin may.
///
/// # Errors
/// [`Rejection::Forbidden`].
pub fn check_visibility(caller: &Caller, wanted: Visibility) -> Answer<()> {
    if wanted == Visibility::Public && !caller.is_admin() {
        return forbidden("Only an admin may make an image public");
    }
    Ok(())
}

/// Whether a caller that sees an image may change or delete it: its owner's members and admins.
///
/// # Errors
/// [`Rejection::Forbidden`].
pub fn check_change(caller: &Caller, image: &Image) -> Answer<()> {
    if !caller.may_see(&image.owner) {
        return forbidden(format!("Image {} belongs to another project", image.id));
    }
    if is_member(caller) { Ok(()) } else { forbidden("Changing images needs the role member or admin") }
}

/// Whether an image has members: only a shared one.
///
/// # Errors
/// [`Rejection::Forbidden`].
pub fn check_has_members(image: &Image) -> Answer<()> {
    if image.visibility == Visibility::Shared { Ok(()) } else { forbidden("Only shared images have members") }
}

/// Whether a caller that sees an image may know that it is shared with that project: its owner of all, others of
/// themselves.
pub fn sees_member(caller: &Caller, image: &Image, project: &str) -> bool {
    caller.may_see(&image.owner) || caller.project == project
}

/// Whether a caller that sees a shared image may say whether its project wants it. The owner may not say it for others.
///
/// # Errors
/// [`Rejection::Forbidden`].
pub fn check_answer(caller: &Caller, image: &Image) -> Answer<()> {
    if !is_member(caller) {
        return forbidden("Accepting images needs the role member or admin");
    }
    if image.owner == caller.project && !caller.is_admin() {
        return forbidden("An image's owner can't accept it for others");
    }
    Ok(())
}

/// Whether a caller that sees an image may have its bytes. Those of a deactivated one are for admins.
///
/// # Errors
/// [`Rejection::Forbidden`].
pub fn check_download(caller: &Caller, image: &Image) -> Answer<()> {
    if !is_member(caller) {
        return forbidden("Downloading images needs the role member or admin");
    }
    if image.status == ImageStatus::Deactivated && !caller.is_admin() {
        return forbidden(format!("Image {} is deactivated", image.id));
    }
    Ok(())
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
