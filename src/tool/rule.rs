//! What sessions have to know of each tool, everything counted that a call of it may lead to.
//!
//! Called by [`crate::tool::Toolbox`], which has made sure that there is no way round, and by MCP
//! servers for their tools.

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::event::EffectClass;
use crate::id::hex;
use crate::settings::cycle::Ways;
use crate::settings::{ApprovalMode, OnUnknown};
use crate::tool::host::Waits;
use crate::tool::{Care, Tool};
use crate::turn::ToolRule;

/// Tools by name, each with its care.
pub(super) type Cared = BTreeMap<String, (Arc<dyn Tool>, Care)>;

/// What servers of tools may do, by the names that stand for all their tools.
pub(super) type OfServers = BTreeMap<String, ToolRule>;

/// The rule of the tool with this name: the weakest promise, and the first that asks, among it and
/// all that it may lead to.
pub(super) fn rule(name: &str, tools: &Cared, servers: &OfServers, ways: &Ways) -> ToolRule {
    let own = match (tools.get(name), servers.get(name)) {
        (Some((tool, care)), _) => own_rule(tool.as_ref(), care),
        (None, Some(server)) => server.clone(),
        (None, None) => ToolRule::default(),
    };
    let members = ways.get(name).into_iter().flatten();
    let members: Vec<_> = members
        .map(|other| (other.clone(), rule(other, tools, servers, ways)))
        .collect();
    combined(own, &members)
}

/// What a tool's rule becomes with those of all that a call of it may lead to, by their names.
pub(super) fn combined(own: ToolRule, members: &[(String, ToolRule)]) -> ToolRule {
    let of_members = || members.iter().map(|(_, rule)| rule);
    let asking = of_members()
        .zip(members)
        .find_map(|(rule, (name, _))| Some((name, rule.asks.as_ref()?, rule.expires_after)));
    let (asks, expires_after) = match (own.asks, asking) {
        (None, Some((name, why, expires))) => {
            (Some(format!("it may call '{name}': {why}")), expires)
        }
        // A run whose outcome is unknown may still be asked about.
        (own_asks, _) => (own_asks, own.expires_after),
    };
    let identities = of_members().map(|rule| rule.identity.as_str());
    ToolRule {
        effect: of_members()
            .map(|rule| rule.effect)
            .chain([own.effect])
            .max()
            .unwrap_or(EffectClass::AtMostOnce),
        asks,
        expires_after,
        on_unknown: if of_members().any(|rule| rule.on_unknown == OnUnknown::Ask) {
            OnUnknown::Ask
        } else {
            own.on_unknown
        },
        identity: if members.is_empty() {
            own.identity
        } else {
            hashed([own.identity.as_str()].into_iter().chain(identities))
        },
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

/// The rule of a tool by itself.
pub(super) fn own_rule(tool: &dyn Tool, care: &Care) -> ToolRule {
    let definition = &tool.spec().definition;
    let parts = [
        tool.kind(),
        &definition.description,
        &definition.parameters.to_string(),
        &tool.identity(),
    ];
    ToolRule {
        effect: tool.spec().effect,
        asks: asks(care.approval, || tool.is_destructive()),
        expires_after: care.expires_after,
        on_unknown: care.on_unknown,
        identity: hashed(parts.into_iter()),
    }
}

/// Why a person is asked before a call runs, if one is.
pub(super) fn asks(mode: ApprovalMode, is_destructive: impl FnOnce() -> bool) -> Option<String> {
    let why = match mode {
        ApprovalMode::Always => "the settings say always",
        ApprovalMode::Destructive if is_destructive() => "it may change something",
        ApprovalMode::Destructive | ApprovalMode::Never => return None,
    };
    Some(why.to_owned())
}

/// Another text for a tool that is set up in another way.
fn hashed<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
        hash.update([0]);
    }
    hex(hash.finalize().iter().take(IDENTITY_BYTES))
}

/// Enough to tell two ways of setting a tool up apart.
const IDENTITY_BYTES: usize = 16;
