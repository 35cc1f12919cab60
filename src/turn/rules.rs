//! What the core has to know of the settings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::ChildLimits;
use crate::event::EffectClass;
use crate::settings::OnUnknown;

/// What the core has to know of the settings.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The model's name, for the intent.
    pub model: String,
    /// A turn fails after so many steps.
    pub max_steps: u32,
    /// A step fails after so many tries, counted over restarts.
    pub max_attempts: u32,
    /// Inputs that may wait in one session.
    pub queued_inputs: usize,
    /// The tools. One that is not here does nothing.
    pub tools: Arc<BTreeMap<String, ToolRule>>,
    /// How many sessions it may begin.
    pub children: ChildLimits,
}

/// What the core has to know of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolRule {
    /// What a crash in the middle of a call means.
    pub effect: EffectClass,
    /// Why a person is asked before a call runs; `None` when nobody is.
    pub asks: Option<String>,
    /// A question waits so long for its answer; `None` for ever.
    pub expires_after: Option<Duration>,
    /// What is done about a call whose outcome is unknown.
    pub on_unknown: OnUnknown,
    /// Changes when the tool is set up in another way.
    pub identity: String,
}
