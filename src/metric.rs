//! Every metric that this crate emits, by name, and the one function that records each.
//!
//! The library only records; the daemon installs the recorder, calls [`describe`] and sets
//! [`BUCKETS`]. A label's value comes from an enum, from a `&'static str` of another module, or is
//! the name of a model, agent or tool in the settings, or of one of the tools that an MCP server has, of
//! which so many are taken: the number of series has an end.
//! Ids are never labels.

mod buckets;
mod describe;
mod label;

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use crate::budget::Spending;

pub use buckets::BUCKETS;
pub use describe::describe;
pub use label::{Lane, Rejection, SessionState, SlowPolicy, Strays, TokenKind, WorkerKind};

const BUILD_INFO: &str = "impresario_build_info";
const SESSIONS: &str = "impresario_sessions";
const TURNS_RUNNING: &str = "impresario_turns_running";
const TURNS: &str = "impresario_turns_total";
const TURN_SECONDS: &str = "impresario_turn_duration_seconds";
const FIRST_TOKEN_SECONDS: &str = "impresario_model_time_to_first_token_seconds";
const MODEL_CALLS: &str = "impresario_model_calls_total";
const MODEL_TOKENS: &str = "impresario_model_tokens_total";
const MODEL_COST: &str = "impresario_model_cost_micro_usd_total";
const MODEL_SWITCHES: &str = "impresario_model_switches_total";
const MODEL_CACHE: &str = "impresario_model_cache_total";
const DEGRADED_ANSWERS: &str = "impresario_degraded_answers_total";
const COMPACTIONS: &str = "impresario_context_compactions_total";
const TOOL_CALLS: &str = "impresario_tool_calls_total";
const TOOL_SECONDS: &str = "impresario_tool_duration_seconds";
const BREAKER: &str = "impresario_tool_breaker";
const MODEL_BREAKER: &str = "impresario_model_breaker";
const MODEL_BREAKER_OPENED: &str = "impresario_model_breaker_opened_total";
const MODEL_WAIT_SECONDS: &str = "impresario_model_wait_seconds";
const BREAKER_OPENED: &str = "impresario_tool_breaker_opened_total";
const CACHE: &str = "impresario_tool_cache_total";
const FALLBACKS: &str = "impresario_tool_fallbacks_total";
const SERVERS: &str = "impresario_tool_servers";
const SERVER_STARTS: &str = "impresario_tool_server_starts_total";
const SERVER_DEATHS: &str = "impresario_tool_server_deaths_total";
const APPROVALS_ASKED: &str = "impresario_approvals_asked_total";
const APPROVALS_DECIDED: &str = "impresario_approvals_decided_total";
const STRAYS: &str = "impresario_tool_strays_total";
const FAILURES: &str = "impresario_tool_failures_total";
const WORKER_RESTARTS: &str = "impresario_worker_restarts_total";
const QUEUE_DEPTH: &str = "impresario_queue_depth";
const QUEUE_WAIT_SECONDS: &str = "impresario_queue_wait_seconds";
const READERS: &str = "impresario_readers";
const READERS_BEHIND: &str = "impresario_readers_behind_total";
const COMMIT_WRITES: &str = "impresario_commit_batch_writes";
const COMMIT_SECONDS: &str = "impresario_commit_sync_seconds";
const STORE_BYTES: &str = "impresario_store_bytes";
const FEEDBACK: &str = "impresario_feedback_score";
const BUDGETS_REACHED: &str = "impresario_budgets_reached_total";
const TENANT_COST: &str = "impresario_tenant_cost_nano_usd_total";
const TENANT_TOKENS: &str = "impresario_tenant_tokens_total";
const REJECTED: &str = "impresario_rejected_total";
const RECOVERIES: &str = "impresario_recoveries_total";
const RETENTION_DELETED: &str = "impresario_retention_deleted_total";
const CONNECTIONS: &str = "impresario_control_connections";

