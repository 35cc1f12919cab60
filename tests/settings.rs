//! Settings are read from their layers, and everything wrong with them is said at once.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers outside #[test] functions may unwrap too"
)]

use std::path::PathBuf;

use impresario::settings::{
    AgentSettings, DEFAULTS, Environment, Layers, LoadError, ModelSettings, Problem, Settings,
    TenantSettings, ToolSettings, load,
};
use serde::Serialize;
use serde_json::Value;

fn read(
    file: &str,
    variables: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Settings, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("settings.toml");
    std::fs::write(&path, file).unwrap();
    let layers = Layers {
        file: Some(path),
        flags: flags
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    };
    load(&layers, &variables.iter().copied().collect())
        .map(|loaded| loaded.settings)
        .map_err(|error| {
            error
                .to_string()
                .replace(&directory.path().display().to_string(), "DIR")
        })
}

fn problems(file: &str) -> Vec<Problem> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("settings.toml");
    std::fs::write(&path, file).unwrap();
    let layers = Layers {
        file: Some(path),
        flags: Vec::new(),
    };
    match load(&layers, &Environment::default()) {
        Err(LoadError::Problems(problems)) => problems,
        other => panic!("expected problems, got {other:?}"),
    }
}

fn keys_of(section: &impl Serialize) -> Vec<String> {
    let Value::Object(fields) = serde_json::to_value(section).unwrap() else {
        panic!("a section is a table");
    };
    fields.into_iter().map(|(key, _)| key).collect()
}

#[test]
fn the_built_in_file_says_the_defaults_and_brings_a_company_that_needs_no_network() {
    let built_in = read("", &[], &[]).unwrap();
    let plain = Settings {
        models: Default::default(),
        tools: Default::default(),
        agents: Default::default(),
        tenants: Default::default(),
        ..built_in.clone()
    };
    assert_eq!(plain, Settings::default());
    assert_eq!(built_in.models["offline"], ModelSettings::default());
    assert_eq!(
        built_in.tools.keys().collect::<Vec<_>>(),
        ["calc", "http_get", "time", "wait"]
    );
    for tool in built_in.tools.values() {
        assert_eq!(*tool, ToolSettings::default());
    }
    let assistant = &built_in.agents["assistant"];
    assert_eq!(assistant.model, "offline");
    assert_eq!(assistant.tools, ["time", "calc", "wait"]);
    assert!(!assistant.system.is_empty());
}

#[test]
fn every_key_is_in_the_built_in_file() {
    let mut keys = Vec::new();
    let Value::Object(sections) = serde_json::to_value(Settings::default()).unwrap() else {
        panic!("settings are a table");
    };
    for (section, fields) in sections {
        if let Value::Object(fields) = fields {
            keys.extend(fields.into_iter().map(|(key, _)| (section.clone(), key)));
        }
    }
    keys.extend(
        keys_of(&ModelSettings::default())
            .into_iter()
            .map(|k| ("models.".into(), k)),
    );
    keys.extend(
        keys_of(&ToolSettings::default())
            .into_iter()
            .map(|k| ("tools.".into(), k)),
    );
    keys.extend(
        keys_of(&AgentSettings::default())
            .into_iter()
            .map(|k| ("agents.".into(), k)),
    );
    keys.extend(
        keys_of(&TenantSettings::default())
            .into_iter()
            .map(|k| ("tenants.".into(), k)),
    );
    for (section, key) in keys {
        let (_, after) = DEFAULTS
            .split_once(&format!("\n[{section}"))
            .unwrap_or_else(|| panic!("[{section}] is not documented"));
        let body = after.split_once("\n[").map_or(after, |(body, _)| body);
        let documented = body.lines().any(|line| {
            line.trim_start_matches("# ")
                .strip_prefix(&key)
                .is_some_and(|rest| rest.starts_with(" = "))
        });
        assert!(documented, "{section} {key} is not documented");
    }
}

