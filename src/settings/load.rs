//! Reads the layers of the settings and says everything that is wrong with them at once.
//!
//! Called by the daemon and the commands, and again by a reload. Reads files; the environment is handed in.
//!
//! The layers are merged first; then every key is tried on its own, so that one fault hides no
//! other, and every fault names the file or variable that it came from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use config::{FileFormat, Format, Source, Value as Node, ValueKind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::settings::{
    AgentSettings, Environment, Loaded, ModelSettings, PriceSettings, Problem, Settings,
    TenantSettings, ToolSettings,
};

/// The settings file that is built in: every key with its default, and what it means.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

const PREFIX: &str = "IMPRESARIO__";

/// What lies above the built-in defaults.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// The file of `--config`; without one the usual places are looked at.
    pub file: Option<PathBuf>,
    /// Dotted keys and values given as flags; they win over everything.
    pub flags: Vec<(String, String)>,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file that was named cannot be read.
    #[error("failed to read the settings file {}: {source}; {named_by} names it", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Who named it.
        named_by: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not TOML.
    #[error("failed to read the settings: {0}")]
    Syntax(String),
    /// The values are wrong.
    #[error("the settings are wrong:\n{}", list(.0))]
    Problems(Vec<Problem>),
}

fn list(problems: &[Problem]) -> String {
    let lines: Vec<_> = problems.iter().map(|one| format!("  {one}")).collect();
    lines.join("\n")
}

/// Reads all layers.
///
/// # Errors
/// [`LoadError::Problems`] holds every fault: unknown keys, values of the wrong type or out of
/// range, names that lead nowhere.
pub fn load(layers: &Layers, environment: &Environment) -> Result<Loaded, LoadError> {
    let file = find_file(layers, environment)?;
    let mut faults = Vec::new();
    let merged = merge(layers, file.as_ref(), environment, &mut faults)?;
    let mut reader = Reader { faults };
    let settings = reader.settings(merged.clone());
    let mut faults = reader.faults;
    faults.extend(settings.problems().into_iter().map(|fault| Problem {
        origin: origin_of(&merged, &fault.key),
        ..fault
    }));
    drop_echoes(&mut faults);
    if faults.is_empty() {
        let file = file.map(|file| file.path);
        let layers = layers.clone();
        return Ok(Loaded {
            settings,
            file,
            layers,
        });
    }
    Err(LoadError::Problems(faults))
}

/// A value of the wrong type is left out, which may make another fault at the same key: one is
/// enough. Faults are in the order of their keys.
fn drop_echoes(faults: &mut Vec<Problem>) {
    faults.sort_by(|one, other| one.key.cmp(&other.key));
    faults.dedup_by(|one, other| one.key == other.key);
}

/// A settings file that was read.
#[derive(Clone, Debug)]
struct Text {
    path: PathBuf,
    text: String,
}

fn find_file(layers: &Layers, environment: &Environment) -> Result<Option<Text>, LoadError> {
    let named = layers
        .file
        .clone()
        .map(|path| (path, "--config"))
        .or_else(|| {
            let path = environment.get("IMPRESARIO_CONFIG")?;
            Some((path.into(), "IMPRESARIO_CONFIG"))
        });
    let found = named.or_else(|| {
        let places = usual_places(environment).into_iter().flatten();
        let mut there = places.filter(|path| path.is_file());
        Some((there.next()?, "its usual place"))
    });
    let Some((path, named_by)) = found else {
        return Ok(None);
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(Text { path, text })),
        Err(source) => Err(LoadError::Unreadable {
            path,
            named_by,
            source,
        }),
    }
}

fn usual_places(environment: &Environment) -> [Option<PathBuf>; 3] {
    let user = environment
        .absolute_path("XDG_CONFIG_HOME")
        .or_else(|| Some(environment.absolute_path("HOME")?.join(".config")))
        .map(|dir| dir.join("impresario/config.toml"));
    [
        Some("impresario.toml".into()),
        user,
        Some("/etc/impresario/config.toml".into()),
    ]
}

impl Source for Text {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<config::Map<String, Node>, config::ConfigError> {
        let origin = self.path.display().to_string();
        FileFormat::Toml
            .parse(Some(&origin), &self.text)
            .map_err(|cause| config::ConfigError::FileParse {
                uri: Some(origin),
                cause,
            })
    }
}

fn merge(
    layers: &Layers,
    file: Option<&Text>,
    environment: &Environment,
    faults: &mut Vec<Problem>,
) -> Result<Node, LoadError> {
    let mut builder =
        config::Config::builder().add_source(config::File::from_str(DEFAULTS, FileFormat::Toml));
    if let Some(file) = file {
        builder = builder.add_source(file.clone());
    }
    let variables = Words::new(faults, environment_layer(environment));
    let flags = layers.flags.iter().map(|(key, text)| Word {
        key: key.clone(),
        text: text.clone(),
        origin: "a flag".to_owned(),
    });
    let flags = Words::new(faults, flags);
    builder
        .add_source(variables)
        .add_source(flags)
        .build()
        .map(|merged| merged.cache)
        .map_err(|error| LoadError::Syntax(error.to_string()))
}

