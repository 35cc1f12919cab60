//! Opens the control socket and lets connections in.
//!
//! Called by the daemon. Everybody who may connect may do everything, so the socket is 0600, its
//! directory belongs to us and to nobody else's pen, and the peer's user is checked. Never decides
//! anything about a session.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::clock;
use crate::control::connection;
use crate::control::wire::{Drain, ErrorObject, Response, Shutdown};
use crate::fault::{Code, Fault};
use crate::metric::{self, Rejection};
use crate::runtime::{Impresario, Reloaded};
use crate::settings::ControlSettings;

/// The longest path that a Unix socket can have, bytes.
pub const MAX_SOCKET_PATH: usize = 107;

/// How long to wait when no connection can be accepted, which is mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a client that is refused may take to read why.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// What a server has to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `[control]` section, with the socket's path filled in.
    pub settings: ControlSettings,
    /// The user who may connect, by number; [`our_user`] in the daemon.
    pub user: u32,
    /// The data directory, for `daemon.status`.
    pub data: PathBuf,
    /// Where the metrics are, for `daemon.status`.
    pub metrics: Option<String>,
}

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The path does not fit into a socket's address.
    #[error(
        "failed to open the control socket: the path {} has {} bytes and a socket's path may have {MAX_SOCKET_PATH}; give a shorter one with `--socket FILE` or control.socket",
        .0.display(), .0.as_os_str().len()
    )]
    TooLong(PathBuf),
    /// Another daemon answers there.
    #[error(
        "a daemon already answers at {}; stop it with `impresario stop`, or give this one another place with `--data DIR`",
        .0.display()
    )]
    Taken(PathBuf),
    /// The directory is not safe.
    #[error(
        "failed to open the control socket: the directory {} {what}; choose a directory of your own with `--socket FILE` or control.socket",
        path.display()
    )]
    UnsafeDirectory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Something else has the name.
    #[error(
        "failed to open the control socket: {} exists and is not a socket; move it away, or choose another path with `--socket FILE`",
        .0.display()
    )]
    NotASocket(PathBuf),
    /// The system said no.
    #[error(
        "failed to open the control socket {}: {source}; choose another path with `--socket FILE` or control.socket",
        path.display()
    )]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A socket that is open and does not answer yet.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    options: Options,
}

/// A server that answers. Dropping it stops nothing; see [`Serving::say_goodbye`].
#[derive(Debug)]
pub struct Serving {
    house: Arc<House>,
    acceptor: JoinHandle<UnixListener>,
    orders: mpsc::Receiver<Order>,
}

/// What a client asks of the daemon itself.
#[derive(Debug)]
pub enum Order {
    /// Stop.
    Stop(Shutdown),
    /// Drain, and begin anew in the same process, if a new start would succeed.
    Restart(Drain, oneshot::Sender<Result<(), Fault>>),
    /// Read the settings again.
    Reload(oneshot::Sender<Result<Reloaded, Fault>>),
}

/// Orders that may wait; a further one is refused.
const ORDERS: usize = 8;

/// What all connections share.
#[derive(Debug)]
pub(super) struct House {
    pub(super) company: Impresario,
    pub(super) options: Options,
    pub(super) orders: mpsc::Sender<Order>,
    /// Cancelled when no more connections are let in.
    doors: CancellationToken,
    /// Cancelled when connections say what they have to say and close.
    pub(super) goodbye: CancellationToken,
    places: Arc<Semaphore>,
}

/// The number of the user that we act as.
#[must_use]
pub fn our_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

impl Server {
    /// Opens the socket. Its directory is made (0700) when there is none; a socket that a dead
    /// daemon left behind is replaced.
    ///
    /// # Errors
    /// [`BindError`] says what to do.
    pub async fn bind(options: Options) -> Result<Self, BindError> {
        let path = &options.settings.socket;
        if inspect(path).await? == Place::DeadSocket {
            info!(path = %path.display(), "replaced the socket of a dead daemon");
            std::fs::remove_file(path).map_err(|source| failed(path, source))?;
        }
        let listener = UnixListener::bind(path).map_err(|source| {
            if source.kind() == io::ErrorKind::AddrInUse {
                return BindError::Taken(path.clone());
            }
            failed(path, source)
        })?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .map_err(|source| failed(path, source))?;
        Ok(Self { listener, options })
    }

