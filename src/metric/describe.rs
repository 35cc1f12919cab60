//! What each metric is, in a sentence, for whoever reads them.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

use super::{
    APPROVALS_ASKED, APPROVALS_DECIDED, BREAKER, BREAKER_OPENED, BUDGETS_REACHED, BUILD_INFO,
    CACHE, COMMIT_SECONDS, COMMIT_WRITES, COMPACTIONS, CONNECTIONS, DEGRADED_ANSWERS, FAILURES,
    FALLBACKS, FEEDBACK, FIRST_TOKEN_SECONDS, MODEL_BREAKER, MODEL_BREAKER_OPENED, MODEL_CACHE,
    MODEL_CALLS, MODEL_COST, MODEL_SWITCHES, MODEL_TOKENS, MODEL_WAIT_SECONDS, QUEUE_DEPTH,
    QUEUE_WAIT_SECONDS, READERS, READERS_BEHIND, RECOVERIES, REJECTED, RETENTION_DELETED,
    SERVER_DEATHS, SERVER_STARTS, SERVERS, SESSIONS, STORE_BYTES, STRAYS, TENANT_COST,
    TENANT_TOKENS, TOOL_CALLS, TOOL_SECONDS, TURN_SECONDS, TURNS, TURNS_RUNNING, WORKER_RESTARTS,
};

/// Gives each metric its unit and its sentence. Call once, after the recorder is installed.
pub fn describe() {
    describe_gauges();
    describe_counters();
    describe_tool_counters();
    describe_histograms();
}

fn describe_gauges() {
    describe_gauge!(
        BUILD_INFO,
        Unit::Count,
        "always 1; the label is the version"
    );
    describe_gauge!(SESSIONS, Unit::Count, "sessions, by state");
    describe_gauge!(TURNS_RUNNING, Unit::Count, "turns that run now");
    describe_gauge!(
        BREAKER,
        Unit::Count,
        "1 for the state that a tool's breaker is in, by tool and state"
    );
    describe_gauge!(
        MODEL_BREAKER,
        Unit::Count,
        "1 for the state that a model's breaker is in, by model and state"
    );
    describe_gauge!(SERVERS, Unit::Count, "MCP servers that run, by server");
    describe_gauge!(QUEUE_DEPTH, Unit::Count, "work that waits, by lane");
    describe_gauge!(READERS, Unit::Count, "readers attached to sessions");
    describe_gauge!(STORE_BYTES, Unit::Bytes, "size of the store on disk");
    describe_gauge!(CONNECTIONS, Unit::Count, "open control connections");
}

fn describe_counters() {
    describe_counter!(TURNS, Unit::Count, "turns that ended, by status");
    describe_counter!(
        MODEL_CALLS,
        Unit::Count,
        "model calls that ended, by model and outcome"
    );
    describe_counter!(
        MODEL_TOKENS,
        Unit::Count,
        "tokens of model calls, by model and kind"
    );
    describe_counter!(
        MODEL_BREAKER_OPENED,
        Unit::Count,
        "times a model's breaker opened, by model"
    );
    describe_counter!(
        MODEL_COST,
        Unit::Count,
        "cost of model calls whose price is known, in millionths of a US dollar, by model"
    );
    describe_budget_counters();
    describe_answer_counters();
    describe_counter!(
        WORKER_RESTARTS,
        Unit::Count,
        "workers that were started again, by kind"
    );
    describe_counter!(
        READERS_BEHIND,
        Unit::Count,
        "times a reader fell behind, by what was done"
    );
    describe_counter!(
        REJECTED,
        Unit::Count,
        "requests that were refused, by reason"
    );
    describe_counter!(
        RECOVERIES,
        Unit::Count,
        "unfinished sessions taken up again after a start"
    );
    describe_counter!(
        RETENTION_DELETED,
        Unit::Count,
        "sessions deleted by the rules of [retention]"
    );
}

/// What is spent, and by whom.
fn describe_budget_counters() {
    describe_counter!(
        BUDGETS_REACHED,
        Unit::Count,
        "times that a model call did not fit into a budget, by scope and measure"
    );
    describe_counter!(
        TENANT_COST,
        Unit::Count,
        "cost of model calls whose price is known, in thousand-millionths of a US dollar, by tenant; tenants that the settings do not name are other"
    );
    describe_counter!(
        TENANT_TOKENS,
        Unit::Count,
        "tokens of model calls, by tenant; tenants that the settings do not name are other"
    );
}

/// How answers come about when it is not the first model that gives them.
fn describe_answer_counters() {
    describe_counter!(
        MODEL_SWITCHES,
        Unit::Count,
        "times a turn went on with another model, by the models from and to"
    );
    describe_counter!(
        MODEL_CACHE,
        Unit::Count,
        "requests of agents whose answers are kept, by model and result: hit or miss"
    );
    describe_counter!(
        DEGRADED_ANSWERS,
        Unit::Count,
        "answers from the settings, because no model gave one, by agent"
    );
    describe_counter!(
        COMPACTIONS,
        Unit::Count,
        "times a conversation was made shorter, by how: trim or summary"
    );
}

/// What happens to tools and their calls.
fn describe_tool_counters() {
    describe_counter!(
        TOOL_CALLS,
        Unit::Count,
        "tool calls that ended, by tool and outcome"
    );
    describe_counter!(
        BREAKER_OPENED,
        Unit::Count,
        "times a tool's breaker opened, by tool"
    );
    describe_counter!(
        CACHE,
        Unit::Count,
        "calls of tools whose answers are kept, by tool and result: hit or miss"
    );
    describe_counter!(
        FALLBACKS,
        Unit::Count,
        "calls that something else answered in a tool's stead, by tool"
    );
    describe_counter!(
        SERVER_STARTS,
        Unit::Count,
        "starts of MCP servers, by server and result: ok or failed"
    );
    describe_counter!(
        SERVER_DEATHS,
        Unit::Count,
        "MCP servers that died, by server"
    );
    describe_counter!(
        FAILURES,
        Unit::Count,
        "runs and calls of tools that failed, by tool and cause"
    );
    describe_counter!(
        STRAYS,
        Unit::Count,
        "processes of tools that outlived their supervisor and were ended, by cause: start (a killed daemon had left them) or supervisor (it was killed)"
    );
    describe_counter!(
        APPROVALS_ASKED,
        Unit::Count,
        "questions to people about tool calls, by question"
    );
    describe_counter!(
        APPROVALS_DECIDED,
        Unit::Count,
        "questions to people about tool calls that ended, by decision"
    );
}

fn describe_histograms() {
    describe_histogram!(TURN_SECONDS, Unit::Seconds, "length of turns, by status");
    describe_histogram!(
        FIRST_TOKEN_SECONDS,
        Unit::Seconds,
        "from a request to the first piece of the answer, by model"
    );
    describe_histogram!(
        MODEL_WAIT_SECONDS,
        Unit::Seconds,
        "waits for a provider's limits, by model"
    );
    describe_histogram!(TOOL_SECONDS, Unit::Seconds, "length of tool calls, by tool");
    describe_histogram!(
        QUEUE_WAIT_SECONDS,
        Unit::Seconds,
        "time work waited, by lane"
    );
    describe_histogram!(
        FEEDBACK,
        Unit::Count,
        "what people think of turns, from 0 (useless) to 1 (just right), by agent"
    );
    describe_histogram!(
        COMMIT_WRITES,
        Unit::Count,
        "appends and changes that one commit made durable"
    );
    describe_histogram!(
        COMMIT_SECONDS,
        Unit::Seconds,
        "time to write, flush and sync a commit"
    );
}
