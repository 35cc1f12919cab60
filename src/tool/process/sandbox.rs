//! How a program is confined: what settings wish, what the machine can do, what is told to the shim.
//!
//! Called by [`crate::tool::process`] before a run. What is possible is found out once per tool,
//! at its first run. The confining itself is the shim's work.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::event::Sandbox;
use crate::settings::SandboxLevel;

/// A trial of bubblewrap may take so long.
const TRIAL: Duration = Duration::from_secs(10);

/// What a confined program reads besides what settings name: programs, libraries, and what these
/// need to begin. Not all of /etc: keys are there as well.
pub(crate) const SYSTEM: [&str; 31] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/fonts",
    "/etc/gai.conf",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/magic",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/pki",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl",
    "/etc/terminfo",
    "/etc/timezone",
    "/nix/store",
    "/sys/devices/system/cpu",
];

/// Namespaces and what is the same in all of them.
pub(crate) const BWRAP: [&str; 14] = [
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup-try",
    "--die-with-parent",
    "--cap-drop",
    "ALL",
    "--tmpfs",
    "/tmp",
    "--proc",
    "/proc",
    "--dev",
    "/dev",
    "--unshare-user-try",
];

/// What settings wish.
#[derive(Debug)]
pub(crate) struct Wish {
    /// The tool's name, for what is said.
    pub name: String,
    /// How strictly.
    pub level: SandboxLevel,
    /// What a machine does that cannot.
    pub otherwise: Otherwise,
    /// Where bubblewrap is looked for, as in PATH.
    pub search: String,
    /// What the program may do when it is confined.
    pub view: View,
    /// What was found.
    pub found: OnceCell<Confinement>,
}

/// What is done on a machine that cannot confine as wished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Otherwise {
    /// As well as it can.
    Weaker,
    /// Nothing is run.
    Refuse,
}

/// What a confined program sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct View {
    /// Where it runs; it may write there.
    pub workdir: PathBuf,
    /// What it may read.
    pub read: Vec<PathBuf>,
    /// What it may read and write.
    pub write: Vec<PathBuf>,
    /// Whether there is a network.
    pub network: Network,
}

/// Whether a confined program may use the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Network {
    /// It may.
    Open,
    /// It may not.
    Closed,
}

/// What the shim has to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Confinement {
    /// How strictly.
    pub level: Sandbox,
    /// The program for [`Sandbox::Bwrap`].
    pub bwrap: Option<PathBuf>,
    /// What the program sees, from [`Sandbox::Landlock`] on.
    pub view: View,
}

impl Wish {
    /// What this machine does for the wish.
    ///
    /// # Errors
    /// What the machine lacks, when the wish is a demand.
    pub(crate) async fn confinement(&self) -> Result<&Confinement, String> {
        self.found.get_or_try_init(|| self.find()).await
    }

    async fn find(&self) -> Result<Confinement, String> {
        let wants_bwrap = matches!(self.level, SandboxLevel::Bwrap | SandboxLevel::Auto);
        let (level, bwrap) = match self.level {
            SandboxLevel::None => (Sandbox::None, None),
            SandboxLevel::Basic => (Sandbox::Basic, None),
            SandboxLevel::Landlock | SandboxLevel::Bwrap | SandboxLevel::Auto => {
                let bwrap = if wants_bwrap {
                    bwrap(&self.search).await
                } else {
                    Err("not asked for".to_owned())
                };
                self.strictest(bwrap)?
            }
        };
        tracing::info!(tool = self.name, level = level.name(), "sandbox chosen");
        Ok(Confinement {
            level,
            bwrap,
            view: self.view.clone(),
        })
    }

    /// The strictest level that the machine has and the wish allows.
    fn strictest(
        &self,
        bwrap: Result<PathBuf, String>,
    ) -> Result<(Sandbox, Option<PathBuf>), String> {
        let demands = |level| self.otherwise == Otherwise::Refuse && self.level == level;
        let lack = match bwrap {
            Ok(program) => return Ok((Sandbox::Bwrap, Some(program))),
            Err(lack) => lack,
        };
        if demands(SandboxLevel::Bwrap) {
            return Err(lack);
        }
        if self.level == SandboxLevel::Bwrap {
            tracing::warn!(tool = self.name, lack, "sandbox weaker than wished");
        }
        match has_landlock() {
            Ok(()) => Ok((Sandbox::Landlock, None)),
            Err(lack) if self.otherwise == Otherwise::Refuse => Err(lack),
            Err(lack) => {
                tracing::warn!(tool = self.name, lack, "sandbox weaker than wished");
                Ok((Sandbox::Basic, None))
            }
        }
    }
}

/// Whether the kernel restricts files when it is asked to.
pub(crate) fn has_landlock() -> Result<(), String> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .and_then(Ruleset::create)
        .map(|_| ())
        .map_err(|error| {
            format!(
                "the kernel does not offer Landlock ({error}); use Linux 5.13 or later with landlock in its list of security modules (lsm=), or choose another sandbox"
            )
        })
}

/// Bubblewrap, if it is there and works here.
async fn bwrap(search: &str) -> Result<PathBuf, String> {
    let found = search
        .split(':')
        .filter(|folder| folder.starts_with('/'))
        .map(|folder| Path::new(folder).join("bwrap"))
        .find(|path| path.is_file());
    let program = found.ok_or_else(|| {
        "there is no program bwrap in the PATH; install bubblewrap, or choose another sandbox"
            .to_owned()
    })?;
    let trial = tokio::process::Command::new(&program)
        .args(BWRAP)
        .args(["--unshare-net", "--ro-bind", "/", "/", "--", "/bin/true"])
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let why = match tokio::time::timeout(TRIAL, trial).await {
        Ok(Ok(output)) if output.status.success() => return Ok(program),
        Ok(Ok(output)) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it did not end".to_owned(),
    };
    Err(format!(
        "{} cannot make namespaces here: {why}; allow it (kernel.unprivileged_userns_clone, the container's rights), or choose another sandbox",
        program.display()
    ))
}
