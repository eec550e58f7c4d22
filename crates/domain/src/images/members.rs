//! With whom an image is shared: the owner says so, the project says whether it wants it.

use super::Images;
use crate::caller::Caller;
use crate::image::{Image, ImageId};
use crate::input::InvalidInput;
use crate::member::{Member, MemberStatus};
use crate::policy;
use crate::rejection::{Answer, Rejection};

/// Most projects that an image is shared with: Glance's `image_member_quota`.
const MOST: usize = 128;
/// Longest id of a project, in bytes: 128 of them leave room for the record's own texts.
const MAX_ID: usize = 255;

/// A share, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Which image.
    pub image: ImageId,
    /// With which project.
    pub project: String,
    /// What it said to that.
    pub member: Member,
}

impl Share {
    fn of(image: &Image, project: &str) -> Option<Self> {
        let member = image.members.get(project)?.clone();
        Some(Self { image: image.id, project: project.to_owned(), member })
    }
}

impl Images {
    /// The members of an image that the caller may know of: all of its own image's, else itself.
    ///
    /// # Errors
    /// As [`Images::get`]; forbidden for an image that isn't `shared`.
    pub async fn members(&self, caller: &Caller, id: &str) -> Answer<Vec<Share>> {
        let image = self.get(caller, id).await?;
        policy::check_has_members(&image)?;
        let known = image.members.keys().filter(|project| policy::sees_member(caller, &image, project));
        Ok(known.filter_map(|project| Share::of(&image, project)).collect())
    }

    /// One member.
    ///
    /// # Errors
    /// [`Rejection::NotFound`] for an image or a member that the caller may not know of.
    pub async fn member(&self, caller: &Caller, id: &str, project: &str) -> Answer<Share> {
        let image = self.get(caller, id).await?;
        policy::check_has_members(&image).or_else(|_| none(project))?;
        member_of(caller, &image, project)
    }

    /// Shares an image with a project, which has said nothing to that yet.
    ///
    /// # Errors
    /// As [`Images::get`]; forbidden for all but the owner; a conflict where it is shared already.
    pub async fn share(&self, caller: &Caller, id: &str, project: &str) -> Answer<Share> {
        if !(1..=MAX_ID).contains(&project.len()) {
            return Err(InvalidInput::new("member", format!("must have 1 to {MAX_ID} bytes")).into());
        }
        let now = self.clock.now();
        let shared = self.change(caller, id, |image| {
            policy::check_has_members(image)?;
            policy::check_change(caller, image)?;
            if image.members.contains_key(project) {
                let told = format!("Image {id} is shared with {project} already");
                return Err(Rejection::Conflict(told));
            }
            if image.members.len() >= MOST {
                return Err(Rejection::TooLarge(format!("An image is shared with at most {MOST} projects")));
            }
            let member = Member { status: MemberStatus::Pending, created_at: now, updated_at: now };
            image.members.insert(project.to_owned(), member);
            Ok(())
        });
        member_of(caller, &shared.await?, project)
    }

    /// What a project says to an image that is shared with it.
    ///
    /// # Errors
    /// [`Rejection::NotFound`] as [`Images::member`]; forbidden for all but the project.
    pub async fn answer_share(
        &self,
        caller: &Caller,
        id: &str,
        project: &str,
        status: MemberStatus,
    ) -> Answer<Share> {
        let now = self.clock.now();
        let answered = self.change(caller, id, |image| {
            policy::check_has_members(image)?;
            policy::check_answer(caller, image)?;
            member_of(caller, image, project)?;
            if let Some(member) = image.members.get_mut(project)
                && member.status != status
            {
                (member.status, member.updated_at) = (status, now.max(member.updated_at));
            }
            Ok(())
        });
        member_of(caller, &answered.await?, project)
    }

    /// Shares an image with a project no longer.
    ///
    /// # Errors
    /// [`Rejection::NotFound`] as [`Images::member`]; forbidden for all but the owner.
    pub async fn unshare(&self, caller: &Caller, id: &str, project: &str) -> Answer<()> {
        let unshared = self.change(caller, id, |image| {
            policy::check_has_members(image)?;
            policy::check_change(caller, image)?;
            match image.members.remove(project) {
                Some(_) => Ok(()),
                None => none(project),
            }
        });
        unshared.await.map(drop)
    }
}

fn none<T>(project: &str) -> Answer<T> {
    Err(Rejection::NotFound { kind: "member", id: project.to_owned() })
}

fn member_of(caller: &Caller, image: &Image, project: &str) -> Answer<Share> {
    let share = Share::of(image, project).filter(|_| policy::sees_member(caller, image, project));
    share.map_or_else(|| none(project), Ok)
}
