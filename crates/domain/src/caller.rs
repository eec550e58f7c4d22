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

/// Whether a text can be a project's id: 1 to 64 letters, digits and `-_.@`. It is a part of keys and of paths.
pub fn is_project(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@');
    (1..=64).contains(&text.len()) && text.bytes().all(plain)
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
