//! What a server may ask of us, and what we answer.
//!
//! Called by the SDK. Sampling is refused: models are asked by sessions alone. There are no roots: a
//! server sees what its sandbox shows. Questions to a person are declined, so that the server goes
//! on without an answer. What it logs goes to our log.

use std::sync::Arc;

use rmcp::ClientHandler;
use rmcp::model::{
    ClientCapabilities, ClientConfig, ElicitRequestParams, ElicitResult, ElicitationAction,
    ElicitationCapability, ErrorData, FormElicitationCapability, Implementation,
};
use rmcp::service::{NotificationContext, RequestContext, RoleClient};
use tokio::sync::Notify;
use tracing::debug;

/// Bytes of what a server logs at once that are kept.
const LOGGED: usize = 1024;

/// Answers one server.
#[derive(Debug)]
pub(super) struct Handler {
    pub(super) server: String,
    /// Rung when the list of tools has changed.
    pub(super) changed: Arc<Notify>,
}

impl ClientHandler for Handler {
    fn get_info(&self) -> ClientConfig {
        let mut capabilities = ClientCapabilities::default();
        let forms = ElicitationCapability::new().with_form(FormElicitationCapability::new());
        capabilities.elicitation = Some(forms);
        let us = Implementation::new("impresario", env!("CARGO_PKG_VERSION"));
        ClientConfig::new(capabilities, us)
    }

    async fn create_elicitation(
        &self,
        _request: ElicitRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        debug!(server = self.server, "server's question declined");
        Ok(ElicitResult::new(ElicitationAction::Decline))
    }

    async fn on_tool_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.changed.notify_one();
    }

    #[expect(deprecated, reason = "servers of today still send it")]
    async fn on_logging_message(
        &self,
        message: rmcp::model::LoggingMessageNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        let text = crate::tool::host::cut(message.data.to_string(), LOGGED);
        debug!(
            server = self.server,
            level = ?message.level,
            line = %text.escape_debug(),
            "server logged"
        );
    }
}
