//! What a tool's result carries besides its text, as it goes over the socket.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event;

/// An image, a sound or a resource that came with a tool's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attachment {
    /// `image`, `audio`, `resource`, `link`.
    pub kind: String,
    /// Its media type, where the tool says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mime: Option<String>,
    /// Where it is, where the tool says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// The thing itself, in base64; missing for a link, and for what was too large to keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Its size in bytes, before base64; 0 when the tool does not say.
    pub bytes: u64,
}

impl From<&event::Attachment> for Attachment {
    fn from(it: &event::Attachment) -> Self {
        Self {
            kind: it.kind.name().to_owned(),
            mime: it.mime.clone(),
            uri: it.uri.clone(),
            data: it.data.clone(),
            bytes: it.bytes,
        }
    }
}