/// Shows which version runs.
pub fn build_info() {
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// Shows how many sessions are in a state.
pub fn sessions(state: SessionState, count: usize) {
    gauge!(SESSIONS, "state" => state.label()).set(count as f64);
}

/// Shows how many turns run.
pub fn turns_running(count: usize) {
    gauge!(TURNS_RUNNING).set(count as f64);
}

/// Counts a finished turn; `status` is `TurnStatus::name()`.
pub fn turn_finished(status: &'static str, took: Duration) {
    counter!(TURNS, "status" => status).increment(1);
    histogram!(TURN_SECONDS, "status" => status).record(took);
}

/// Records how long the first piece of an answer took.
pub fn first_token(model: &str, took: Duration) {
    histogram!(FIRST_TOKEN_SECONDS, "model" => model.to_owned()).record(took);
}

/// Counts an ended model call; `outcome` is `ok`, `cancelled` or `ModelErrorKind::code()`.
pub fn model_call_ended(model: &str, outcome: &'static str) {
    counter!(MODEL_CALLS, "model" => model.to_owned(), "outcome" => outcome).increment(1);
}

/// Counts tokens of a model call.
pub fn model_tokens(model: &str, kind: TokenKind, tokens: u64) {
    counter!(MODEL_TOKENS, "model" => model.to_owned(), "kind" => kind.label()).increment(tokens);
}

/// Counts the cost of a model call; what is negative or no number counts nothing.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the float is positive, and a float too large for u64 becomes the largest u64"
)]
pub fn model_cost(model: &str, usd: f64) {
    let micro = (usd.max(0.0) * 1e6).round() as u64;
    counter!(MODEL_COST, "model" => model.to_owned()).increment(micro);
}

/// Counts a model call that did not fit into a budget; the names are `Scope::name()` and
/// `Measure::name()`.
pub fn budget_reached(scope: &'static str, measure: &'static str) {
    counter!(BUDGETS_REACHED, "scope" => scope, "measure" => measure).increment(1);
}

/// Adds to what a tenant spent. `tenant` must be one of the settings, or `other`.
pub fn tenant_spent(tenant: &str, spent: Spending) {
    counter!(TENANT_COST, "tenant" => tenant.to_owned()).increment(spent.nano_usd);
    counter!(TENANT_TOKENS, "tenant" => tenant.to_owned()).increment(spent.tokens);
}

/// Counts a turn that goes on with another model.
pub fn model_switched(from: &str, to: &str) {
    counter!(MODEL_SWITCHES, "from" => from.to_owned(), "to" => to.to_owned()).increment(1);
}

/// Counts a request of an agent whose answers are kept; `result` is `hit` or `miss`.
pub fn answer_cache_asked(model: &str, result: &'static str) {
    counter!(MODEL_CACHE, "model" => model.to_owned(), "result" => result).increment(1);
}

/// Counts an answer from the settings.
pub fn degraded_answer(agent: &str) {
    counter!(DEGRADED_ANSWERS, "agent" => agent.to_owned()).increment(1);
}

/// Counts a conversation that was made shorter; `how` is `trim` or `summary`.
pub fn context_compacted(how: &'static str) {
    counter!(COMPACTIONS, "how" => how).increment(1);
}

/// Counts an ended tool call; `outcome` is `Outcome::name()`. `tool` must be a tool that exists:
/// the model's own inventions are counted as `unknown`.
pub fn tool_call_ended(tool: &str, outcome: &'static str, took: Duration) {
    counter!(TOOL_CALLS, "tool" => tool.to_owned(), "outcome" => outcome).increment(1);
    histogram!(TOOL_SECONDS, "tool" => tool.to_owned()).record(took);
}

/// Shows in which of all its states a tool's breaker is.
pub fn breaker(tool: &str, state: &'static str, all: &[&'static str]) {
    for one in all {
        let is_it = f64::from(u8::from(*one == state));
        gauge!(BREAKER, "tool" => tool.to_owned(), "state" => *one).set(is_it);
    }
}

/// Shows in which of all its states a model's breaker is.
pub fn model_breaker(model: &str, state: &'static str, all: &[&'static str]) {
    for one in all {
        let is_it = f64::from(u8::from(*one == state));
        gauge!(MODEL_BREAKER, "model" => model.to_owned(), "state" => *one).set(is_it);
    }
}

/// Counts a model's breaker that opened.
pub fn model_breaker_opened(model: &str) {
    counter!(MODEL_BREAKER_OPENED, "model" => model.to_owned()).increment(1);
}

