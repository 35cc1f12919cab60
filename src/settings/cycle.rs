//! Whether things that lead to one another lead back to themselves.
//!
//! Called where settings are checked, and where tools are put together in code. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// What each thing leads to, by name. A name that leads nowhere may be left out.
pub(crate) type Ways = BTreeMap<String, Vec<String>>;

/// The first way that leads back to where it began: `a`, `b`, `a`.
pub(crate) fn cycle(ways: &Ways) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    ways.keys()
        .find_map(|name| search(name, ways, &mut Vec::new(), &mut done))
}

fn search<'a>(
    name: &'a str,
    ways: &'a Ways,
    path: &mut Vec<&'a str>,
    done: &mut BTreeSet<&'a str>,
) -> Option<Vec<String>> {
    if let Some(begin) = path.iter().position(|before| *before == name) {
        let round = path.iter().skip(begin).chain([&name]);
        return Some(round.map(|name| (*name).to_owned()).collect());
    }
    if !done.insert(name) {
        return None;
    }
    path.push(name);
    let next = ways.get(name).into_iter().flatten();
    let found = next
        .into_iter()
        .find_map(|next| search(next, ways, path, done));
    path.pop();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(ways: &[(&str, &[&str])]) -> Option<String> {
        let ways = ways.iter().map(|(from, to)| {
            let to = to.iter().map(|name| (*name).to_owned()).collect();
            ((*from).to_owned(), to)
        });
        cycle(&ways.collect()).map(|names| names.join(" "))
    }

    #[test]
    fn a_way_back_is_found_and_a_way_that_two_share_is_none() {
        assert_eq!(
            found(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])]),
            None
        );
        assert_eq!(found(&[("a", &["a"])]).as_deref(), Some("a a"));
        let round: &[(&str, &[&str])] = &[("a", &["b"]), ("b", &["d", "c"]), ("c", &["b"])];
        assert_eq!(found(round).as_deref(), Some("b c b"));
    }
}
