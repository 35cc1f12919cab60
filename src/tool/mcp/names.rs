//! The names under which models know the tools of a server: `server__tool`.
//!
//! Providers accept 1 to 64 of the characters a-z A-Z 0-9 _ and -. What else stands in a tool's own
//! name becomes `_`; a name that is too long is cut and ends in a checksum of the whole; so do names
//! that would be the same otherwise, save one that is written as it is. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// The longest name that providers accept.
const LONGEST: usize = 64;
/// `_` and a checksum in hexadecimal.
const MARK: usize = 9;
/// Stands between a server's name and the tool's.
pub(crate) const BETWEEN: &str = "__";
/// The part of a tool's name before `__`, and that behind it.
pub(crate) fn parts(name: &str) -> Option<(&str, &str)> {
    name.split_once(BETWEEN)
        .filter(|(server, tool)| !server.is_empty() && !tool.is_empty())
}

/// The full names of a server's tools, by their own names; each is another one. Does not depend on
/// the order in which the server names them.
pub(super) fn full_names<'a>(
    server: &str,
    own: impl IntoIterator<Item = &'a str>,
) -> BTreeMap<&'a str, String> {
    let own: BTreeSet<&str> = own.into_iter().filter(|name| !name.is_empty()).collect();
    let mut same: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for name in own {
        same.entry(plain(server, name)).or_default().push(name);
    }
    let mut full = BTreeMap::new();
    for (plain, names) in &same {
        for name in names {
            let is_itself = plain.strip_prefix(server) == Some(&format!("{BETWEEN}{name}"));
            if names.len() == 1 || is_itself {
                full.insert(*name, plain.clone());
            } else {
                full.insert(*name, marked(plain, name));
            }
        }
    }
    let mut taken = BTreeSet::new();
    full.retain(|_, name| taken.insert(name.clone()));
    full
}

/// A name of characters that providers accept, and not too long.
fn plain(server: &str, own: &str) -> String {
    let accepted = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let own_accepted = own.chars().map(|c| if accepted(c) { c } else { '_' });
    let name: String = server
        .chars()
        .chain(BETWEEN.chars())
        .chain(own_accepted)
        .collect();
    if name.len() <= LONGEST {
        return name;
    }
    marked(&name, own)
}

/// A name that ends in a checksum of the own name. All its characters are of one byte.
fn marked(name: &str, own: &str) -> String {
    let kept: String = name.chars().take(LONGEST - MARK).collect();
    format!("{kept}_{:08x}", crc32c::crc32c(own.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(own: &[&str]) -> Vec<(String, String)> {
        let full = full_names("git", own.iter().copied());
        full.into_iter()
            .map(|(own, full)| (own.to_owned(), full))
            .collect()
    }

    #[test]
    fn a_tool_is_named_after_its_server_in_characters_that_providers_accept() {
        let table = [
            ("git_status", "git__git_status"),
            ("get-sum", "git__get-sum"),
            ("a.b/c d", "git__a_b_c_d"),
            ("größe", "git__gr__e"),
        ];
        for (own, full) in table {
            assert_eq!(names(&[own]), [(own.to_owned(), full.to_owned())]);
        }
    }

    #[test]
    fn a_name_that_is_too_long_is_cut_and_told_apart_by_a_checksum() {
        let long = "x".repeat(70);
        let longer = "x".repeat(71);
        let found = names(&[&long, &longer]);
        let [(_, first), (_, second)] = found.as_slice() else {
            panic!("two names: {found:?}");
        };
        assert_eq!((first.len(), second.len()), (64, 64));
        assert_ne!(first, second);
        assert!(first.starts_with("git__xxx"), "{first}");
        assert_eq!(names(&[&"y".repeat(59)])[0].1.len(), 64);
    }

    #[test]
    fn names_that_would_be_the_same_are_told_apart_and_the_plain_one_stays() {
        let found = names(&["a.b", "a_b", "a b"]);
        let full: BTreeMap<_, _> = found.iter().cloned().collect();
        assert_eq!(full["a_b"], "git__a_b");
        assert_eq!(full.values().collect::<BTreeSet<_>>().len(), 3);
        assert!(full["a.b"].starts_with("git__a_b_"), "{full:?}");
    }

    #[test]
    fn a_full_name_leads_back_to_its_server() {
        assert_eq!(parts("git__git__x"), Some(("git", "git__x")));
        assert_eq!(parts("calc"), None);
        assert_eq!(parts("git__"), None);
    }

    proptest! {
        #[test]
        fn every_full_name_is_accepted_by_providers_and_no_two_are_the_same(
            own in prop::collection::btree_set(".{1,90}", 0..12),
        ) {
            let full = full_names("server-1", own.iter().map(String::as_str));
            let different: BTreeSet<_> = full.values().collect();
            prop_assert_eq!(different.len(), full.len());
            for name in full.values() {
                prop_assert!((1..=64).contains(&name.len()));
                prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'));
                prop_assert_eq!(parts(name).map(|(server, _)| server), Some("server-1"));
            }
        }
    }
}
