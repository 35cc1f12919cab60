//! Settings that were read, and the way to read them again.

use std::fmt;
use std::path::PathBuf;

use crate::settings::{Environment, Layers, LoadError, Settings, load};

/// Settings without a fault, and where they came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    pub(super) layers: Layers,
}

impl Loaded {
    /// Reads all layers again, from where they were read before.
    ///
    /// # Errors
    /// As [`load`].
    pub fn again(&self, environment: &Environment) -> Result<Self, LoadError> {
        load(&self.layers, environment)
    }
}

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(path) => write!(f, "settings from {}", path.display()),
            None => f.write_str("settings built in; no settings file was found"),
        }
    }
}
