//! Where things are: the repository, and the runner's own directory in it.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Paths of one stack. Two stacks can run at once in two directories, on other ports.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    repository: PathBuf,
    directory: PathBuf,
}

impl Layout {
    pub(super) fn new(directory: Option<PathBuf>) -> Result<Self> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .context("this package is two levels below the repository's root")?
            .to_owned();
        let directory = directory.unwrap_or_else(|| repository.join(".local"));
        let layout = Self { repository, directory: std::path::absolute(directory)? };
        for made in [layout.tools(), layout.logs(), layout.run(), layout.home()] {
            fs::create_dir_all(&made).with_context(|| format!("cannot make {}", made.display()))?;
        }
        Ok(layout)
    }

    /// Holds the directory for this runner until the file is dropped.
    pub(super) fn claim(&self) -> Result<File> {
        let path = self.run().join("lock");
        let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => bail!(
                "a local stack is already running in {}: stop it, or give --dir and other ports",
                self.directory.display()
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    pub(super) fn repository(&self) -> &Path {
        &self.repository
    }

    /// Installed once, shared by every stack of this checkout.
    pub(super) fn tools(&self) -> PathBuf {
        self.repository.join(".local/tools")
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.directory.join("logs")
    }

    /// Records of running processes, coordinates.
    pub(super) fn run(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// For clients that read such a file: one cloud for each user of Keystone.
    pub(super) fn clouds(&self) -> PathBuf {
        self.directory.join("clouds.yaml")
    }

    /// For a shell: one of its users.
    pub(super) fn openrc(&self) -> PathBuf {
        self.directory.join("openrc")
    }

    /// Home and temporary directory of the emulators; emptied at each start.
    pub(super) fn home(&self) -> PathBuf {
        self.directory.join("home")
    }

    /// Template and zips as they are deployed.
    pub(super) fn build(&self) -> PathBuf {
        self.directory.join("build")
    }

    /// The demo's disk.
    pub(super) fn disk(&self) -> PathBuf {
        self.directory.join("disk")
    }

    /// Files of this part of the repository.
    pub(super) fn infra(&self, name: &str) -> PathBuf {
        self.repository.join("infra/local").join(name)
    }
}
