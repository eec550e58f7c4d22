//! Who asks.

/// An authenticated caller: who, for which project, with which roles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// User id, as the identity service names it.
    pub user: String,
    /// Project (tenant) id: the owner of what the caller makes.
    pub project: String,
    /// Role names.
    pub roles: Vec<String>,
}

impl Caller {
    /// Whether the caller sees every project's tasks and images.
    pub fn is_admin(&self) -> bool {
        self.roles.iter().any(|role| role == "admin")
    }

    /// Whether the caller may see what `owner` owns.
    pub fn may_see(&self, owner: &str) -> bool {
        self.is_admin() || self.project == owner
    }
}
