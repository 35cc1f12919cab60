//! Recorded answers in the wire formats of the providers: the same answer in each.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test binary uses its own part of this"
)]

/// One protocol, with the same answer as all the others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wire {
    /// Its name in the settings.
    pub(crate) provider: impresario::settings::Provider,
    /// A whole answer: [`REASONING`], [`TEXT`], two calls, usage.
    pub(crate) whole: &'static str,
    /// A beginning of an answer with the text "Hel".
    pub(crate) beginning: &'static str,
    /// What a server sends to keep the connection alive.
    pub(crate) ping: &'static str,
    /// An event that is no JSON.
    pub(crate) garbage: &'static str,
    /// An error in the middle of an answer, of the kind "overloaded".
    pub(crate) overloaded: &'static str,
    /// Once these bytes are there, the answer is whole.
    pub(crate) end: &'static str,
    /// An end after no words and no calls.
    pub(crate) nothing: &'static str,
    /// An end for tool calls, without any.
    pub(crate) no_calls: &'static str,
}

/// The text of the whole answer.
pub(crate) const TEXT: &str = "Grüße 🌍!";

/// The thoughts of the whole answer.
pub(crate) const REASONING: &str = "hm, ok";

pub(crate) const OPENAI: Wire = Wire {
    provider: impresario::settings::Provider::Openai,
    whole: concat!(
        r#"data: {"choices":[{"delta":{"role":"assistant","content":null}}]}"#,
        "\n\n",
        r#"data: {"choices":[{"delta":{"reasoning_content":"hm, "}}]}"#,
        "\n\n",
        r#"data: {"choices":[{"delta":{"reasoning_content":"ok"}}]}"#,
        "\n\n",
        ": ping\n\n",
        r#"data: {"choices":[{"delta":{"content":"Grüße "}}]}"#,
        "\n\n",
        r#"data: {"choices":[{"delta":{"content":"🌍!"}}]}"#,
        "\n\n",
        r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"calc","arguments":""}}]}}]}"#,
        "\n\n",
        r#"data: {"choices":[{"delta":{"tool_calls":[{"index":1,"id":"b","function":{"name":"time","arguments":"{\"tz\":"}}]}}]}"#,
        "\n\n",
        r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"x\":1}"}}]}}]}"#,
        "\n\n",
        r#"data: {"choices":[{"delta":{"tool_calls":[{"index":1,"function":{"arguments":"\"ü\"}"}}]}}]}"#,
        "\n\n",
        r#"data: {"choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#,
        "\n\n",
        r#"data: {"choices":[],"usage":{"prompt_tokens":90,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":30}}}"#,
        "\n\n",
        "data: [DONE]\n\n",
    ),
    beginning: "data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\n\n",
    ping: ": ping\n\n",
    garbage: "data: {\"choices\":[{\"del\n\n",
    overloaded: "data: {\"error\":{\"message\":\"secret body\",\"type\":\"server_error\"}}\n\n",
    end: "data: [DONE]",
    nothing: "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
    no_calls: concat!(
        r#"data: {"choices":[{"delta":{"content":"ok"}}]}"#,
        "\n\n",
        r#"data: {"choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#,
        "\n\n",
        "data: [DONE]\n\n",
    ),
};

pub(crate) const ANTHROPIC: Wire = Wire {
    provider: impresario::settings::Provider::Anthropic,
    whole: concat!(
        "event: message_start\n",
        r#"data: {"message":{"usage":{"input_tokens":50,"cache_creation_input_tokens":10,"cache_read_input_tokens":30,"output_tokens":1}}}"#,
        "\n\n",
        "event: content_block_start\n",
        r#"data: {"index":0,"content_block":{"type":"thinking","thinking":""}}"#,
        "\n\n",
        "event: content_block_delta\n",
        r#"data: {"index":0,"delta":{"type":"thinking_delta","thinking":"hm, ok"}}"#,
        "\n\n",
        "event: content_block_delta\n",
        r#"data: {"index":0,"delta":{"type":"signature_delta","signature":"c2ln"}}"#,
        "\n\n",
        "event: content_block_stop\ndata: {\"index\":0}\n\n",
        "event: ping\ndata: {\"type\":\"ping\"}\n\n",
        "event: content_block_start\n",
        r#"data: {"index":1,"content_block":{"type":"text","text":""}}"#,
        "\n\n",
        "event: content_block_delta\n",
        r#"data: {"index":1,"delta":{"type":"text_delta","text":"Grüße "}}"#,
        "\n\n",
        "event: content_block_delta\n",
        r#"data: {"index":1,"delta":{"type":"text_delta","text":"🌍!"}}"#,
        "\n\n",
        "event: content_block_stop\ndata: {\"index\":1}\n\n",
        "event: content_block_start\n",
        r#"data: {"index":2,"content_block":{"type":"tool_use","id":"a","name":"calc","input":{}}}"#,
        "\n\n",
        "event: content_block_delta\n",
        r#"data: {"index":2,"delta":{"type":"input_json_delta","partial_json":"{\"x\":"}}"#,
        "\n\n",
        "event: content_block_delta\n",
        r#"data: {"index":2,"delta":{"type":"input_json_delta","partial_json":"1}"}}"#,
        "\n\n",
        "event: content_block_stop\ndata: {\"index\":2}\n\n",
        "event: content_block_start\n",
        r#"data: {"index":3,"content_block":{"type":"tool_use","id":"b","name":"time","input":{}}}"#,
        "\n\n",
        "event: content_block_delta\n",
        r#"data: {"index":3,"delta":{"type":"input_json_delta","partial_json":"{\"tz\":\"ü\"}"}}"#,
        "\n\n",
        "event: content_block_stop\ndata: {\"index\":3}\n\n",
        "event: message_delta\n",
        r#"data: {"delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":7}}"#,
        "\n\n",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    ),
    beginning: concat!(
        "event: content_block_start\n",
        r#"data: {"index":0,"content_block":{"type":"text","text":""}}"#,
        "\n\n",
        "event: content_block_delta\n",
        r#"data: {"index":0,"delta":{"type":"text_delta","text":"Hel"}}"#,
        "\n\n",
    ),
    ping: "event: ping\ndata: {\"type\":\"ping\"}\n\n",
    garbage: "event: content_block_delta\ndata: {\"index\":0,\"del\n\n",
    overloaded: "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"secret body\"}}\n\n",
    end: "event: message_stop",
    nothing: concat!(
        "event: message_delta\ndata: {\"delta\":{\"stop_reason\":\"end_turn\"}}\n\n",
        "event: message_stop\ndata: {}\n\n",
    ),
    no_calls: concat!(
        "event: content_block_delta\n",
        r#"data: {"index":0,"delta":{"type":"text_delta","text":"ok"}}"#,
        "\n\n",
        "event: message_delta\ndata: {\"delta\":{\"stop_reason\":\"tool_use\"}}\n\n",
        "event: message_stop\ndata: {}\n\n",
    ),
};