    /// Serves a socket that somebody else opened, and sees to.
    ///
    /// # Errors
    /// [`BindError::Io`] when it cannot be used.
    pub fn adopt(listener: StdListener, options: Options) -> Result<Self, BindError> {
        let path = options.settings.socket.clone();
        let listener = listener
            .set_nonblocking(true)
            .and_then(|()| UnixListener::from_std(listener))
            .map_err(|source| failed(&path, source))?;
        Ok(Self { listener, options })
    }

    /// Where callers find the socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.options.settings.socket
    }

    /// The socket.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Begins to answer for a company.
    #[must_use]
    pub fn serve(self, company: Impresario) -> Serving {
        let (sender, orders) = mpsc::channel(ORDERS);
        let most = self.options.settings.max_connections;
        let house = Arc::new(House {
            company,
            options: self.options,
            orders: sender,
            doors: CancellationToken::new(),
            goodbye: CancellationToken::new(),
            places: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
        });
        let acceptor = clock::spawn(accept(self.listener, house.clone()));
        Serving {
            house,
            acceptor,
            orders,
        }
    }
}

impl Serving {
    /// The next thing that a client asks of the daemon itself. Cancel-safe.
    pub async fn order(&mut self) -> Order {
        match self.orders.recv().await {
            Some(order) => order,
            None => std::future::pending().await,
        }
    }

    /// Lets nobody in any more. Open connections go on; new callers wait in the queue of the socket,
    /// as long as somebody has it.
    ///
    /// # Errors
    /// When there is no socket to be had.
    pub async fn hand_over(&mut self) -> io::Result<StdListener> {
        self.house.doors.cancel();
        let listener = (&mut self.acceptor).await.map_err(io::Error::other)?;
        listener.into_std()
    }

    /// Takes the socket away from where callers look for it.
    pub fn remove_socket(&self) {
        remove_socket(&self.house.options.settings.socket);
    }

    /// Lets open connections write what is left, and waits until they are closed. Call it when the
    /// company has stopped. Cancelling it closes nothing by force.
    pub async fn say_goodbye(&self) {
        self.house.goodbye.cancel();
        let most = self.house.options.settings.max_connections;
        let most = u32::try_from(most.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let _everybody = self.house.places.acquire_many(most).await;
    }
}

/// Takes a socket away from where callers look for it.
pub fn remove_socket(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        debug!(%error, path = %path.display(), "failed to remove the control socket");
    }
}

impl House {
    fn count_connections(&self) {
        let most = self.options.settings.max_connections;
        metric::control_connections(most.saturating_sub(self.places.available_permits()));
    }
}

