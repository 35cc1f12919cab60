//! What a tool's result carries besides its text.

/// An image, a sound or a resource that came with a tool's result. The text says where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// What kind of thing.
    pub kind: AttachmentKind,
    /// Its media type, where the tool says so: `image/png`.
    pub mime: Option<String>,
    /// Where it is, where the tool says so.
    pub uri: Option<String>,
    /// The thing itself, in base64; `None` for a mere link, and for what was too large to keep.
    pub data: Option<String>,
    /// Its size in bytes, before base64; 0 when the tool does not say.
    pub bytes: u64,
}

/// What kind of thing came with a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachmentKind {
    /// Something to look at.
    Image,
    /// Something to listen to.
    Audio,
    /// A file or the like, with what is in it.
    Resource,
    /// The address of a resource.
    Link,
}

impl Attachment {
    /// What it takes of a record, bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        let texts = [&self.mime, &self.uri, &self.data];
        texts.into_iter().flatten().map(String::len).sum()
    }
}

impl AttachmentKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Image, Self::Audio, Self::Resource, Self::Link];

    /// The name used on disk, on the wire and in the text of the result.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Audio => "audio",
            Self::Resource => "resource",
            Self::Link => "link",
        }
    }
}
