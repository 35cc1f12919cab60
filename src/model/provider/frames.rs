//! Watches the raw frames of a stream for what the library would swallow.
//!
//! Used by [`crate::model::provider`]. Keeps no content.
//!
//! - A tool call without an `index` is dropped by the library, and a gap in the indices is filled
//!   with copies of another call: a tool would run twice.
//! - A frame of Anthropic's without an event name is dropped, with the words in it. A CRLF that
//!   falls between two reads makes such frames.

use std::sync::{Mutex, OnceLock, PoisonError};

use genai::chat::{ChatFrameSink, FrameCtx, RawFrameRef};
use serde_json::Value;

use crate::model::provider::Protocol;

/// Sees every frame before the library does.
#[derive(Debug)]
pub(super) struct FrameWatch {
    protocol: Protocol,
    /// Tool calls seen so far.
    calls: Mutex<u64>,
    defect: OnceLock<&'static str>,
}

impl FrameWatch {
    pub(super) const fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            calls: Mutex::new(0),
            defect: OnceLock::new(),
        }
    }

    /// What is wrong with the stream, if anything is.
    pub(super) fn defect(&self) -> Option<&'static str> {
        self.defect.get().copied()
    }

    fn found(&self, defect: &'static str) {
        // The first one is told.
        let _later = self.defect.set(defect);
    }

    fn see_openai(&self, data: &str) {
        if !data.contains("\"tool_calls\"") {
            return;
        }
        let Ok(frame) = serde_json::from_str::<Value>(data) else {
            return;
        };
        let Some(Value::Array(calls)) = frame.pointer("/choices/0/delta/tool_calls") else {
            return;
        };
        for call in calls {
            self.see_call(call.get("index").and_then(Value::as_u64));
        }
    }

    fn see_call(&self, index: Option<u64>) {
        let mut seen = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        match index {
            None => self.found("a tool call has no index"),
            Some(index) if index > *seen => self.found("the indices of the tool calls have a gap"),
            Some(index) if index == *seen => *seen += 1,
            Some(_) => {}
        }
    }
}

impl ChatFrameSink for FrameWatch {
    fn on_frame(&self, _ctx: &FrameCtx, frame: RawFrameRef<'_>) {
        match self.protocol {
            Protocol::Openai => self.see_openai(frame.data),
            Protocol::Anthropic if frame.event.is_none() && !frame.data.is_empty() => {
                self.found("a frame has no event name");
            }
            Protocol::Anthropic | Protocol::Gemini | Protocol::Ollama => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defect_of(indices: &[Option<u64>]) -> Option<&'static str> {
        let watch = FrameWatch::new(Protocol::Openai);
        for index in indices {
            let call = index.map_or_else(
                || serde_json::json!({"id": "x"}),
                |index| serde_json::json!({"index": index}),
            );
            let frame = serde_json::json!({"choices": [{"delta": {"tool_calls": [call]}}]});
            watch.see_openai(&frame.to_string());
        }
        watch.defect()
    }

    #[test]
    fn calls_in_fragments_and_side_by_side_are_fine() {
        assert_eq!(defect_of(&[Some(0), Some(0), Some(1), Some(0)]), None);
    }

    #[test]
    fn a_missing_index_and_a_gap_are_found() {
        assert_eq!(
            defect_of(&[Some(0), None]),
            Some("a tool call has no index")
        );
        let gap = Some("the indices of the tool calls have a gap");
        assert_eq!(defect_of(&[Some(1)]), gap);
        assert_eq!(defect_of(&[Some(0), Some(2)]), gap);
    }
}
