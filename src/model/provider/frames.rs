//! Watches the raw frames of a stream for what the library would swallow.
//!
//! Used by [`crate::model::provider::library`]. Keeps no content.
//!
//! A frame of Anthropic's without an event name is dropped, with the words in it. A CRLF that falls
//! between two reads makes such frames.

use std::sync::OnceLock;

use genai::chat::{ChatFrameSink, FrameCtx, RawFrameRef};

use crate::model::provider::Protocol;

/// Sees every frame before the library does.
#[derive(Debug)]
pub(super) struct FrameWatch {
    protocol: Protocol,
    defect: OnceLock<&'static str>,
}

impl FrameWatch {
    pub(super) const fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            defect: OnceLock::new(),
        }
    }

    /// What is wrong with the stream, if anything is.
    pub(super) fn defect(&self) -> Option<&'static str> {
        self.defect.get().copied()
    }
}

impl ChatFrameSink for FrameWatch {
    fn on_frame(&self, _ctx: &FrameCtx, frame: RawFrameRef<'_>) {
        let is_nameless = frame.event.is_none() && !frame.data.is_empty();
        if self.protocol == Protocol::Anthropic && is_nameless {
            // The first one is told.
            let _later = self.defect.set("a frame has no event name");
        }
    }
}