async fn accept(listener: UnixListener, house: Arc<House>) -> UnixListener {
    loop {
        let accepted = tokio::select! {
            biased;
            () = house.doors.cancelled() => return listener,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => admit(stream, &house),
            Err(error) => {
                warn!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(stream: UnixStream, house: &Arc<House>) {
    if let Err(fault) = check_peer(&stream, house.options.user) {
        warn!(error = %fault, "refused a connection");
        clock::spawn(refuse(stream, fault));
        return;
    }
    let Ok(place) = house.places.clone().try_acquire_owned() else {
        metric::rejected(Rejection::Connections);
        clock::spawn(refuse(stream, full(house)));
        return;
    };
    house.count_connections();
    clock::spawn(serve_one(stream, house.clone(), place));
}

async fn serve_one(stream: UnixStream, house: Arc<House>, place: OwnedSemaphorePermit) {
    connection::run(stream, house.clone()).await;
    drop(place);
    house.count_connections();
}

fn check_peer(stream: &UnixStream, user: u32) -> Result<(), Fault> {
    let peer = stream
        .peer_cred()
        .map_err(|error| {
            Fault::new(
                Code::Denied,
                format!("who is calling is not known: {error}"),
            )
        })?
        .uid();
    if peer == user {
        return Ok(());
    }
    Err(Fault::new(
        Code::Denied,
        format!(
            "this daemon belongs to user {user} and the caller is user {peer}; call as user {user}"
        ),
    ))
}

fn full(house: &House) -> Fault {
    Fault {
        retry_after_ms: Some(1_000),
        ..Fault::new(
            Code::Overloaded,
            format!(
                "{} connections are open, which is control.max_connections; come back later",
                house.options.settings.max_connections
            ),
        )
    }
}

/// Says why, in one line, and closes.
async fn refuse(mut stream: UnixStream, fault: Fault) {
    let response = Response::new(serde_json::Value::Null, Err(ErrorObject::from(fault)));
    let mut line = crate::control::wire::line(&response);
    line.push('\n');
    let told = tokio::time::timeout(REFUSAL_TIME, async {
        stream.write_all(line.as_bytes()).await?;
        stream.shutdown().await
    });
    if !matches!(told.await, Ok(Ok(()))) {
        debug!("a refused client did not read why");
    }
}

fn make_directory(directory: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}

fn check_directory(directory: &Path, socket: &Path) -> Result<(), BindError> {
    let metadata = std::fs::symlink_metadata(directory).map_err(|source| failed(socket, source))?;
    let writers = metadata.mode() & 0o022;
    let what = if metadata.file_type().is_symlink() {
        "is a symbolic link".to_owned()
    } else if !metadata.is_dir() {
        "is not a directory".to_owned()
    } else if metadata.uid() != our_user() {
        format!("belongs to user {}", metadata.uid())
    } else if writers != 0 {
        "can be written by others (`chmod 700` changes that)".to_owned()
    } else {
        return Ok(());
    };
    Err(BindError::UnsafeDirectory {
        path: directory.to_owned(),
        what,
    })
}

/// What is where the socket shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nothing.
    Free,
    /// A socket where nobody answers.
    DeadSocket,
}

/// Looks whether a socket can be opened at this path, and makes its directory (0700) when there is
/// none. Removes nothing.
///
/// # Errors
/// [`BindError`] says what to do.
pub async fn inspect(path: &Path) -> Result<Place, BindError> {
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        return Err(BindError::TooLong(path.to_owned()));
    }
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    make_directory(directory).map_err(|source| failed(path, source))?;
    check_directory(directory, path)?;
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Place::Free),
        Err(error) => return Err(failed(path, error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path).await {
        // A full queue of callers means that somebody lives there.
        Ok(_) => Err(BindError::Taken(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(BindError::Taken(path.to_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Place::DeadSocket),
        Err(error) => Err(failed(path, error)),
    }
}

fn failed(path: &Path, source: io::Error) -> BindError {
    BindError::Io {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(socket: PathBuf) -> Options {
        Options {
            settings: ControlSettings {
                socket,
                ..ControlSettings::default()
            },
            user: our_user(),
            data: PathBuf::new(),
            metrics: None,
        }
    }

    #[tokio::test]
    async fn the_socket_is_ours_alone_and_so_is_a_directory_that_was_made_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("new/control.sock");
        let _server = Server::bind(options(socket.clone())).await.unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&socket), 0o600);
        assert_eq!(mode(socket.parent().unwrap()), 0o700);
    }

    #[tokio::test]
    async fn a_socket_where_somebody_answers_is_left_alone_and_a_dead_one_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        let first = Server::bind(options(socket.clone())).await.unwrap();
        let refusal = Server::bind(options(socket.clone())).await.unwrap_err();
        assert!(matches!(refusal, BindError::Taken(_)), "{refusal}");
        drop(first);
        assert!(socket.exists());
        Server::bind(options(socket)).await.unwrap();
    }

    #[tokio::test]
    async fn a_path_that_does_not_fit_says_how_long_it_may_be() {
        let refusal = Server::bind(options(format!("/tmp/{}", "x".repeat(103)).into())).await;
        let said = refusal.unwrap_err().to_string();
        assert!(said.contains("108 bytes") && said.contains("107"), "{said}");
    }

    #[tokio::test]
    async fn a_directory_that_others_may_write_or_that_is_a_link_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let open = directory.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
        let refusal = Server::bind(options(open.join("control.sock")))
            .await
            .unwrap_err();
        assert!(
            refusal.to_string().contains("written by others"),
            "{refusal}"
        );
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path(), &link).unwrap();
        let refusal = Server::bind(options(link.join("control.sock")))
            .await
            .unwrap_err();
        assert!(refusal.to_string().contains("symbolic link"), "{refusal}");
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        std::fs::write(&socket, "precious").unwrap();
        let refusal = Server::bind(options(socket.clone())).await.unwrap_err();
        assert!(matches!(refusal, BindError::NotASocket(_)), "{refusal}");
        assert_eq!(std::fs::read_to_string(socket).unwrap(), "precious");
    }
}
