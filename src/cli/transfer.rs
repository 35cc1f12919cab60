//! Commands that take a session elsewhere: `export`, `import`. The file's format is the daemon's
//! business; here its text is only passed on.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::cli::screen::{Screen, Style};
use crate::control::client::Client;
use crate::control::wire::{ExportSession, Exported, ImportDone, ImportSession, Method, Piece};
use crate::daemon::Exit;

/// So much of a file is sent at once, unless requests must be shorter.
const PIECE_BYTES: usize = 64 << 10;
/// A byte may take up so many when it is sent.
const ESCAPED: usize = 6;

/// `export`: a session as lines, to stdout or into a new file.
pub(super) async fn export(
    client: &Client,
    screen: &mut Screen,
    session: String,
    output: Option<&Path>,
) -> Result<Exit> {
    // The first page comes before the file is made: a session that does not exist leaves none.
    let mut page = page(client, &session, None).await?;
    let mut file = output.map(create).transpose()?;
    let written = loop {
        let written = match &mut file {
            Some(file) => file.write_all(page.text.as_bytes()),
            None => screen.text(&page.text),
        };
        if written.is_err() || page.next.is_none() {
            break written.map_err(anyhow::Error::from);
        }
        page = match self::page(client, &session, page.next).await {
            Ok(page) => page,
            Err(error) => break Err(error),
        };
    };
    let whole = written.and_then(|()| Ok(file.map_or(Ok(()), |file| file.sync_all())?));
    if let (Some(path), Err(_)) = (output, &whole) {
        // A part would be refused at its import; it need not lie around.
        let _gone = std::fs::remove_file(path);
    }
    whole?;
    Ok(Exit::Ok)
}

async fn page(client: &Client, session: &str, next: Option<String>) -> Result<Exported> {
    let params = ExportSession {
        session: session.to_owned(),
        next,
    };
    Ok(client.call(Method::SessionExport, params).await?)
}

fn create(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path).with_context(|| {
        let path = path.display();
        format!("{path} cannot be made; name a file that does not exist")
    })
}

/// `import`: from a file, or from stdin.
pub(super) async fn import(
    client: &Client,
    screen: &mut Screen,
    file: &Path,
    (keep_id, max_frame_bytes): (bool, usize),
) -> Result<Exit> {
    let mut source: Box<dyn Read> = if file == Path::new("-") {
        Box::new(io::stdin())
    } else {
        let opened = File::open(file);
        Box::new(opened.with_context(|| format!("{} cannot be read", file.display()))?)
    };
    let size = PIECE_BYTES.min(max_frame_bytes / (2 * ESCAPED)).max(1);
    let mut pieces = Pieces::new(size);
    let mut piece = Piece::First;
    let done: ImportDone = loop {
        let text = pieces.next(source.as_mut())?;
        let is_last = text.is_none() && piece == Piece::Next;
        let params = ImportSession {
            text: text.unwrap_or_default(),
            piece: if is_last { Piece::Last } else { piece },
            keep_id,
        };
        let done = client.call(Method::SessionImport, params).await?;
        if is_last {
            break done;
        }
        piece = Piece::Next;
    };
    let Some(session) = &done.session else {
        bail!("the daemon took everything and named no session; look at `impresario ls`");
    };
    match screen.style {
        Style::Json => screen.value(&done)?,
        Style::Text => screen.line(session)?,
    }
    if done.ended > 0 {
        screen.note(&format!(
            "{} unfinished turns or waiting inputs were ended; say something to go on",
            done.ended
        ))?;
    }
    Ok(Exit::Ok)
}

/// Cuts what is read into pieces of text.
struct Pieces {
    bytes: Vec<u8>,
    size: usize,
}

impl Pieces {
    const fn new(size: usize) -> Self {
        let bytes = Vec::new();
        Self { bytes, size }
    }

    /// The next piece; `None` after the last one. A character is never cut.
    fn next(&mut self, source: &mut dyn Read) -> Result<Option<String>> {
        loop {
            let before = self.bytes.len();
            let wanted = u64::try_from(self.size).unwrap_or(u64::MAX);
            source.take(wanted).read_to_end(&mut self.bytes)?;
            let is_over = self.bytes.len() == before;
            let good = match std::str::from_utf8(&self.bytes) {
                Ok(text) => text.len(),
                Err(error) if error.error_len().is_none() && !is_over => error.valid_up_to(),
                Err(_) => bail!("this is no text; `impresario export` makes what can be imported"),
            };
            if good == 0 && !is_over {
                continue;
            }
            let rest = self.bytes.split_off(good);
            let piece = std::mem::replace(&mut self.bytes, rest);
            let piece = String::from_utf8(piece)?;
            return Ok((!piece.is_empty()).then_some(piece));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_character_is_cut_and_what_is_no_text_is_refused() {
        let text = "añ🎭b";
        for size in 1..8 {
            let (mut pieces, mut source) = (Pieces::new(size), text.as_bytes());
            let mut whole = String::new();
            while let Some(piece) = pieces.next(&mut source).unwrap() {
                whole.push_str(&piece);
            }
            assert_eq!(whole, text);
        }
        for bad in [&b"a\xff"[..], b"a\xf0\x9f"] {
            let (mut pieces, mut source) = (Pieces::new(64), bad);
            let refused = pieces
                .next(&mut source)
                .and_then(|_| pieces.next(&mut source));
            assert!(refused.is_err());
        }
    }
}