#[test]
fn every_key_in_the_built_in_file_exists_and_its_example_has_the_right_type() {
    let is_example = |line: &str| {
        let key = line
            .strip_prefix("# ")
            .and_then(|rest| rest.split_once(" = "));
        key.is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
    };
    let uncommented: Vec<_> = DEFAULTS
        .lines()
        .map(|line| match is_example(line) {
            true => line.trim_start_matches("# "),
            false => line,
        })
        .collect();
    for problem in problems(&uncommented.join("\n")) {
        let is_about_shape = ["no such key", "invalid", "unknown"];
        assert!(
            !is_about_shape
                .iter()
                .any(|words| problem.says.contains(words)),
            "{problem}"
        );
    }
}

#[test]
fn flags_win_over_the_environment_which_wins_over_the_file() {
    let file = "[limits]\nlive_sessions = 1\nrunning_turns = 1\nmodel_calls = 1";
    let variables = [
        ("IMPRESARIO__LIMITS__RUNNING_TURNS", "2"),
        ("IMPRESARIO__LIMITS__MODEL_CALLS", "2"),
    ];
    let limits = read(file, &variables, &[("limits.model_calls", "3")])
        .unwrap()
        .limits;
    assert_eq!(
        (
            limits.live_sessions,
            limits.running_turns,
            limits.model_calls
        ),
        (1, 2, 3)
    );
}

#[test]
fn a_variable_may_hold_text_that_looks_like_a_number_and_lists() {
    let variables = [
        ("IMPRESARIO__MODELS__OFFLINE__MODEL", "007"),
        ("IMPRESARIO__AGENTS__ASSISTANT__TOOLS", "calc, time"),
        ("IMPRESARIO__METRICS__ENABLED", "false"),
        ("IMPRESARIO_OTHER", "not ours"),
    ];
    let settings = read("", &variables, &[]).unwrap();
    assert_eq!(settings.models["offline"].model, "007");
    assert_eq!(settings.agents["assistant"].tools, ["calc", "time"]);
    assert!(!settings.metrics.enabled);
}

#[test]
fn every_fault_is_said_at_once_with_its_key_and_its_origin() {
    let file = r#"
        [limits]
        live_sesions = 3
        model_calls = "many"
        tool_workers = 0
        [sesions]
        max_steps = 1
        [models.big]
        provider = "openai"
        idle_timeout_ms = 700000
        [models.big.prices]
        inptu = 1.0
        [tools.Shout]
        kind = "command"
        description = "shouts"
        [tools.clac]
        [agents.a]
        model = "offlin"
        tools = ["tme"]
    "#;
    let variables = [("IMPRESARIO__STOP__GRACE_MS", "soon")];
    let said = read(file, &variables, &[("store.cache_mb", "-1")]).unwrap_err();
    let expected = [
        "agents.a.model: there is no 'offlin'; did you mean 'offline'? (from DIR/settings.toml)",
        "agents.a.tools: there is no 'tme'; did you mean 'time'? (from DIR/settings.toml)",
        "limits.live_sesions: there is no such key; did you mean limits.live_sessions? (from DIR/settings.toml)",
        "limits.model_calls: invalid type: string \"many\", expected usize (from DIR/settings.toml)",
        "limits.tool_workers: 0 is too small; at least 1 (from DIR/settings.toml)",
        "models.big.call_timeout_ms: 600000 is less than models.big.idle_timeout_ms (700000) (from DIR/settings.toml)",
        "models.big.model: the provider's name for the model is missing",
        "models.big.prices.inptu: there is no such key; did you mean models.big.prices.input? (from DIR/settings.toml)",
        "sesions: there is no such key; did you mean sessions? (from DIR/settings.toml)",
        "stop.grace_ms: invalid type: string \"soon\", expected u64 (from the environment variable IMPRESARIO__STOP__GRACE_MS)",
        "store.cache_mb: invalid value: integer `-1`, expected u64 (from a flag)",
        "tools.Shout: a name has 1 to 64 of the characters a-z 0-9 _ -",
        "tools.Shout.command: a tool of kind \"command\" needs the program and its arguments",
        "tools.clac.kind: no tool 'clac' is built in",
    ];
    for one in expected {
        assert!(said.contains(one), "missing: {one}\nin:\n{said}");
    }
    assert_eq!(said.lines().count(), expected.len() + 1, "{said}");
}

