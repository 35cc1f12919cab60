//! Where the data directory and the control socket are when the settings do not say.
//!
//! Called by the daemon and by every command that talks to it, so that both find the same place.

use std::path::PathBuf;

use crate::settings::{Environment, Settings};

/// Nothing says where the data directory should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no place for the data directory: neither XDG_STATE_HOME nor HOME is set; give one with `--data DIR` or store.path"
)]
pub struct NoHome;

impl Settings {
    /// The same settings with `store.path` and `control.socket` filled in.
    ///
    /// The socket of a data directory that was chosen lies in that directory, so that `--data DIR`
    /// never reaches the daemon of another one. Relative paths are kept as they are.
    ///
    /// # Errors
    /// [`NoHome`] when the settings name no data directory and the environment knows no home.
    pub fn resolved(mut self, environment: &Environment) -> Result<Self, NoHome> {
        let runtime = if self.store.path.as_os_str().is_empty() {
            self.store.path = default_data(environment)?;
            environment.absolute_path("XDG_RUNTIME_DIR")
        } else {
            None
        };
        if self.control.socket.as_os_str().is_empty() {
            self.control.socket = runtime
                .map_or_else(|| self.store.path.clone(), |dir| dir.join("impresario"))
                .join("control.sock");
        }
        Ok(self)
    }
}

fn default_data(environment: &Environment) -> Result<PathBuf, NoHome> {
    environment
        .absolute_path("XDG_STATE_HOME")
        .or_else(|| Some(environment.absolute_path("HOME")?.join(".local/state")))
        .map(|state| state.join("impresario"))
        .ok_or(NoHome)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(data: &str, variables: &[(&str, &str)]) -> Result<(PathBuf, PathBuf), NoHome> {
        let mut settings = Settings::default();
        settings.store.path = data.into();
        settings
            .resolved(&variables.iter().copied().collect())
            .map(|settings| (settings.store.path, settings.control.socket))
    }

    #[test]
    fn places_follow_the_xdg_directories_and_then_the_home() {
        let everything = [
            ("XDG_STATE_HOME", "/state"),
            ("XDG_RUNTIME_DIR", "/run/user/1"),
            ("HOME", "/home/a"),
        ];
        assert_eq!(
            places("", &everything).unwrap(),
            (
                "/state/impresario".into(),
                "/run/user/1/impresario/control.sock".into()
            )
        );
        assert_eq!(
            places("", &[("HOME", "/home/a"), ("XDG_STATE_HOME", "relative")]).unwrap(),
            (
                "/home/a/.local/state/impresario".into(),
                "/home/a/.local/state/impresario/control.sock".into()
            )
        );
        assert_eq!(places("", &[]), Err(NoHome));
    }

    #[test]
    fn a_chosen_data_directory_has_its_own_socket() {
        assert_eq!(
            places("/data", &[("XDG_RUNTIME_DIR", "/run/user/1")]).unwrap(),
            ("/data".into(), "/data/control.sock".into())
        );
    }
}
