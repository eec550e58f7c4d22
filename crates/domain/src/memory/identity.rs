//! Keystone and the operator's map, in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::iam_projects::IamProjects;
use crate::keystone::KeystoneToken;
use crate::ports::{ProjectMap, StoreError, StoreResult, Tokens};
use crate::secret::Secret;

/// Keystone, and the map beside it. Both count how often they were asked.
#[derive(Debug, Default)]
pub struct MemoryIdentity(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    tokens: BTreeMap<String, KeystoneToken>,
    map: IamProjects,
    fault: Option<Fault>,
    asked: usize,
}

/// What is the matter with a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is out of reach.
    Unavailable,
    /// It answers what can't be used.
    Broken,
}

impl MemoryIdentity {
    /// Lets a token in.
    pub fn issue(&self, token: &str, stands_for: KeystoneToken) {
        self.state().tokens.insert(token.to_owned(), stands_for);
    }

    /// Takes it back.
    pub fn revoke(&self, token: &str) {
        self.state().tokens.remove(token);
    }

    /// Maps principals so from now on.
    pub fn map(&self, map: IamProjects) {
        self.state().map = map;
    }

    /// Has this fault from now on.
    pub fn fail(&self, fault: Option<Fault>) {
        self.state().fault = fault;
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.state().asked
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state behind one more question.
    fn ask(&self) -> StoreResult<MutexGuard<'_, State>> {
        let mut state = self.state();
        state.asked += 1;
        match state.fault {
            None => Ok(state),
            Some(Fault::Unavailable) => Err(StoreError::Unavailable("out of reach".into())),
            Some(Fault::Broken) => Err(StoreError::Fault("no answer to be used".into())),
        }
    }
}

#[async_trait]
impl Tokens for MemoryIdentity {
    async fn validate(&self, token: &Secret) -> StoreResult<Option<KeystoneToken>> {
        Ok(self.ask()?.tokens.get(token.expose()).cloned())
    }
}

#[async_trait]
impl ProjectMap for MemoryIdentity {
    async fn read(&self) -> StoreResult<IamProjects> {
        Ok(self.ask()?.map.clone())
    }
}
