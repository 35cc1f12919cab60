//! What `session.export` and `session.import` do. Called by [`super::call`].

use crate::control::connection::Connection;
use crate::control::methods::session::session_id;
use crate::control::wire::{ExportSession, Exported, ImportDone, ImportSession, Piece};
use crate::fault::{Code, Fault};
use crate::runtime::{ImportAs, Impresario};

pub(super) async fn export(company: &Impresario, params: ExportSession) -> Result<Exported, Fault> {
    let session = company.open(session_id(&params.session)?);
    let page = session.export(params.next.as_deref()).await?;
    Ok(Exported {
        text: page.text,
        next: page.next,
    })
}

/// Takes a piece. What cannot be taken ends the import, and nothing of it stays.
pub(super) async fn import(
    connection: &Connection,
    params: ImportSession,
) -> Result<ImportDone, Fault> {
    let under_way = connection.swap_import(None);
    let import = match params.piece {
        Piece::First => {
            // Taken back before the next one begins: both may be of the same session.
            drop(under_way);
            let how = if params.keep_id {
                ImportAs::Same
            } else {
                ImportAs::New
            };
            Some(connection.house.company.import(how))
        }
        Piece::Next | Piece::Last => under_way,
    };
    let Some(mut import) = import else {
        let message = "no import is under way on this connection; begin with the piece `first`";
        return Err(Fault::new(Code::InvalidState, message));
    };
    import.push(&params.text).await?;
    if params.piece != Piece::Last {
        connection.swap_import(Some(import));
        return Ok(ImportDone::default());
    }
    let imported = import.finish().await?;
    Ok(ImportDone {
        session: Some(imported.session.to_string()),
        events: imported.events,
        ended: imported.ended,
    })
}