/// Records how long a call waited for a provider's limits.
pub fn model_waited(model: &str, waited: Duration) {
    histogram!(MODEL_WAIT_SECONDS, "model" => model.to_owned()).record(waited);
}

/// Counts a breaker that opened.
pub fn breaker_opened(tool: &str) {
    counter!(BREAKER_OPENED, "tool" => tool.to_owned()).increment(1);
}

/// Counts a call of a tool whose answers are kept; `result` is `hit` or `miss`.
pub fn cache_asked(tool: &str, result: &'static str) {
    counter!(CACHE, "tool" => tool.to_owned(), "result" => result).increment(1);
}

/// Counts a call that something else answered in a tool's stead.
pub fn fallback_used(tool: &str) {
    counter!(FALLBACKS, "tool" => tool.to_owned()).increment(1);
}

/// Shows how many of an MCP server run: one, or one for each session.
pub fn servers_running(server: &str, count: usize) {
    gauge!(SERVERS, "server" => server.to_owned()).set(count as f64);
}

/// Counts a start of an MCP server; `result` is `ok` or `failed`.
pub fn server_started(server: &str, result: &'static str) {
    counter!(SERVER_STARTS, "server" => server.to_owned(), "result" => result).increment(1);
}

/// Counts an MCP server that died.
pub fn server_died(server: &str) {
    counter!(SERVER_DEATHS, "server" => server.to_owned()).increment(1);
}

/// Counts a run or call of a tool that failed; `cause` is `Cause::name()`. `tool` as in
/// [`tool_call_ended`].
pub fn tool_failed(tool: &str, cause: &'static str) {
    counter!(FAILURES, "tool" => tool.to_owned(), "cause" => cause).increment(1);
}

/// Counts processes that were ended outside of their run.
pub fn strays_ended(cause: Strays, processes: usize) {
    counter!(STRAYS, "cause" => cause.label()).increment(processes as u64);
}

/// Counts a question to a person about a tool call; `question` is `Question::name()`.
pub fn approval_asked(question: &'static str) {
    counter!(APPROVALS_ASKED, "question" => question).increment(1);
}

/// Counts the end of a question to a person; `decision` is `Decision::name()`.
pub fn approval_decided(decision: &'static str) {
    counter!(APPROVALS_DECIDED, "decision" => decision).increment(1);
}

/// Counts a worker that was started again.
pub fn worker_restarted(kind: WorkerKind) {
    counter!(WORKER_RESTARTS, "kind" => kind.label()).increment(1);
}

/// Shows how much work waits in a lane.
pub fn queue_depth(lane: Lane, waiting: usize) {
    gauge!(QUEUE_DEPTH, "lane" => lane.label()).set(waiting as f64);
}

/// Records how long a piece of work waited in a lane.
pub fn queue_waited(lane: Lane, waited: Duration) {
    histogram!(QUEUE_WAIT_SECONDS, "lane" => lane.label()).record(waited);
}

/// Shows how many readers are attached.
pub fn readers(count: usize) {
    gauge!(READERS).set(count as f64);
}

/// Counts a reader that fell behind.
pub fn reader_behind(policy: SlowPolicy) {
    counter!(READERS_BEHIND, "policy" => policy.label()).increment(1);
}

/// Records a commit: how many appends and changes it made durable, and how long that took.
pub fn committed(writes: usize, sync: Duration) {
    histogram!(COMMIT_WRITES).record(writes as f64);
    histogram!(COMMIT_SECONDS).record(sync);
}

/// Shows the store's size on disk.
pub fn store_bytes(bytes: u64) {
    gauge!(STORE_BYTES).set(bytes as f64);
}

/// Records what somebody thinks of a turn, from 0 to 1. `agent` must be an agent of the settings, or
/// `unknown`.
pub fn feedback(agent: &str, score: f64) {
    histogram!(FEEDBACK, "agent" => agent.to_owned()).record(score);
}

/// Counts refused work.
pub fn rejected(reason: Rejection) {
    counter!(REJECTED, "reason" => reason.label()).increment(1);
}

/// Counts an unfinished session that is taken up again.
pub fn recovered() {
    counter!(RECOVERIES).increment(1);
}

