//! MCP servers with real processes: when they start and end, what their tools become, what happens
//! when they die in the middle of a call.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "helpers outside #[test] functions may unwrap too, and a test reads its own variable"
)]

#[path = "support/company.rs"]
mod company;
#[path = "support/programs.rs"]
mod programs;
#[path = "support/witness.rs"]
mod witness;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use impresario::breaker::BreakerState;
use impresario::chunk::{Channel, Item};
use impresario::clock::{Clock, SystemClock};
use impresario::context::ToolDefinition;
use impresario::event::{AttachmentKind, Cause, EffectClass, Fact, Outcome};
use impresario::id::SessionId;
use impresario::runtime::{Ruling, Verdict};
use impresario::settings::{
    ApprovalMode, HeaderSettings, SandboxLevel, Scope, ToolKind, ToolSettings,
};
use impresario::store::MemoryStore;
use impresario::tool::chain::Chain;
use impresario::tool::mcp::{Server, server};
use impresario::tool::{Call, Care, OutputSink, RunEnd, Tool, ToolSpec, Toolbox, ToolboxError};
use impresario::{Agent, Impresario};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use company::{
    Act, Puppet, Stage, all, event, events, eventually, is_end, reader, results, say, turn, until,
    within,
};
use programs::environment;
use witness::Witness;

/// The server.
fn script() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/support/mcp_server.py")
}

/// A folder in which a server notes what it does.
struct Play {
    dir: tempfile::TempDir,
}

impl Play {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Settings of the test's server.
    fn settings(&self, mode: &str) -> ToolSettings {
        let script = script();
        let words = [
            "python3",
            script.to_str().unwrap(),
            self.path().to_str().unwrap(),
            mode,
        ];
        ToolSettings {
            kind: ToolKind::Mcp,
            command: words.iter().map(|word| (*word).to_owned()).collect(),
            grace_ms: 1_000,
            backoff_first_ms: 1,
            backoff_cap_ms: 2,
            ..ToolSettings::default()
        }
    }

    fn server(&self, change: impl FnOnce(&mut ToolSettings)) -> Arc<Server> {
        let mut settings = self.settings("");
        change(&mut settings);
        server("fake", &settings, &environment(&self.path().join("data"))).unwrap()
    }

    /// A toolbox with the server alone.
    fn toolbox(&self, change: impl FnOnce(&mut ToolSettings)) -> Toolbox {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        Toolbox::with_servers([], [self.server(change)], &clock).unwrap()
    }

    /// A company whose only agent has these tools, and a model that calls one of them.
    async fn company(&self, tool: &'static str, arguments: Value) -> Impresario {
        let model = Puppet::new(move |asked| match asked.results.len() {
            0 => vec![Act::Call(tool, arguments.to_string())],
            _ => vec![say("done")],
        });
        self.company_of(&model, |_| {}).await
    }

    async fn company_of(
        &self,
        model: &Puppet,
        change: impl FnOnce(&mut ToolSettings),
    ) -> Impresario {
        let agent = Agent::new("actor").model("puppet").tools(["fake"]);
        let builder = Stage::new(model, &[]).builder();
        let builder = builder.server(self.server(change)).agent(agent);
        builder.start().await.unwrap()
    }

