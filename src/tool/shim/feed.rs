//! The program's input: a text, or what the daemon writes on the control socket.
//!
//! Called by `supervise`. It reads on only when the program has taken what was read before, so that
//! whoever writes waits for the program. A program that does not read to the end is within its
//! rights.

use std::os::fd::OwnedFd;
use std::process::ChildStdin;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

use crate::tool::process::plan::Input;

/// Bytes carried at once.
const CHUNK: usize = 32 * 1024;

/// Where input comes from and goes to.
pub(super) struct Feed {
    stdin: Option<pipe::Sender>,
    /// What was read and not yet written, from `begin` on.
    waiting: Vec<u8>,
    begin: usize,
    source: Source,
}

/// Where more comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// Nowhere: the daemon says nothing more, and anything but waiting is the end.
    Nowhere,
    /// The socket.
    Control,
    /// The socket has come to its end; the other side may still listen.
    Spent,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fed {
    /// There may be more.
    On,
    /// The program shall end.
    End,
}

impl Feed {
    /// For this program, with this input.
    pub(super) fn new(stdin: Option<ChildStdin>, input: &Input) -> Self {
        let stdin = stdin.and_then(|stdin| pipe::Sender::from_owned_fd(OwnedFd::from(stdin)).ok());
        let (waiting, source) = match input {
            Input::Text(text) => (text.clone().into_bytes(), Source::Nowhere),
            Input::Control => (Vec::new(), Source::Control),
        };
        let mut feed = Self {
            stdin,
            waiting,
            begin: 0,
            source,
        };
        feed.close_if_done();
        feed
    }

    /// Carries on by one step. Cancellation: dropping the future loses nothing.
    pub(super) async fn go_on(&mut self, control: &mut UnixStream) -> Fed {
        let rest = self.waiting.get(self.begin..).unwrap_or_default();
        match (&mut self.stdin, self.source) {
            (stdin, Source::Nowhere) => {
                let mut byte = [0];
                tokio::select! {
                    _ = control.read(&mut byte) => return Fed::End,
                    written = write(stdin, rest) => self.wrote(written),
                }
            }
            (stdin @ Some(_), Source::Control | Source::Spent) if !rest.is_empty() => {
                let written = write(stdin, rest).await;
                self.wrote(written);
            }
            (_, Source::Control) => {
                let mut chunk = vec![0; CHUNK];
                match control.read(&mut chunk).await {
                    Ok(length @ 1..) => {
                        chunk.truncate(length);
                        (self.waiting, self.begin) = (chunk, 0);
                    }
                    Ok(0) => self.source = Source::Spent,
                    Err(_) => return Fed::End,
                }
                self.close_if_done();
            }
            (_, Source::Spent) => std::future::pending().await,
        }
        Fed::On
    }

    /// Whether nobody is at the other end of the socket any more. Unread input hides the end of a
    /// socket from whoever reads it.
    pub(super) fn is_orphaned(&self, control: &UnixStream) -> bool {
        let mut asked = [PollFd::new(control, PollFlags::empty())];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let answered = poll(&mut asked, Some(&at_once));
        let hung_up = |it: &PollFd<'_>| it.revents().contains(PollFlags::HUP);
        self.source != Source::Nowhere && answered.is_ok() && asked.iter().any(hung_up)
    }

    /// So many bytes have gone; `None` when the program takes no more.
    fn wrote(&mut self, written: Option<usize>) {
        match written {
            Some(length) => self.begin += length,
            None => {
                self.stdin = None;
                self.begin = self.waiting.len();
            }
        }
        self.close_if_done();
    }

    /// Closes the program's input when there will be no more.
    fn close_if_done(&mut self) {
        if self.source != Source::Control && self.begin >= self.waiting.len() {
            self.stdin = None;
            self.waiting = Vec::new();
            self.begin = 0;
        }
    }
}

/// Waits for ever when there is nothing to write to, or nothing to write.
async fn write(stdin: &mut Option<pipe::Sender>, bytes: &[u8]) -> Option<usize> {
    match stdin {
        Some(stdin) if !bytes.is_empty() => stdin.write(bytes).await.ok(),
        Some(_) | None => std::future::pending().await,
    }
}