#[test]
fn the_models_of_an_agent_and_what_stands_in_for_them_are_checked() {
    let file = r#"
        [models.warm]
        provider = "openai"
        model = "m"
        temperature = 0.7
        [models.cold]
        provider = "openai"
        model = "m"
        temperature = 0
        [models.small]
        context_tokens = 1000
        max_tokens = 1000
        [agents.a]
        model = "cold"
        fallbacks = ["warm", "cold"]
        degraded_answer = " "
        answer_cache_ttl_ms = 1000
        [agents.b]
        model = "cold"
        fallbacks = ["offlin"]
        answer_cache_ttl_ms = 0
        answer_cache_entries = 0
        [sessions]
        retry_within_ms = 0
    "#;
    let mut said: Vec<_> = problems(file)
        .into_iter()
        .map(|problem| format!("{}: {}", problem.key, problem.says))
        .collect();
    let expected = [
        "agents.a.answer_cache_ttl_ms: an answer is only kept where the model would give it again; set models.warm.temperature = 0, or leave answer_cache_ttl_ms out",
        "agents.a.degraded_answer: an empty answer is none; leave it out, and the turn fails",
        "agents.a.fallbacks: 'cold' is asked twice",
        "agents.b.answer_cache_entries: 0 is too small; at least 1",
        "agents.b.answer_cache_ttl_ms: 0 is too small; at least 1",
        "agents.b.fallbacks: there is no 'offlin'; did you mean 'offline'?",
        "models.small.context_tokens: 1000 tokens have no room for an answer of 1000 (models.small.max_tokens)",
        "sessions.retry_within_ms: 0 is too small; at least 1",
    ];
    said.sort();
    assert_eq!(said, expected);
}

#[test]
fn a_file_that_is_not_toml_says_where() {
    let said = read("[limits]\nlive_sessions = = 3", &[], &[]).unwrap_err();
    assert!(
        said.contains("line 2") && said.contains("settings.toml"),
        "{said}"
    );
}

#[test]
fn a_file_that_was_named_must_exist() {
    let named = Layers {
        file: Some(PathBuf::from("/nowhere/settings.toml")),
        flags: Vec::new(),
    };
    let said = load(&named, &Environment::default())
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("/nowhere/settings.toml") && said.contains("--config"),
        "{said}"
    );
    let environment = Environment::from_iter([("IMPRESARIO_CONFIG", "/nowhere/else.toml")]);
    let said = load(&Layers::default(), &environment)
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("/nowhere/else.toml") && said.contains("IMPRESARIO_CONFIG"),
        "{said}"
    );
}

#[test]
fn the_users_file_is_found_in_the_configuration_directory() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("impresario/config.toml");
    std::fs::create_dir(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "[stop]\ngrace_ms = 5").unwrap();
    let home = directory.path().display().to_string();
    let loaded = load(
        &Layers::default(),
        &Environment::from_iter([("XDG_CONFIG_HOME", home)]),
    );
    let loaded = loaded.unwrap();
    assert_eq!(loaded.settings.stop.grace_ms, 5);
    assert_eq!(loaded.file, Some(file));
}

#[test]
fn a_key_that_is_no_key_is_said_and_takes_no_memory() {
    let said = read("", &[], &[("a[99999999999]", "1")]).unwrap_err();
    assert!(said.contains("a[99999999999]: this is not a key"), "{said}");
}

#[test]
fn a_whole_number_is_not_rounded_from_a_fraction_nor_made_from_a_truth_value() {
    let found = problems("[limits]\nlive_sessions = 1.5\nmodel_calls = true");
    let keys: Vec<_> = found.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["limits.live_sessions", "limits.model_calls"]);
}