    /// Lines that the server has noted under this name.
    fn lines(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path().join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn starts(&self) -> usize {
        self.lines("starts").len()
    }
}

fn calling(tool: &str, arguments: &Value) -> Call {
    Call {
        tool: tool.to_owned(),
        arguments: arguments.to_string(),
        idempotency_key: "session:7".to_owned(),
        attempt: 2,
        owner: None,
        output: OutputSink::none(),
        agents: None,
    }
}

async fn run(tools: &Toolbox, tool: &str) -> RunEnd {
    within(tools.run(&calling(tool, &json!({})))).await
}

fn ok(text: &str) -> RunEnd {
    RunEnd::Done(Outcome::Ok, text.to_owned(), None)
}

fn said(end: RunEnd) -> String {
    match end {
        RunEnd::Done(_, text, _) | RunEnd::Died(_, text) => text,
    }
}

fn session_id(number: u128) -> Option<SessionId> {
    Some(SessionId::from_u128(number))
}

#[tokio::test]
async fn a_server_is_started_when_it_is_first_needed_and_its_tools_are_known_then() {
    let play = Play::new();
    let company = play.company("fake__echo", json!({"text": "hi"})).await;
    let tools = company.tools();
    let ours = |tools: &[impresario::runtime::ToolInfo]| -> Vec<(String, String)> {
        let ours = tools.iter().filter(|tool| tool.name.starts_with("fake"));
        ours.map(|tool| (tool.name.clone(), tool.kind.clone()))
            .collect()
    };
    assert_eq!(ours(&tools), [("fake".to_owned(), "mcp_server".to_owned())]);
    let agents = company.agents();
    assert_eq!(agents[0].tools, ["fake"]);
    assert_eq!(play.starts(), 0);
    let session = company.session("actor").create().await.unwrap();
    assert_eq!(play.starts(), 0);
    let events = turn(&session, "go").await;
    assert_eq!(results(&events), [(Outcome::Ok, 1, "hi".to_owned())]);
    assert_eq!(play.starts(), 1);
    let known = ours(&company.tools());
    assert!(
        known.contains(&("fake__die_pure".to_owned(), "mcp".to_owned())),
        "{known:?}"
    );
    company.stop(Duration::from_secs(20)).await.unwrap();
}

/// A model that says the names of the tools that it is offered.
fn reciter() -> Puppet {
    Puppet::new(|asked| {
        let tools = &asked.request.tools;
        let names: Vec<_> = tools.iter().map(|it| it.name.as_str()).collect();
        vec![say(&names.join(" "))]
    })
}

#[tokio::test]
async fn the_model_is_offered_what_the_server_lists_by_name_and_in_a_stable_order() {
    let play = Play::new();
    let model = reciter();
    let company = play.company_of(&model, |settings| {
        settings.include = ["show", "echo", "die pure", "fail"]
            .map(str::to_owned)
            .to_vec();
        settings.exclude = vec!["fail".to_owned()];
    });
    let company = company.await;
    let session = company.session("actor").create().await.unwrap();
    let expected = "fake__die_pure fake__echo fake__show";
    assert_eq!(company::words(&turn(&session, "one").await), expected);
    assert_eq!(company::words(&turn(&session, "two").await), expected);
    company.stop(Duration::from_secs(20)).await.unwrap();
}

#[tokio::test]
async fn an_agent_may_name_one_tool_of_a_server() {
    let play = Play::new();
    let model = reciter();
    let agent = Agent::new("actor")
        .model("puppet")
        .tools(["fake__show", "calc", "fake__absent"]);
    let builder = Stage::new(&model, &[])
        .builder()
        .server(play.server(|_| {}))
        .agent(agent);
    let company = builder.start().await.unwrap();
    assert_eq!(
        company.agents()[0].tools,
        ["calc", "fake__absent", "fake__show"]
    );
    let session = company.session("actor").create().await.unwrap();
    assert_eq!(
        company::words(&turn(&session, "one").await),
        "calc fake__show"
    );
    company.stop(Duration::from_secs(20)).await.unwrap();
}

#[tokio::test]
async fn a_call_carries_its_key_and_its_attempt() {
    let play = Play::new();
    let tools = play.toolbox(|_| {});
    let meta: Value = serde_json::from_str(&said(run(&tools, "fake__meta").await)).unwrap();
    assert_eq!(meta["impresario/idempotencyKey"], "session:7");
    assert_eq!(meta["impresario/attempt"], 2);
    tools.close().await;
}

#[tokio::test]
async fn sessions_share_a_server_unless_each_has_its_own() {
    let play = Play::new();
    for (scope, processes) in [(Scope::Shared, 1), (Scope::Session, 2)] {
        let before = play.starts();
        let tools = play.toolbox(|settings| settings.scope = scope);
        let mut pids = std::collections::BTreeSet::new();
        for owner in [1, 2, 1] {
            let call = Call {
                owner: session_id(owner),
                ..calling("fake__pid", &json!({}))
            };
            pids.insert(said(within(tools.run(&call)).await));
        }
        assert_eq!(pids.len(), processes, "{scope:?}");
        assert_eq!(play.starts() - before, processes, "{scope:?}");
        tools.close().await;
    }
}

#[tokio::test]
async fn many_who_ask_at_once_start_one_server() {
    let play = Play::new();
    let tools = play.toolbox(|_| {});
    let calls = (0..20).map(|_| run(&tools, "fake__pid"));
    let pids: std::collections::BTreeSet<_> = futures_util::future::join_all(calls)
        .await
        .into_iter()
        .map(said)
        .collect();
    assert_eq!((pids.len(), play.starts()), (1, 1));
    tools.close().await;
}

#[tokio::test]
async fn the_server_that_was_idle_longest_gives_way_to_a_session_beyond_the_limit() {
    let play = Play::new();
    let tools = play.toolbox(|settings| {
        settings.scope = Scope::Session;
        settings.max_servers = 2;
    });
    let call = |owner, tool: &str| Call {
        owner: session_id(owner),
        ..calling(tool, &json!({}))
    };
    for owner in [1, 2, 3] {
        within(tools.run(&call(owner, "fake__pid"))).await;
    }
    let pid = said(within(tools.run(&call(2, "fake__pid"))).await);
    assert_eq!(play.starts(), 3);
    assert!(play.lines("starts")[1].ends_with(&pid));
    // Both are busy: there is no room.
    let (waits, more) = (call(2, "fake__wait"), call(3, "fake__wait"));
    let third = async {
        eventually(async || {
            play.lines("calls")
                .iter()
                .filter(|it| *it == "wait")
                .count()
                == 2
        })
        .await;
        within(tools.run(&call(4, "fake__pid"))).await
    };
    let refused = tokio::select! {
        end = tools.run(&waits) => panic!("{end:?}"),
        end = tools.run(&more) => panic!("{end:?}"),
        end = third => end,
    };
    let text = said(refused);
    assert!(
        text.contains("all 2 places are in use (max_servers)"),
        "{text}"
    );
    tools.close().await;
}

#[tokio::test]
async fn a_server_that_nobody_uses_is_stopped_and_started_again_when_it_is_needed() {
    let play = Play::new();
    let mut witness = Witness::new(play.path());
    let tools = play.toolbox(|settings| settings.idle_ms = 50);
    assert_eq!(run(&tools, "fake__echo").await, ok(""));
    assert_eq!(witness.all_gone().await, ["started"]);
    std::fs::remove_file(&witness.path).unwrap();
    assert_eq!(run(&tools, "fake__echo").await, ok(""));
    assert_eq!(play.starts(), 2);
    tools.close().await;
}

#[tokio::test]
async fn a_server_that_is_killed_in_the_middle_of_a_call_is_started_again() {
    let play = Play::new();
    let tools = play.toolbox(|_| {});
    let end = run(&tools, "fake__die").await;
    let RunEnd::Died(Outcome::Error, reason) = end else {
        panic!("{end:?} is no death");
    };
    assert!(reason.contains("ended during the call"), "{reason}");
    assert!(reason.contains("SIGKILL"), "{reason}");
    assert_eq!(run(&tools, "fake__echo").await, ok(""));
    assert_eq!(play.starts(), 2);
    tools.close().await;
}

#[tokio::test]
async fn what_a_death_means_for_the_call_follows_from_the_annotations() {
    let table = [
        ("fake__die_pure", Outcome::Ok, 2, "survived"),
        ("fake__die_idempotent", Outcome::Ok, 2, "survived"),
        ("fake__die_once", Outcome::Unknown, 1, "outcome unknown"),
    ];
    for (tool, outcome, runs, text) in table {
        let play = Play::new();
        let company = play.company(tool, json!({})).await;
        let session = company.session("actor").create().await.unwrap();
        let events = turn(&session, "go").await;
        let found = results(&events);
        let [(found_outcome, found_runs, found_text)] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!(
            (*found_outcome, *found_runs),
            (outcome, runs),
            "{tool}: {found_text}"
        );
        assert!(found_text.contains(text), "{tool}: {found_text}");
        assert_eq!(
            play.lines("calls").len(),
            usize::try_from(runs).unwrap(),
            "{tool}"
        );
        company.stop(Duration::from_secs(20)).await.unwrap();
    }
}

#[tokio::test]
async fn annotations_become_effect_classes_and_tell_what_destroys() {
    let play = Play::new();
    let tools = play.toolbox(|_| {});
    within(tools.ready(None)).await;
    let table = [
        ("fake__echo", EffectClass::Pure, false),
        ("fake__die_idempotent", EffectClass::Idempotent, false),
        ("fake__die", EffectClass::AtMostOnce, true),
    ];
    for (name, effect, is_destructive) in table {
        let host = tools.host(name).unwrap();
        assert_eq!(
            (host.effect(), host.tool().is_destructive()),
            (effect, is_destructive)
        );
    }
    assert_eq!(tools.rules()["fake__"].effect, EffectClass::AtMostOnce);
    tools.close().await;
}

#[tokio::test]
async fn progress_is_streamed_as_output_and_puts_the_timeout_off() {
    let play = Play::new();
    let model = Puppet::new(|asked| match asked.results.len() {
        0 => vec![Act::Call(
            "fake__slow",
            json!({"steps": 5, "pause": 0.5}).to_string(),
        )],
        _ => vec![say("done")],
    });
    // Five times 500 ms are more than 2 s, but none of them is.
    let company = play
        .company_of(&model, |settings| settings.timeout_ms = Some(2_000))
        .await;
    let session = company.session("actor").create().await.unwrap();
    let mut turn = within(session.send("go")).await.unwrap();
    let chunks = all(&mut turn).await;
    let shown: String = chunks
        .iter()
        .filter_map(|chunk| match &chunk.item {
            Item::Delta(delta) if delta.channel == Channel::ToolOutput => Some(&*delta.text),
            Item::Delta(_)
            | Item::Event(_)
            | Item::Reset { .. }
            | Item::Gap { .. }
            | Item::End(_) => None,
        })
        .collect();
    assert_eq!(shown, "1/5 working\n2/5\n3/5\n4/5\n5/5\n");
    assert_eq!(
        results(&events(&chunks)),
        [(Outcome::Ok, 1, "worked".to_owned())]
    );
    company.stop(Duration::from_secs(20)).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_silent_for_too_long_or_never_done_is_a_timeout_and_hears_of_it() {
    let table = [
        (200, 5_000, "silent for 200 ms"),
        (2_000, 2_500, "no answer within 2500 ms"),
    ];
    for (timeout, total, says) in table {
        let play = Play::new();
        let tools = play.toolbox(|settings| {
            settings.timeout_ms = Some(timeout);
            settings.total_timeout_ms = total;
        });
        within(tools.ready(None)).await;
        let arguments = json!({"steps": 100, "pause": if timeout > 1_000 { 0.2 } else { 60.0 }});
        let end = within(tools.run(&calling("fake__slow", &arguments))).await;
        let RunEnd::Died(Outcome::Timeout, reason) = end else {
            panic!("{end:?} is no timeout");
        };
        assert!(reason.contains(says), "{reason}");
        eventually(async || play.lines("cancelled").len() == 1).await;
        assert_eq!(run(&tools, "fake__echo").await, ok(""));
        assert_eq!(play.starts(), 1);
        tools.close().await;
    }
}

#[tokio::test]
async fn cancel_reaches_the_server_and_the_server_stays() {
    let play = Play::new();
    let company = play.company("fake__wait", json!({})).await;
    let session = company.session("actor").create().await.unwrap();
    let mut stream = reader(&session).await;
    session.say("go").await.unwrap();
    // It says that it waits before it does.
    loop {
        let chunk = within(stream.next()).await.unwrap();
        if matches!(&chunk.item, Item::Delta(delta) if delta.channel == Channel::ToolOutput) {
            break;
        }
    }
    session.cancel().await.unwrap();
    let chunks = until(&mut stream, is_end).await;
    let (outcome, _, _) = results(&chunks.iter().filter_map(event).collect::<Vec<_>>())[0];
    assert_eq!(outcome, Outcome::Cancelled);
    eventually(async || play.lines("cancelled") == ["nobody waits for the answer"]).await;
    assert_eq!(
        company
            .call_tool("fake__echo", r#"{"text": "a"}"#)
            .await
            .unwrap(),
        "a"
    );
    assert_eq!(play.starts(), 1);
    company.stop(Duration::from_secs(20)).await.unwrap();
}

#[tokio::test]
async fn a_tool_that_is_added_while_the_server_runs_is_offered_and_the_list_is_read_once_for_it() {
    let play = Play::new();
    let tools = play.toolbox(|_| {});
    within(tools.ready(None)).await;
    assert!(tools.get("fake__grown").is_none());
    let (before, echo) = (tools.rules(), tools.host("fake__echo").unwrap());
    assert_eq!(run(&tools, "fake__grow").await, ok("grown"));
    eventually(async || tools.get("fake__grown").is_some()).await;
    assert_eq!(run(&tools, "fake__grown").await, ok("I am new"));
    assert_eq!(tools.rules().len(), before.len() + 1);
    // Four notices came at once.
    assert_eq!(play.lines("lists").len(), 2);
    assert!(
        Arc::ptr_eq(&echo, &tools.host("fake__echo").unwrap()),
        "a host was made anew"
    );
    tools.close().await;
}

#[tokio::test]
async fn images_and_structured_content_are_kept_with_the_result() {
    let play = Play::new();
    let company = play.company("fake__show", json!({})).await;
    let session = company.session("actor").create().await.unwrap();
    let events = turn(&session, "go").await;
    let result = events
        .iter()
        .find_map(|event| {
            if let Fact::ToolResult(result) = &event.fact {
                Some(result)
            } else {
                None
            }
        })
        .unwrap();
    assert_eq!(
        result.content,
        "look:\n[image image/png, 4 bytes]\n{\"width\":2}"
    );
    let [image] = result.attachments.as_slice() else {
        panic!("{:?}", result.attachments);
    };
    assert_eq!(image.kind, AttachmentKind::Image);
    assert_eq!(image.data.as_deref(), Some("AQIDBA=="));
    assert_eq!(result.sandbox, Some(impresario::event::Sandbox::Basic));
    company.stop(Duration::from_secs(20)).await.unwrap();
}

#[tokio::test]
async fn a_servers_own_requests_are_declined_refused_or_answered_with_nothing() {
    let play = Play::new();
    let tools = play.toolbox(|_| {});
    let table = [
        ("fake__elicit", "\"action\": \"decline\""),
        ("fake__sample", "-32601"),
        ("fake__roots", "\"roots\": []"),
    ];
    for (tool, expected) in table {
        let text = said(run(&tools, tool).await);
        assert!(text.contains(expected), "{tool}: {text}");
    }
    tools.close().await;
}

#[tokio::test]
async fn what_a_tool_says_no_to_is_an_error_for_the_model_and_counts_for_its_breaker() {
    let play = Play::new();
    let tools = play.toolbox(|settings| settings.breaker_failures = 2);
    for _ in 0..2 {
        let expected = RunEnd::Done(
            Outcome::Error,
            "no such thing".to_owned(),
            Some(Cause::BadAnswer),
        );
        assert_eq!(run(&tools, "fake__fail").await, expected);
    }
    let text = said(run(&tools, "fake__fail").await);
    assert!(text.contains("was not called"), "{text}");
    let breaker = tools.host("fake__fail").unwrap().breaker();
    assert_eq!(breaker.state, BreakerState::Open);
    assert_eq!(run(&tools, "fake__echo").await, ok(""));
    let text = said(run(&tools, "fake__nothing").await);
    assert!(text.contains("there is no tool named"), "{text}");
    tools.close().await;
}

#[tokio::test]
async fn a_server_that_crashes_again_and_again_is_given_up_for_a_while_and_stops_no_turn() {
    let play = Play::new();
    let model = Puppet::new(|asked| match asked.results.len() {
        0 => vec![Act::Call("fake__echo", "{}".to_owned())],
        _ => vec![say(&asked.results.concat())],
    });
    let crash = play.settings("crash").command;
    let company = play.company_of(&model, |settings| {
        settings.command = crash;
        settings.max_restarts = 2;
    });
    let company = company.await;
    let session = company.session("actor").create().await.unwrap();
    for _ in 0..4 {
        let events = turn(&session, "go").await;
        assert_eq!(
            company::status(&events),
            Some(impresario::event::TurnStatus::Completed)
        );
        let words = company::words(&events);
        assert!(words.contains("exit code 3"), "{words}");
        assert!(words.contains("no way"), "{words}");
    }
    let description = || {
        let tools = company.tools();
        let found = tools.iter().find(|tool| tool.name == "fake");
        found.unwrap().description.clone()
    };
    eventually(async || description().contains("ended too often")).await;
    let words = company::words(&turn(&session, "go").await);
    assert!(words.contains("ended too often"), "{words}");
    assert_eq!(play.starts(), 3);
    company.reset_tool("fake").unwrap();
    let fault = company.call_tool("fake__echo", "{}").await.unwrap_err();
    assert!(fault.message.contains("exit code 3"), "{fault:?}");
    assert_eq!(play.starts(), 4);
    company.stop(Duration::from_secs(20)).await.unwrap();
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_ended_when_its_time_to_start_is_over() {
    let play = Play::new();
    let mut witness = Witness::new(play.path());
    let mute = play.settings("mute").command;
    let tools = play.toolbox(|settings| {
        settings.command = mute;
        settings.start_timeout_ms = 500;
        settings.max_restarts = 0;
    });
    let text = said(run(&tools, "fake__echo").await);
    assert!(text.contains("was not ready within 500 ms"), "{text}");
    assert_eq!(witness.all_gone().await, ["started"]);
    assert_eq!(play.starts(), 1);
}

#[tokio::test]
async fn a_server_that_hangs_is_waited_for_once_and_then_holds_up_no_step() {
    let play = Play::new();
    let mute = play.settings("mute").command;
    let tools = play.toolbox(|settings| {
        settings.command = mute;
        settings.start_timeout_ms = 700;
    });
    let begun = SystemClock::new();
    within(tools.ready(None)).await;
    let first = begun.elapsed();
    within(tools.ready(None)).await;
    let second = begun.elapsed() - first;
    assert!(first >= Duration::from_millis(700), "{first:?}");
    assert!(second < Duration::from_millis(350), "{second:?}");
    tools.close().await;
}

#[tokio::test]
async fn a_program_that_is_not_there_says_so() {
    let play = Play::new();
    let tools = play.toolbox(|settings| settings.command = vec!["/no/such/server".to_owned()]);
    let text = said(run(&tools, "fake__echo").await);
    assert!(text.contains("it does not exist"), "{text}");
    tools.close().await;
}

#[tokio::test]
async fn long_answers_and_long_requests_pass_whole() {
    let play = Play::new();
    let tools = play.toolbox(|settings| settings.max_output_bytes = 2 << 20);
    let long = "y".repeat(1 << 20);
    let call = calling("fake__echo", &json!({ "text": long }));
    assert_eq!(within(tools.run(&call)).await, ok(&long));
    let call = calling("fake__flood", &json!({"bytes": 1 << 20}));
    assert_eq!(said(within(tools.run(&call)).await).len(), 1 << 20);
    tools.close().await;
}

#[tokio::test]
async fn provisional_output_of_many_calls_goes_to_each_call_alone() {
    let play = Play::new();
    let tools = play.toolbox(|_| {});
    within(tools.ready(None)).await;
    let calls = (1..=8).map(|steps| {
        let tools = tools.clone();
        async move {
            let (sender, mut heard) = mpsc::channel(64);
            let call = Call {
                output: OutputSink::new(sender),
                ..calling("fake__slow", &json!({"steps": steps, "pause": 0.01}))
            };
            assert_eq!(within(tools.run(&call)).await, ok("worked"));
            drop(call);
            let mut lines = 0;
            while let Some(line) = heard.recv().await {
                lines += 1;
                assert!(line.starts_with(&format!("{lines}/{steps}")), "{line}");
            }
            assert_eq!(lines, steps);
        }
    });
    futures_util::future::join_all(calls).await;
    tools.close().await;
}

#[tokio::test]
async fn a_company_that_stops_leaves_no_server_and_starts_none() {
    let play = Play::new();
    let mut witness = Witness::new(play.path());
    let company = play.company("fake__echo", json!({})).await;
    let session = company.session("actor").create().await.unwrap();
    turn(&session, "go").await;
    company.stop(Duration::from_secs(20)).await.unwrap();
    assert_eq!(witness.all_gone().await, ["started"]);
    assert_eq!(play.starts(), 1);
}

#[tokio::test]
async fn a_toolbox_that_is_dropped_leaves_no_server() {
    let play = Play::new();
    let mut witness = Witness::new(play.path());
    let tools = play.toolbox(|_| {});
    run(&tools, "fake__echo").await;
    drop(tools);
    assert_eq!(witness.all_gone().await, ["started"]);
}

/// A server of HTTP, ended with the test.
struct Web {
    child: std::process::Child,
    port: String,
}

impl Web {
    async fn start(play: &Play, port: &str) -> Self {
        let before = play.lines("port").len();
        let child = std::process::Command::new("python3")
            .arg(script())
            .arg(play.path())
            .args(["http", port])
            .spawn()
            .unwrap();
        eventually(async || play.lines("port").len() > before).await;
        let port = play.lines("port").swap_remove(before);
        Self { child, port }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn toolbox(&self, play: &Play) -> Toolbox {
        play.toolbox(|settings| {
            settings.command = Vec::new();
            settings.url = format!("http://127.0.0.1:{}/mcp", self.port);
            settings.allow_private = true;
            let header = HeaderSettings {
                value: "t-".to_owned(),
                secret_env: "PATH".to_owned(),
                ..HeaderSettings::default()
            };
            settings.headers.insert("x-token".to_owned(), header);
        })
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[tokio::test]
async fn a_server_over_http_does_the_same_with_its_headers_and_their_secrets() {
    let play = Play::new();
    let web = Web::start(&play, "0").await;
    let tools = web.toolbox(&play);
    let (sender, mut heard) = mpsc::channel(64);
    let call = Call {
        output: OutputSink::new(sender),
        ..calling("fake__slow", &json!({"steps": 2, "pause": 0.01}))
    };
    assert_eq!(within(tools.run(&call)).await, ok("worked"));
    assert_eq!(heard.recv().await.as_deref(), Some("1/2 working\n"));
    assert_eq!(heard.recv().await.as_deref(), Some("2/2\n"));
    let meta: Value = serde_json::from_str(&said(run(&tools, "fake__meta").await)).unwrap();
    assert_eq!(meta["impresario/idempotencyKey"], "session:7");
    assert!(
        play.lines("tokens")
            .iter()
            .all(|token| token == "t-/usr/bin:/bin")
    );
    tools.close().await;
}

#[tokio::test]
async fn a_call_that_is_cancelled_is_told_to_a_server_over_http() {
    let play = Play::new();
    let web = Web::start(&play, "0").await;
    let tools = web.toolbox(&play);
    let waits = calling("fake__wait", &json!({}));
    tokio::select! {
        end = tools.run(&waits) => panic!("{end:?}"),
        () = eventually(async || play.lines("calls") == ["wait"]) => {}
    }
    eventually(async || play.lines("cancelled").len() == 1).await;
    assert_eq!(run(&tools, "fake__echo").await, ok(""));
    tools.close().await;
}

#[tokio::test]
async fn a_server_over_http_that_dies_in_the_middle_of_a_call_is_reached_again_when_it_is_back() {
    let play = Play::new();
    let mut web = Web::start(&play, "0").await;
    let tools = web.toolbox(&play);
    let waits = calling("fake__wait", &json!({}));
    let kill = async {
        eventually(async || play.lines("calls") == ["wait"]).await;
        web.kill();
    };
    let (end, ()) = tokio::join!(within(tools.run(&waits)), kill);
    let RunEnd::Died(Outcome::Error, reason) = end else {
        panic!("{end:?} is no death");
    };
    assert!(reason.contains("the server"), "{reason}");
    // Nobody is there: the call was surely not made.
    let end = run(&tools, "fake__echo").await;
    let RunEnd::Died(Outcome::Error, reason) = end else {
        panic!("{end:?} is no death");
    };
    assert!(reason.contains("not running"), "{reason}");
    let end = run(&tools, "fake__fail").await;
    let RunEnd::Done(Outcome::Error, reason, Some(Cause::Refused)) = end else {
        panic!("{end:?} is no error, though the call was surely not made");
    };
    assert!(reason.contains("not running"), "{reason}");
    let _back = Web::start(&play, &web.port).await;
    assert_eq!(run(&tools, "fake__echo").await, ok(""));
    tools.close().await;
}

#[tokio::test]
async fn a_server_over_http_that_began_anew_meanwhile_is_greeted_again_and_called_once() {
    let play = Play::new();
    let mut web = Web::start(&play, "0").await;
    let tools = web.toolbox(&play);
    assert_eq!(run(&tools, "fake__echo").await, ok(""));
    web.kill();
    let _anew = Web::start(&play, &web.port).await;
    let end = run(&tools, "fake__fail").await;
    assert_eq!(
        end,
        RunEnd::Done(
            Outcome::Error,
            "no such thing".to_owned(),
            Some(Cause::BadAnswer)
        )
    );
    assert_eq!(play.lines("calls"), ["echo", "fail"]);
    tools.close().await;
}

#[tokio::test]
async fn a_server_on_this_machine_is_not_asked_unless_the_settings_allow_it() {
    let play = Play::new();
    let tools = play.toolbox(|settings| {
        settings.command = Vec::new();
        settings.url = "http://127.0.0.1:1/mcp".to_owned();
    });
    let text = said(run(&tools, "fake__echo").await);
    assert!(text.contains("private or local"), "{text}");
    tools.close().await;
}

#[test]
fn what_a_server_writes_to_stderr_is_in_the_daemons_log_and_its_settings_are_in_the_file() {
    let play = Play::new();
    let settings = format!(
        "[metrics]\nlisten = \"127.0.0.1:0\"\n[log]\nfilter = \"debug\"\n\
         [tools.fake]\nkind = \"mcp\"\ncommand = [\"python3\", {:?}, {:?}]\nidle_ms = 60000\n\
         include = [\"echo\"]\n[agents.assistant]\ntools = [\"calc\", \"fake__echo\"]\n",
        script(),
        play.path(),
    );
    std::fs::write(play.path().join("impresario.toml"), settings).unwrap();
    let program = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_impresario"));
        command
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap())
            .current_dir(play.path())
            .args(["--config", "impresario.toml", "--data", "data"]);
        command
    };
    let log = std::fs::File::create(play.path().join("log")).unwrap();
    let mut daemon = program().arg("serve").stderr(log).spawn().unwrap();
    let out = |words: &[&str]| {
        let output = program().args(words).output().unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    // Each try starts a process, which is pause enough.
    assert!((0..2_000).any(|_| out(&["status"]).0));
    assert_eq!(play.starts(), 0);
    assert_eq!(
        out(&["tools", "call", "fake__echo", r#"{"text": "hi"}"#]),
        (true, "hi\n".to_owned())
    );
    let (_, tools) = out(&["tools"]);
    assert!(tools.contains("mcp_server"), "{tools}");
    assert!(tools.contains("fake__echo"), "{tools}");
    assert!(out(&["stop"]).0);
    assert!(daemon.wait().unwrap().success());
    let log = std::fs::read_to_string(play.path().join("log")).unwrap();
    assert!(log.contains("ready to serve"), "{log}");
    assert!(log.contains("server started"), "{log}");
}

/// Names the folder of a witness to `parent_that_is_killed`.
const FOLDER: &str = "MCP_TEST_FOLDER";

#[tokio::test]
async fn no_server_outlives_a_daemon_that_was_killed() {
    let play = Play::new();
    let mut witness = Witness::new(play.path());
    let mut parent = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "parent_that_is_killed", "--ignored"])
        .env(FOLDER, play.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(witness.line().await, "started");
    eventually(async || play.lines("calls") == ["wait"]).await;
    parent.kill().unwrap();
    parent.wait().unwrap();
    assert!(witness.all_gone().await.is_empty());
}

#[tokio::test]
#[ignore = "started and killed by no_server_outlives_a_daemon_that_was_killed"]
async fn parent_that_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    let script = script();
    let words = [
        "python3",
        script.to_str().unwrap(),
        folder.to_str().unwrap(),
    ];
    let settings = ToolSettings {
        kind: ToolKind::Mcp,
        command: words.iter().map(|word| (*word).to_owned()).collect(),
        ..ToolSettings::default()
    };
    let server = server("fake", &settings, &environment(&folder.join("data"))).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let tools = Toolbox::with_servers([], [server], &clock).unwrap();
    run(&tools, "fake__wait").await;
}

/// The number of the call that a person is asked about.
async fn question(stream: &mut impresario::runtime::ChunkStream) -> impresario::id::Seq {
    let chunks = until(stream, |fact| matches!(fact, Fact::ApprovalRequested(_))).await;
    let asked = chunks.iter().filter_map(event).next_back().unwrap();
    let Fact::ApprovalRequested(request) = asked.fact else {
        panic!("{asked:?} is no question");
    };
    request.of
}

fn approve(of: impresario::id::Seq) -> Verdict {
    Verdict {
        of: Some(of),
        digest: None,
        ruling: Ruling::Approve,
        by: None,
        reason: None,
    }
}

#[tokio::test]
async fn a_person_is_asked_about_what_destroys_and_not_about_what_reads() {
    let play = Play::new();
    let model = Puppet::new(|asked| match asked.results.len() {
        0 => vec![
            Act::Call("fake__echo", "{}".to_owned()),
            Act::Call("fake__fail", "{}".to_owned()),
        ],
        _ => vec![say("done")],
    });
    let company = play
        .company_of(&model, |settings| {
            settings.approval = ApprovalMode::Destructive
        })
        .await;
    let session = company.session("actor").create().await.unwrap();
    let mut stream = reader(&session).await;
    session.say("go").await.unwrap();
    let asked = question(&mut stream).await;
    eventually(async || play.lines("calls") == ["echo"]).await;
    session.rule(approve(asked)).await.unwrap();
    until(&mut stream, is_end).await;
    assert_eq!(play.lines("calls"), ["echo", "fail"]);
    company.stop(Duration::from_secs(20)).await.unwrap();
}

#[tokio::test]
async fn a_call_is_approved_after_a_restart_before_its_server_was_needed_again() {
    let play = Play::new();
    let model = Puppet::new(|asked| match asked.results.len() {
        0 => vec![Act::Call("fake__echo", r#"{"text": "hi"}"#.to_owned())],
        _ => vec![say("done")],
    });
    let stage = Stage::new(&model, &[]);
    let start = async |store: &Arc<MemoryStore>| {
        let server = play.server(|settings| settings.approval = ApprovalMode::Always);
        let agent = Agent::new("actor").model("puppet").tools(["fake"]);
        stage
            .builder()
            .event_store(Arc::<MemoryStore>::clone(store))
            .server(server)
            .agent(agent)
            .start()
            .await
            .unwrap()
    };
    let store = Arc::new(MemoryStore::new());
    let company = start(&store).await;
    let session = company.session("actor").create().await.unwrap();
    let mut stream = reader(&session).await;
    session.say("go").await.unwrap();
    let asked = question(&mut stream).await;
    company.stop(Duration::from_secs(20)).await.unwrap();
    let company = start(&Arc::new(store.after_power_cut())).await;
    let session = company.open(session.id());
    assert_eq!(play.starts(), 1);
    session.rule(approve(asked)).await.unwrap();
    let mut stream = reader(&session).await;
    let chunks = until(&mut stream, is_end).await;
    assert_eq!(
        results(&events(&chunks)),
        [(Outcome::Ok, 1, "hi".to_owned())]
    );
    company.stop(Duration::from_secs(20)).await.unwrap();
}

#[tokio::test]
async fn a_chain_calls_a_servers_tool_and_asks_as_the_server_does() {
    let play = Play::new();
    let spec = |name: &str| ToolSpec {
        definition: ToolDefinition {
            name: name.to_owned(),
            description: String::new(),
            parameters: json!({"type": "object"}),
        },
        effect: EffectClass::Pure,
        timeout: Duration::from_secs(20),
        restart: impresario::restart::RestartPolicy::default(),
        max_output_bytes: 1_000,
    };
    let chain = |name: &str, tool: &str| -> (Arc<dyn Tool>, Care) {
        let chain = Chain::new(spec(name), [(tool.to_owned(), None)]).unwrap();
        (Arc::new(chain), Care::default())
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let server = play.server(|settings| settings.approval = ApprovalMode::Always);
    let chains = [chain("twice", "fake__echo")];
    let tools = Toolbox::with_servers(chains, [server], &clock).unwrap();
    let rule = tools.rules()["twice"].clone();
    assert_eq!(rule.effect, EffectClass::AtMostOnce);
    assert!(rule.asks.unwrap().contains("'fake__'"));
    let call = calling("twice", &json!({"text": "hi"}));
    assert_eq!(within(tools.run(&call)).await, ok("hi"));
    tools.close().await;

    let unknown = Toolbox::with_servers([chain("twice", "other__echo")], [], &clock);
    assert!(matches!(unknown, Err(ToolboxError::Unknown { .. })));
    let back = play.server(|settings| settings.fallback_tool = Some("twice".to_owned()));
    let round = Toolbox::with_servers([chain("twice", "fake__echo")], [back], &clock);
    assert!(matches!(round, Err(ToolboxError::Cycle(_))));
}

#[tokio::test]
async fn something_stands_in_for_a_server_that_does_not_start() {
    let play = Play::new();
    let tools = play.toolbox(|settings| {
        settings.command = vec!["/no/such/server".to_owned()];
        settings.fallback_text = Some("later".to_owned());
    });
    let expected = RunEnd::Done(Outcome::Fallback, "later".to_owned(), Some(Cause::Refused));
    assert_eq!(run(&tools, "fake__echo").await, expected);
    tools.close().await;
}

#[tokio::test]
async fn the_answers_of_pure_tools_are_kept_and_those_of_others_are_not() {
    let play = Play::new();
    let tools = play.toolbox(|settings| settings.cache_ttl_ms = Some(60_000));
    for _ in 0..2 {
        run(&tools, "fake__pid").await;
        run(&tools, "fake__fail").await;
    }
    assert_eq!(play.lines("calls"), ["pid", "fail", "fail"]);
    tools.close().await;
}

#[tokio::test]
async fn a_server_that_reads_nothing_any_more_holds_up_nobody_and_is_ended() {
    let play = Play::new();
    let mut witness = Witness::new(play.path());
    let deaf = play.settings("deaf").command;
    let tools = play.toolbox(|settings| {
        settings.command = deaf;
        settings.timeout_ms = Some(300);
    });
    // More than pipes and sockets hold.
    let call = calling("fake__echo", &json!({ "text": "x".repeat(4 << 20) }));
    let end = within(tools.run(&call)).await;
    assert!(matches!(end, RunEnd::Died(Outcome::Timeout, _)), "{end:?}");
    within(tools.close()).await;
    assert_eq!(witness.all_gone().await, ["started"]);
}

#[tokio::test]
async fn a_call_that_a_restart_cut_off_runs_again_when_its_server_has_been_listed() {
    let play = Play::new();
    let model = Puppet::new(|asked| match asked.results.len() {
        0 => vec![Act::Call(
            "fake__slow",
            json!({"steps": 1, "pause": 1.0}).to_string(),
        )],
        _ => vec![say("done")],
    });
    let stage = Stage::new(&model, &[]);
    let start = async |store: &Arc<MemoryStore>| {
        let agent = Agent::new("actor").model("puppet").tools(["fake"]);
        let builder = stage.builder();
        let builder = builder.event_store(Arc::<MemoryStore>::clone(store));
        let builder = builder.server(play.server(|_| {})).agent(agent);
        builder.start().await.unwrap()
    };
    let store = Arc::new(MemoryStore::new());
    let company = start(&store).await;
    let session = company.session("actor").create().await.unwrap();
    session.say("go").await.unwrap();
    eventually(async || play.lines("calls").len() == 1).await;
    let left = Arc::new(store.after_power_cut());
    let id = session.id();
    drop((session, company));
    let company = start(&left).await;
    let mut stream = reader(&company.open(id)).await;
    let chunks = until(&mut stream, is_end).await;
    let found = results(&events(&chunks));
    assert_eq!(found, [(Outcome::Ok, 2, "worked".to_owned())]);
    company.stop(Duration::from_secs(20)).await.unwrap();
}

#[tokio::test]
async fn a_server_is_confined_like_every_program_and_that_is_recorded() {
    for level in [SandboxLevel::Landlock, SandboxLevel::Auto] {
        let play = Play::new();
        let script = script();
        let tools = play.toolbox(|settings| {
            settings.sandbox = level;
            settings.read = vec![script.parent().unwrap().to_owned()];
            settings.write = vec![play.path().to_owned()];
        });
        let call = calling("fake__echo", &json!({"text": "hi"}));
        assert_eq!(within(tools.run(&call)).await, ok("hi"), "{level:?}");
        let found = call.output.sandbox().unwrap();
        // A machine that cannot does as well as it can.
        assert!(found >= impresario::event::Sandbox::Basic, "{found:?}");
        let end = said(run(&tools, "fake__die").await);
        assert!(end.contains("SIGKILL"), "{end}");
        assert_eq!(run(&tools, "fake__echo").await, ok(""));
        tools.close().await;
    }
}
