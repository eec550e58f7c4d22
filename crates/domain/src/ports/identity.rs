//! Who callers are.

use async_trait::async_trait;

use super::StoreResult;
use crate::iam_projects::IamProjects;
use crate::keystone::KeystoneToken;
use crate::secret::Secret;

/// Keystone, as far as it is asked about tokens.
#[async_trait]
pub trait Tokens: Send + Sync {
    /// What a token is good for now; `None` where Keystone doesn't take it, or not any longer. Answers within seconds.
    async fn validate(&self, token: &Secret) -> StoreResult<Option<KeystoneToken>>;
}

/// Where the operator keeps who acts for which project.
#[async_trait]
pub trait ProjectMap: Send + Sync {
    /// The map as it is now.
    async fn read(&self) -> StoreResult<IamProjects>;
}