#[test]
fn a_pattern_of_secrets_that_is_none_is_said_with_its_key() {
    let table = [
        ("patterns = ['(']", "redaction.patterns", "unclosed group"),
        ("patterns = ['a b']", "redaction.patterns", "white space"),
        (
            "patterns = ['x*']",
            "redaction.patterns",
            "needs a character",
        ),
        (
            "values_env = ['A=B']",
            "redaction.values_env",
            "not the name",
        ),
    ];
    for (line, key, says) in table {
        let found = problems(&format!("[redaction]\n{line}"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].key, key);
        assert!(found[0].says.contains(says), "{found:?}");
    }
}

#[test]
fn a_server_of_tools_that_cannot_work_is_said_with_its_key() {
    let table = [
        ("", "tools.s.command", "needs a program"),
        (
            "command = ['s']\nurl = 'http://example.org/'",
            "tools.s.url",
            "not both",
        ),
        ("url = 'example.org'", "tools.s.url", "http://"),
        (
            "command = ['s']\nparameters = { type = 'object' }",
            "tools.s.parameters",
            "bring their own",
        ),
        (
            "command = ['s']\ntimeout_ms = 700000",
            "tools.s.total_timeout_ms",
            "at least 700000",
        ),
        (
            "command = ['s']\nmax_servers = 0",
            "tools.s.max_servers",
            "at least 1",
        ),
        ("command = ['s']\nscope = 'mine'", "tools.s.scope", "mine"),
        (
            "command = ['s']\nread = ['/srv']",
            "tools.s.read",
            "sandbox",
        ),
    ];
    for (lines, key, says) in table {
        let found = problems(&format!("[tools.s]\nkind = 'mcp'\n{lines}"));
        assert_eq!(found.len(), 1, "{lines}: {found:?}");
        assert_eq!(found[0].key, key);
        assert!(found[0].says.contains(says), "{found:?}");
    }
    for name in ["a__b", "a_", "a234567890123456789012345678901234"] {
        let found = problems(&format!("[tools.{name}]\nkind = 'mcp'\ncommand = ['s']"));
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        assert!(found[0].says.contains("NAME__TOOL"), "{found:?}");
    }
}

#[test]
fn a_server_and_its_tools_are_named_where_tools_are() {
    let server = "[tools.s]\nkind = 'mcp'\ncommand = ['s']\n";
    let fine = [
        "[agents.a]\nmodel = 'offline'\ntools = ['s', 'time']",
        "[agents.a]\nmodel = 'offline'\ntools = ['s__one', 's__two']",
        "[tools.c]\nkind = 'chain'\ndescription = 'c'\nsteps = [{ tool = 's__one' }]",
        "[tools.calc]\nkind = 'builtin'\nfallback_tool = 's__one'",
    ];
    for lines in fine {
        let settings = read(&format!("{server}{lines}"), &[], &[]);
        assert!(settings.is_ok(), "{lines}: {settings:?}");
    }
    let wrong = [
        (
            "[agents.a]\nmodel = 'offline'\ntools = ['t__one']",
            "agents.a.tools",
        ),
        (
            "[agents.a]\nmodel = 'offline'\ntools = ['s__']",
            "agents.a.tools",
        ),
        (
            "[tools.c]\nkind = 'chain'\ndescription = 'c'\nsteps = [{ tool = 's' }]",
            "tools.c.steps",
        ),
        (
            "[tools.s__one]\nkind = 'command'\ncommand = ['x']\ndescription = 'x'",
            "tools.s__one.kind",
        ),
        (
            "fallback_tool = 'c'\n[tools.c]\nkind = 'chain'\ndescription = 'c'\nsteps = [{ tool = 's__one' }]",
            "tools.c.steps",
        ),
    ];
    for (lines, key) in wrong {
        let found = problems(&format!("{server}{lines}"));
        assert_eq!(found.len(), 1, "{lines}: {found:?}");
        assert_eq!(found[0].key, key, "{lines}: {found:?}");
    }
}

