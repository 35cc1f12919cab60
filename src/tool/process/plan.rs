//! What the daemon and the shim tell each other, as frames on one socket: first the plan, then
//! that the program has begun, at the end the report. The end of the socket is the order to end the tool.
//!
//! Called by [`crate::tool::process`] on one side and [`crate::tool::shim`] on the other. Both are
//! the same program, so the form has no version.

use std::io;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::event::Sandbox;
use crate::tool::process::sandbox::Confinement;

/// No frame is longer, bytes.
const LONGEST: u32 = 256 << 20;

/// What the shim has to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The process that wrote this plan; the shim ends when it is no longer the parent.
    pub parent: i32,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// What the program reads from stdin.
    pub stdin: String,
    /// Between the polite signal and the final one.
    pub grace_ms: u64,
    /// What each process may use.
    pub limits: Limits,
    /// So many processes may run at once.
    pub max_processes: usize,
    /// How the program is confined.
    pub confinement: Confinement,
    /// The control group that the program is put into, where there is one.
    pub group: Option<PathBuf>,
}

/// What the shim tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Word {
    /// The program has been started, and is confined so.
    Begun(Sandbox),
    /// It has ended. The last word.
    Ended(Report),
}

/// What each process of a tool may use; `None` leaves it as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// Address space, bytes.
    pub memory: Option<u64>,
    /// Processor time, seconds.
    pub cpu_s: Option<u64>,
    /// Open files.
    pub open_files: Option<u64>,
    /// The longest file, bytes.
    pub file: Option<u64>,
}

/// How the program ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Report {
    /// It could not be started, for the reason with this number.
    NotStarted {
        /// As in errno(3).
        errno: i32,
    },
    /// It could not be confined, and was not started.
    NotConfined {
        /// What is missing.
        why: String,
    },
    /// It was ended because it had too many processes.
    TooMany {
        /// As many as it may have.
        limit: usize,
    },
    /// It ended by itself.
    Exited {
        /// 0 is success.
        code: i32,
    },
    /// A signal ended it.
    Killed {
        /// As in signal(7).
        signal: i32,
    },
}

/// Writes one frame.
///
/// # Errors
/// The other side is gone.
pub(crate) async fn write_frame<W, T>(to: &mut W, value: &T) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
    T: Serialize,
{
    let bytes = serde_json::to_vec(value)?;
    let length = u32::try_from(bytes.len())
        .ok()
        .filter(|length| *length <= LONGEST)
        .ok_or_else(|| io::Error::from(io::ErrorKind::ArgumentListTooLong))?;
    to.write_all(&length.to_be_bytes()).await?;
    to.write_all(&bytes).await?;
    to.flush().await
}

/// Reads one frame.
///
/// # Errors
/// The other side is gone, or wrote something else.
pub(crate) async fn read_frame<R, T>(from: &mut R) -> io::Result<T>
where
    R: AsyncRead + Unpin,
    T: DeserializeOwned,
{
    let length = from.read_u32().await?;
    if length > LONGEST {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let mut bytes = Vec::new();
    from.take(u64::from(length)).read_to_end(&mut bytes).await?;
    Ok(serde_json::from_slice(&bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_is_read_as_it_was_written() {
        let (mut here, mut there) = tokio::io::duplex(16);
        let report = Report::Exited { code: 3 };
        let (written, read) = tokio::join!(
            write_frame(&mut here, &report),
            read_frame::<_, Report>(&mut there)
        );
        written.unwrap();
        assert_eq!(read.unwrap(), report);
    }

    #[tokio::test]
    async fn a_cut_or_foreign_frame_is_an_error() {
        for bytes in [&b"\0\0\0\x09{}"[..], b"Usage: program", b"\0\0"] {
            let mut from = bytes;
            assert!(read_frame::<_, Report>(&mut from).await.is_err());
        }
    }
}