fn environment_layer(environment: &Environment) -> impl Iterator<Item = Word> {
    environment.iter().filter_map(|(name, text)| {
        let key = name.strip_prefix(PREFIX)?;
        Some(Word {
            key: key.to_lowercase().replace("__", "."),
            text: text.to_owned(),
            origin: format!("the environment variable {name}"),
        })
    })
}

/// One value that came as text: a variable or a flag.
#[derive(Clone, Debug)]
struct Word {
    key: String,
    text: String,
    origin: String,
}

/// A layer of texts.
#[derive(Clone, Debug)]
struct Words(Vec<Word>);

impl Words {
    /// Leaves out, and notes, what is not a dotted key at all.
    fn new(faults: &mut Vec<Problem>, texts: impl Iterator<Item = Word>) -> Self {
        let (good, bad): (Vec<_>, Vec<_>) = texts.partition(|text| is_dotted_key(&text.key));
        faults.extend(bad.into_iter().map(|text| Problem {
            key: text.key,
            says: "this is not a key; a key looks like limits.live_sessions, in lower case".into(),
            origin: Some(text.origin),
        }));
        Self(good)
    }
}

fn is_dotted_key(key: &str) -> bool {
    key.split('.').all(|part| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-')
    })
}

impl Source for Words {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<config::Map<String, Node>, config::ConfigError> {
        Ok(self
            .0
            .iter()
            .map(|text| (text.key.clone(), text.node()))
            .collect())
    }
}

impl Word {
    fn node(&self) -> Node {
        Node::new(
            Some(&format!("{TEXT_MARK}{}", self.origin)),
            self.text.clone(),
        )
    }
}

/// Stands before the origin of a value that came as text, and may mean a number or a list.
const TEXT_MARK: &str = "text:";

/// Where a node came from; a table says where something in it came from.
fn origin_text(node: &Node) -> Option<String> {
    let own = node.origin().map(str::to_owned);
    let origin = own.or_else(|| match &node.kind {
        ValueKind::Table(table) => table.values().filter_map(origin_text).min(),
        ValueKind::Nil
        | ValueKind::Boolean(_)
        | ValueKind::I64(_)
        | ValueKind::I128(_)
        | ValueKind::U64(_)
        | ValueKind::U128(_)
        | ValueKind::Float(_)
        | ValueKind::String(_)
        | ValueKind::Array(_) => None,
    })?;
    Some(match origin.strip_prefix(TEXT_MARK) {
        Some(plain) => plain.to_owned(),
        None => origin,
    })
}

/// Where the value at this key, or what is nearest above it, came from.
fn origin_of(merged: &Node, key: &str) -> Option<String> {
    let mut node = merged;
    for part in key.split('.') {
        let ValueKind::Table(table) = &node.kind else {
            break;
        };
        let Some(below) = table.get(part) else { break };
        node = below;
    }
    origin_text(node)
}

/// Turns merged nodes into settings, and collects what is wrong.
struct Reader {
    faults: Vec<Problem>,
}

impl Reader {
    fn settings(&mut self, merged: Node) -> Settings {
        let mut sections = self.table("", merged);
        let known = keys_of(&Settings::default());
        self.refuse_unknown("", &mut sections, &known);
        let mut take = |name: &str| sections.remove(name);
        let nodes = (
            take("models"),
            take("tools"),
            take("agents"),
            take("tenants"),
        );
        Settings {
            store: self.section("store", take("store")),
            sessions: self.section("sessions", take("sessions")),
            limits: self.section("limits", take("limits")),
            streams: self.section("streams", take("streams")),
            control: self.section("control", take("control")),
            metrics: self.section("metrics", take("metrics")),
            log: self.section("log", take("log")),
            redaction: self.section("redaction", take("redaction")),
            retention: self.section("retention", take("retention")),
            stop: self.section("stop", take("stop")),
            watchdog: self.section("watchdog", take("watchdog")),
            models: self.named::<ModelSettings>("models", nodes.0),
            tools: self.named::<ToolSettings>("tools", nodes.1),
            agents: self.named::<AgentSettings>("agents", nodes.2),
            tenants: self.named::<TenantSettings>("tenants", nodes.3),
        }
    }

