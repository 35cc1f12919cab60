//! What a server answers, as text for the model and as attachments beside it. Pure.
//!
//! Parts of text are put together, each on lines of its own. Structured content is added as JSON,
//! unless a part of the text is that JSON already. In the place of an image, a sound or a resource
//! stands what it is and how large: `[image image/png, 1234 bytes]`; the thing itself is an
//! attachment. A resource that is text is text.

use rmcp::model::{CallToolResult, ContentBlock, EmbeddedResource, Resource, ResourceContents};
use serde_json::Value;

use crate::event::{Attachment, AttachmentKind};

/// An answer for the model, and what came with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) attachments: Vec<Attachment>,
}

/// Takes an answer apart. Attachments of more than `room` bytes of base64 together are left out,
/// and the text says so.
pub(super) fn answer(result: CallToolResult, room: usize) -> Answer {
    let structured = result.structured_content;
    let mut texts: Vec<String> = Vec::new();
    let mut attachments = Vec::new();
    let mut left = room;
    for block in result.content {
        let attachment = match block {
            ContentBlock::Text(text) => {
                texts.push(text.text);
                continue;
            }
            ContentBlock::Image(it) => {
                with_data(AttachmentKind::Image, Some(it.mime_type), it.data)
            }
            ContentBlock::Audio(it) => {
                with_data(AttachmentKind::Audio, Some(it.mime_type), it.data)
            }
            ContentBlock::ResourceLink(resource) => link(resource),
            ContentBlock::Resource(EmbeddedResource { resource, .. }) => match embedded(resource) {
                Ok(attachment) => attachment,
                Err(text) => {
                    texts.push(text);
                    continue;
                }
            },
            _ => {
                texts.push("[a part of a kind that is not known]".to_owned());
                continue;
            }
        };
        let (attachment, note) = fit(attachment, &mut left);
        texts.push(note);
        attachments.push(attachment);
    }
    if let Some(value) = structured.filter(|value| !says(&texts, value)) {
        texts.push(value.to_string());
    }
    Answer {
        text: texts.join("\n"),
        attachments,
    }
}

/// Whether one of the texts is this JSON.
fn says(texts: &[String], value: &Value) -> bool {
    texts
        .iter()
        .any(|text| serde_json::from_str::<Value>(text).is_ok_and(|said| said == *value))
}

fn with_data(kind: AttachmentKind, mime: Option<String>, data: String) -> Attachment {
    Attachment {
        kind,
        mime,
        uri: None,
        bytes: decoded_length(&data),
        data: Some(data),
    }
}

fn link(resource: Resource) -> Attachment {
    Attachment {
        kind: AttachmentKind::Link,
        mime: resource.mime_type,
        uri: Some(resource.uri),
        data: None,
        bytes: resource.size.unwrap_or(0),
    }
}

/// A resource that came whole; one that is text, as text.
fn embedded(resource: ResourceContents) -> Result<Attachment, String> {
    match resource {
        ResourceContents::TextResourceContents { uri, text, .. } => {
            Err(format!("[resource {uri}]\n{text}"))
        }
        ResourceContents::BlobResourceContents {
            uri,
            mime_type,
            blob,
            ..
        } => Ok(Attachment {
            uri: Some(uri),
            ..with_data(AttachmentKind::Resource, mime_type, blob)
        }),
        _ => Err("[a resource of a kind that is not known]".to_owned()),
    }
}

/// Leaves out what does not fit, and says what stands here.
fn fit(mut attachment: Attachment, left: &mut usize) -> (Attachment, String) {
    let length = attachment.data.as_ref().map_or(0, String::len);
    let is_left_out = length > *left;
    if is_left_out {
        attachment.data = None;
    } else {
        *left -= length;
    }
    let words = [attachment.mime.as_deref(), attachment.uri.as_deref()];
    let words: Vec<_> = words.into_iter().flatten().collect();
    let mut note = format!("[{}", attachment.kind.name());
    if !words.is_empty() {
        note = format!("{note} {}", words.join(" "));
    }
    if attachment.bytes > 0 {
        note = format!("{note}, {} bytes", attachment.bytes);
    }
    if is_left_out {
        note = format!("{note}; too large to be kept");
    }
    (attachment, format!("{note}]"))
}

/// How many bytes this base64 stands for.
fn decoded_length(data: &str) -> u64 {
    let digits = data.bytes().filter(|byte| !byte.is_ascii_whitespace());
    let digits = digits.filter(|byte| *byte != b'=').count() as u64;
    digits.saturating_mul(3) / 4
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(result: Value, room: usize) -> Answer {
        answer(serde_json::from_value(result).unwrap(), room)
    }

    #[test]
    fn each_kind_of_content_becomes_text_and_attachments() {
        // (content, structured content, text, attachments)
        let image = json!({"type": "image", "data": "AQIDBA==", "mimeType": "image/png"});
        let audio = json!({"type": "audio", "data": "AQID", "mimeType": "audio/wav"});
        let blob = json!({"type": "resource", "resource":
            {"uri": "demo://1", "mimeType": "application/pdf", "blob": "AQI="}});
        let text = json!({"type": "resource", "resource":
            {"uri": "demo://2", "mimeType": "text/plain", "text": "words"}});
        let link = json!({"type": "resource_link", "uri": "file:///a", "name": "a", "size": 7});
        let table = [
            (
                json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
                "a\nb",
                0,
            ),
            (json!([image]), "[image image/png, 4 bytes]", 1),
            (json!([audio]), "[audio audio/wav, 3 bytes]", 1),
            (
                json!([blob]),
                "[resource application/pdf demo://1, 2 bytes]",
                1,
            ),
            (json!([text]), "[resource demo://2]\nwords", 0),
            (json!([link]), "[link file:///a, 7 bytes]", 1),
            (json!([]), "", 0),
        ];
        for (content, expected, attachments) in table {
            let answer = of(json!({ "content": content }), 1_000);
            assert_eq!(answer.text, expected);
            assert_eq!(answer.attachments.len(), attachments, "{expected}");
        }
    }

    #[test]
    fn structured_content_is_added_unless_the_text_says_it() {
        let said = json!({"content": [{"type": "text", "text": "{ \"a\": 1 }"}], "structuredContent": {"a": 1}});
        assert_eq!(of(said, 0).text, "{ \"a\": 1 }");
        let unsaid =
            json!({"content": [{"type": "text", "text": "one"}], "structuredContent": {"a": 1}});
        assert_eq!(of(unsaid, 0).text, "one\n{\"a\":1}");
    }

    #[test]
    fn what_is_too_large_is_left_out_and_said_so() {
        let image = json!({"type": "image", "data": "AQIDBA==", "mimeType": "image/png"});
        let answer = of(json!({"content": [image, image]}), 12);
        let expected =
            "[image image/png, 4 bytes]\n[image image/png, 4 bytes; too large to be kept]";
        assert_eq!(answer.text, expected);
        let kept: Vec<_> = answer
            .attachments
            .iter()
            .map(|it| it.data.is_some())
            .collect();
        assert_eq!(kept, [true, false]);
    }
}
