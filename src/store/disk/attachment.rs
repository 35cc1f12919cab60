//! The disk's form of what a tool's result carries besides its text.

use serde::{Deserialize, Serialize};

use super::{Text, maybe, named, owned, text};
use crate::event::{Attachment, AttachmentKind};
use crate::store::record::Damage;

#[derive(Serialize, Deserialize)]
pub(super) struct AttachmentDisk<'a> {
    kind: Text<'a>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mime: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uri: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<Text<'a>>,
    bytes: u64,
}

impl<'a> From<&'a Attachment> for AttachmentDisk<'a> {
    fn from(attachment: &'a Attachment) -> Self {
        Self {
            kind: text(attachment.kind.name()),
            mime: maybe(&attachment.mime),
            uri: maybe(&attachment.uri),
            data: maybe(&attachment.data),
            bytes: attachment.bytes,
        }
    }
}

impl TryFrom<AttachmentDisk<'_>> for Attachment {
    type Error = Damage;

    fn try_from(disk: AttachmentDisk<'_>) -> Result<Self, Damage> {
        Ok(Self {
            kind: named(&disk.kind, &AttachmentKind::ALL, |kind| kind.name())?,
            mime: owned(disk.mime),
            uri: owned(disk.uri),
            data: owned(disk.data),
            bytes: disk.bytes,
        })
    }
}
