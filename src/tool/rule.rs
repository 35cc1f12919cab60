//! What sessions have to know of each tool, everything counted that a call of it may lead to.
//!
//! Called by [`crate::tool::Toolbox`], which has made sure that there is no way round.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::event::EffectClass;
use crate::settings::cycle::Ways;
use crate::settings::{ApprovalMode, OnUnknown};
use crate::tool::host::Waits;
use crate::tool::{Care, Tool};
use crate::turn::ToolRule;

/// Tools by name, each with its care.
pub(super) type Cared = BTreeMap<String, (Arc<dyn Tool>, Care)>;

/// The rule of the tool with this name: the weakest promise, and the first that asks, among it and
/// all that it may lead to.
pub(super) fn rule(name: &str, tools: &Cared, ways: &Ways) -> ToolRule {
    let members = ways.get(name).into_iter().flatten();
    let members: Vec<_> = members
        .map(|other| (other, rule(other, tools, ways)))
        .collect();
    let Some((tool, care)) = tools.get(name) else {
        return ToolRule::default();
    };
    let of_members = || members.iter().map(|(_, rule)| rule);
    let (asks, expires_after) = asking(tool.as_ref(), care, &members);
    ToolRule {
        effect: of_members()
            .map(|rule| rule.effect)
            .chain([tool.spec().effect])
            .max()
            .unwrap_or(EffectClass::AtMostOnce),
        asks,
        expires_after,
        on_unknown: if of_members().any(|rule| rule.on_unknown == OnUnknown::Ask) {
            OnUnknown::Ask
        } else {
            care.on_unknown
        },
        identity: identity(
            tool.as_ref(),
            of_members().map(|rule| rule.identity.as_str()),
        ),
    }
}

/// For whom a call of the tool with this name may wait, among it and all that it may lead to.
pub(super) fn waits(name: &str, tools: &Cared, ways: &Ways) -> Waits {
    let own = tools.get(name).and_then(|(tool, _)| tool.agent());
    let mut members = ways.get(name).into_iter().flatten();
    if own.is_some() || members.any(|other| waits(other, tools, ways) == Waits::ForAgents) {
        Waits::ForAgents
    } else {
        Waits::ForNobody
    }
}

/// Why a person is asked, and how long an answer is waited for.
fn asking(
    tool: &dyn Tool,
    care: &Care,
    members: &[(&String, ToolRule)],
) -> (Option<String>, Option<Duration>) {
    let own = match care.approval {
        ApprovalMode::Always => Some("the settings say always"),
        ApprovalMode::Destructive if tool.is_destructive() => Some("it may change something"),
        ApprovalMode::Destructive | ApprovalMode::Never => None,
    };
    if let Some(why) = own {
        return (Some(why.to_owned()), care.expires_after);
    }
    let asking = members
        .iter()
        .find_map(|(name, rule)| Some((name, rule.asks.as_ref()?, rule.expires_after)));
    match asking {
        Some((name, why, expires)) => (Some(format!("it may call '{name}': {why}")), expires),
        // A run whose outcome is unknown may still be asked about.
        None => (None, care.expires_after),
    }
}

/// Another text for a tool that is set up in another way.
fn identity<'a>(tool: &dyn Tool, members: impl Iterator<Item = &'a str>) -> String {
    let definition = &tool.spec().definition;
    let mut hash = Sha256::new();
    let mut take = |part: &str| {
        hash.update(part);
        hash.update([0]);
    };
    take(tool.kind());
    take(&definition.description);
    take(&definition.parameters.to_string());
    take(&tool.identity());
    members.for_each(take);
    let hash = hash.finalize();
    hash.iter()
        .take(IDENTITY_BYTES)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Enough to tell two ways of setting a tool up apart.
const IDENTITY_BYTES: usize = 16;