    fn named<S>(&mut self, path: &str, node: Option<Node>) -> BTreeMap<String, S>
    where
        S: Default + Serialize + DeserializeOwned,
    {
        let Some(node) = node else {
            return BTreeMap::new();
        };
        self.table(path, node)
            .into_iter()
            .map(|(name, node)| {
                let section = self.section(&join(path, &name), Some(node));
                (name, section)
            })
            .collect()
    }

    /// One table whose keys are the fields of `S`. Every key is tried alone.
    fn section<S>(&mut self, path: &str, node: Option<Node>) -> S
    where
        S: Default + Serialize + DeserializeOwned,
    {
        let Some(node) = node else {
            return S::default();
        };
        let mut table = self.table(path, node);
        self.refuse_unknown(path, &mut table, &keys_of(&S::default()));
        let mut good = serde_json::Map::new();
        for (key, node) in table {
            let at = join(path, &key);
            if key == "prices" && self.has_wrong_prices(&at, &node) {
                continue;
            }
            match read_key::<S>(&key, &node) {
                Ok(value) => drop(good.insert(key, value)),
                Err(says) => self.fault(at, says, &node),
            }
        }
        serde_json::from_value(Value::Object(good)).unwrap_or_default()
    }

    fn has_wrong_prices(&mut self, path: &str, node: &Node) -> bool {
        let before = self.faults.len();
        self.section::<PriceSettings>(path, Some(node.clone()));
        self.faults.len() > before
    }

    fn table(&mut self, path: &str, node: Node) -> BTreeMap<String, Node> {
        if let ValueKind::Table(table) = node.kind {
            return table.into_iter().collect();
        }
        let says = "a table stands here, not a single value".to_owned();
        self.fault(path.to_owned(), says, &node);
        BTreeMap::new()
    }

    fn refuse_unknown(&mut self, path: &str, table: &mut BTreeMap<String, Node>, known: &[String]) {
        table.retain(|key, node| {
            if known.contains(key) {
                return true;
            }
            let says = match nearest(key, known) {
                Some(name) => format!("there is no such key; did you mean {}?", join(path, name)),
                None => format!("there is no such key; known are {}", known.join(", ")),
            };
            self.fault(join(path, key), says, node);
            false
        });
    }

    fn fault(&mut self, key: String, says: String, node: &Node) {
        self.faults.push(Problem {
            key,
            says,
            origin: origin_text(node),
        });
    }
}

/// The value of one key, if the field of that name can hold it.
fn read_key<S: DeserializeOwned>(key: &str, node: &Node) -> Result<Value, String> {
    let mut refusal = None;
    for value in meanings(node) {
        let alone = Value::Object([(key.to_owned(), value.clone())].into_iter().collect());
        match serde_json::from_value::<S>(alone) {
            Ok(_) => return Ok(value),
            Err(error) => drop(refusal.get_or_insert_with(|| error.to_string())),
        }
    }
    Err(refusal.unwrap_or_else(|| "this cannot be read".to_owned()))
}

/// What a node may mean. A text of the environment or a flag may also be a number, a truth value,
/// a list in JSON, or a list with commas.
fn meanings(node: &Node) -> Vec<Value> {
    let plain = to_json(node);
    let is_text = node
        .origin()
        .is_some_and(|origin| origin.starts_with(TEXT_MARK));
    let Some(text) = plain.as_str().filter(|_| is_text).map(str::to_owned) else {
        return vec![plain];
    };
    let list = text.split(',').map(|item| Value::from(item.trim()));
    let list = Value::Array(list.filter(|item| item != "").collect());
    [serde_json::from_str(&text).ok(), Some(plain), Some(list)]
        .into_iter()
        .flatten()
        .collect()
}

fn to_json(node: &Node) -> Value {
    match &node.kind {
        ValueKind::Nil => Value::Null,
        ValueKind::Boolean(it) => (*it).into(),
        ValueKind::I64(it) => (*it).into(),
        ValueKind::U64(it) => (*it).into(),
        ValueKind::I128(it) => it.to_string().into(),
        ValueKind::U128(it) => it.to_string().into(),
        ValueKind::Float(it) => (*it).into(),
        ValueKind::String(it) => it.clone().into(),
        ValueKind::Array(items) => items.iter().map(to_json).collect(),
        ValueKind::Table(table) => table
            .iter()
            .map(|(key, node)| (key.clone(), to_json(node)))
            .collect(),
    }
}

fn keys_of<S: Serialize>(section: &S) -> Vec<String> {
    match serde_json::to_value(section) {
        Ok(Value::Object(fields)) => fields.into_iter().map(|(key, _)| key).collect(),
        Ok(_) | Err(_) => Vec::new(),
    }
}

/// The known name that a misspelt one most likely means.
pub(crate) fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate.as_str()))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, candidate)| candidate)
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        return key.to_owned();
    }
    format!("{path}.{key}")
}