/// Counts sessions that the rules of the settings deleted.
pub fn retention_deleted(count: u64) {
    counter!(RETENTION_DELETED).increment(count);
}

/// Shows how many control connections are open.
pub fn control_connections(count: usize) {
    gauge!(CONNECTIONS).set(count as f64);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    use metrics::{
        Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    };

    use super::*;

    /// Remembers names.
    #[derive(Default)]
    struct Names {
        described: Mutex<BTreeSet<String>>,
        emitted: Mutex<BTreeSet<String>>,
        histograms: Mutex<BTreeSet<String>>,
    }

    impl Names {
        fn describe(&self, key: &KeyName, sentence: &SharedString) {
            assert!(!sentence.is_empty(), "{} has no sentence", key.as_str());
            self.described.lock().unwrap().insert(key.as_str().into());
        }

        fn emit(&self, key: &Key) {
            self.emitted.lock().unwrap().insert(key.name().into());
        }
    }

    impl Recorder for Names {
        fn describe_counter(&self, key: KeyName, _: Option<Unit>, sentence: SharedString) {
            self.describe(&key, &sentence);
        }

        fn describe_gauge(&self, key: KeyName, _: Option<Unit>, sentence: SharedString) {
            self.describe(&key, &sentence);
        }

        fn describe_histogram(&self, key: KeyName, _: Option<Unit>, sentence: SharedString) {
            self.describe(&key, &sentence);
        }

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            assert!(
                key.name().ends_with("_total"),
                "{} is a counter",
                key.name()
            );
            self.emit(key);
            Counter::noop()
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            self.emit(key);
            Gauge::noop()
        }

        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            self.emit(key);
            self.histograms.lock().unwrap().insert(key.name().into());
            Histogram::noop()
        }
    }

    fn record_everything() {
        let took = Duration::from_millis(1);
        build_info();
        sessions(SessionState::Live, 1);
        turns_running(1);
        turn_finished("completed", took);
        first_token("m", took);
        model_call_ended("m", "ok");
        model_tokens("m", TokenKind::Input, 1);
        model_cost("m", 0.5);
        budget_reached("turn", "usd");
        tenant_spent("default", Spending::NOTHING);
        model_switched("m", "n");
        answer_cache_asked("m", "hit");
        degraded_answer("a");
        context_compacted("trim");
        tool_call_ended("t", "ok", took);
        breaker("t", "open", &["closed", "open"]);
        breaker_opened("t");
        model_breaker("m", "open", &["closed", "open"]);
        model_breaker_opened("m");
        model_waited("m", took);
        cache_asked("t", "hit");
        fallback_used("t");
        servers_running("s", 1);
        server_started("s", "ok");
        server_died("s");
        approval_asked("run");
        approval_decided("approved");
        tool_failed("t", "crashed");
        strays_ended(Strays::Start, 1);
        worker_restarted(WorkerKind::Tool);
        queue_depth(Lane::ModelCalls, 1);
        queue_waited(Lane::ModelCalls, took);
        readers(1);
        reader_behind(SlowPolicy::Coalesce);
        committed(1, took);
        store_bytes(1);
        feedback("a", 0.5);
        rejected(Rejection::Overloaded);
        recovered();
        retention_deleted(1);
        control_connections(1);
    }

    #[test]
    fn every_metric_is_described_and_every_histogram_has_buckets() {
        let names = Names::default();
        metrics::with_local_recorder(&names, || {
            describe();
            record_everything();
        });
        let described = names.described.into_inner().unwrap();
        assert_eq!(described, names.emitted.into_inner().unwrap());
        let bucketed: BTreeSet<_> = BUCKETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(bucketed, names.histograms.into_inner().unwrap());
        for (name, bounds) in BUCKETS {
            assert!(bounds.is_sorted(), "{name}");
        }
    }

    #[test]
    fn a_name_that_is_declared_is_described() {
        let source = include_str!("metric.rs");
        let code = source.split("#[cfg(test)]").next().unwrap();
        let declared: BTreeSet<_> = code
            .split('"')
            .filter(|text| text.starts_with("impresario_"))
            .map(str::to_owned)
            .collect();
        let names = Names::default();
        metrics::with_local_recorder(&names, describe);
        assert_eq!(declared, names.described.into_inner().unwrap());
    }
}