#[test]
fn an_agent_that_is_a_tool_has_to_exist_and_may_lead_back_to_itself() {
    let tool = |rest: &str| {
        format!(
            "[tools.ask]\nkind = 'agent'\ndescription = 'asks'\n{rest}\n[agents.assistant]\ntools = ['ask']"
        )
    };
    let settings = read(&tool("agent = 'assistant'"), &[], &[]).unwrap();
    assert_eq!(settings.tools["ask"].agent, "assistant");
    let table = [
        ("", "tools.ask.agent", "needs the name of an agent"),
        (
            "agent = 'asistant'",
            "tools.ask.agent",
            "did you mean 'assistant'?",
        ),
        (
            "agent = 'assistant'\neffect = 'pure'",
            "tools.ask.effect",
            "never pure",
        ),
        (
            "agent = 'assistant'\ncache_ttl_ms = 5",
            "tools.ask.cache_ttl_ms",
            "only the answers of a pure tool",
        ),
    ];
    for (rest, key, says) in table {
        let found = problems(&tool(rest));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].key, key);
        assert!(found[0].says.contains(says), "{found:?}");
    }
}

#[test]
fn a_budget_that_is_none_is_said_with_its_key() {
    let file = r#"
        [limits]
        budget_day = { seconds = 0 }
        [agents.assistant.budget]
        turn = { usd = 0.0, steps = 0 }
        [agents.other]
        model = "offline"
        budget = { session = { tokn = 3 } }
        [agents.third]
        model = "offline"
        budget = { on_reached = "stop" }
        [tenants.acme.budget]
        day = { usd = -1.0 }
    "#;
    let said = read(file, &[], &[]).unwrap_err();
    let expected = [
        "limits.budget_day.seconds: 0 is too small; at least 1",
        "agents.assistant.budget.turn.usd: 0 is no budget; more than 0, or leave it out for no limit",
        "agents.assistant.budget.turn.steps: 0 is too small; at least 1",
        "agents.other.budget: unknown field `tokn`, expected one of `usd`, `tokens`, `steps`, `seconds`",
        "agents.third.budget: unknown variant `stop`, expected `pause` or `fail`",
        "tenants.acme.budget.day.usd: -1 is no budget; more than 0, or leave it out for no limit",
    ];
    for one in expected {
        assert!(said.contains(one), "missing: {one}\nin:\n{said}");
    }
}

#[test]
fn a_budget_of_money_needs_the_price_of_every_model_that_spends_it() {
    let models = r#"
        [models.cheap]
        provider = "openai"
        model = "no-such-model"
        [models.known]
        provider = "openai"
        model = "gpt-4o-mini"
        [agents.helper]
        model = "cheap"
        [tools.ask]
        kind = "agent"
        agent = "helper"
        description = "asks"
        [agents.lead]
        model = "known"
    "#;
    let lead = |rest: &str| format!("{models}{rest}");
    let cases = [
        // It spends nothing of anybody's money.
        ("budget.session = { usd = 1.0 }", None),
        (
            "tools = [\"ask\"]\nbudget.turn = { usd = 1.0 }",
            Some("agents.lead.budget.turn.usd"),
        ),
        (
            "[tenants.acme]\nbudget.total = { usd = 9.0 }",
            Some("tenants.acme.budget.total.usd"),
        ),
        (
            "[limits]\ntenant_budget_day = { usd = 9.0 }",
            Some("limits.tenant_budget_day.usd"),
        ),
        ("[limits]\ntenant_budget_day = { tokens = 9 }", None),
    ];
    for (rest, needs) in cases {
        let said = read(&lead(rest), &[], &[]);
        let Some(budget) = needs else {
            assert!(said.is_ok(), "{rest}: {said:?}");
            continue;
        };
        let said = said.unwrap_err();
        let faults: Vec<_> = said.lines().filter(|line| line.starts_with(' ')).collect();
        assert_eq!(faults.len(), 1, "{rest}: {said}");
        assert!(
            said.contains("models.cheap.prices: the price is not known"),
            "{said}"
        );
        assert!(said.contains(budget), "{said}");
    }
}
