//! What the offline stand-in understands of a sentence: sums, times, waiting. Pure.
//!
//! Called by [`crate::model::offline`]. Never guesses: what is not plainly one of these is nothing.

/// Something that a tool can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// An expression.
    Sum(String),
    /// The time in this IANA zone.
    Time(String),
    /// So many seconds.
    Wait(u64),
}

/// More wishes of one kind than this are left out.
const MOST_OF_A_KIND: usize = 8;

/// Cities by their English names, in small letters, and their zones.
const CITIES: &[(&str, &str)] = &[
    ("amsterdam", "Europe/Amsterdam"),
    ("athens", "Europe/Athens"),
    ("auckland", "Pacific/Auckland"),
    ("bangkok", "Asia/Bangkok"),
    ("beijing", "Asia/Shanghai"),
    ("berlin", "Europe/Berlin"),
    ("bombay", "Asia/Kolkata"),
    ("brussels", "Europe/Brussels"),
    ("buenos aires", "America/Argentina/Buenos_Aires"),
    ("cairo", "Africa/Cairo"),
    ("chicago", "America/Chicago"),
    ("copenhagen", "Europe/Copenhagen"),
    ("delhi", "Asia/Kolkata"),
    ("denver", "America/Denver"),
    ("dubai", "Asia/Dubai"),
    ("dublin", "Europe/Dublin"),
    ("helsinki", "Europe/Helsinki"),
    ("hong kong", "Asia/Hong_Kong"),
    ("istanbul", "Europe/Istanbul"),
    ("jakarta", "Asia/Jakarta"),
    ("johannesburg", "Africa/Johannesburg"),
    ("kyiv", "Europe/Kyiv"),
    ("lagos", "Africa/Lagos"),
    ("lisbon", "Europe/Lisbon"),
    ("london", "Europe/London"),
    ("los angeles", "America/Los_Angeles"),
    ("madrid", "Europe/Madrid"),
    ("melbourne", "Australia/Melbourne"),
    ("mexico city", "America/Mexico_City"),
    ("moscow", "Europe/Moscow"),
    ("mumbai", "Asia/Kolkata"),
    ("nairobi", "Africa/Nairobi"),
    ("new york", "America/New_York"),
    ("oslo", "Europe/Oslo"),
    ("paris", "Europe/Paris"),
    ("prague", "Europe/Prague"),
    ("rome", "Europe/Rome"),
    ("san francisco", "America/Los_Angeles"),
    ("sao paulo", "America/Sao_Paulo"),
    ("seattle", "America/Los_Angeles"),
    ("seoul", "Asia/Seoul"),
    ("shanghai", "Asia/Shanghai"),
    ("singapore", "Asia/Singapore"),
    ("stockholm", "Europe/Stockholm"),
    ("sydney", "Australia/Sydney"),
    ("tokyo", "Asia/Tokyo"),
    ("toronto", "America/Toronto"),
    ("utc", "UTC"),
    ("vancouver", "America/Vancouver"),
    ("vienna", "Europe/Vienna"),
    ("warsaw", "Europe/Warsaw"),
    ("zurich", "Europe/Zurich"),
];

/// Words for operators.
const OPERATORS: &[(&str, &str)] = &[
    (" multiplied by ", " * "),
    (" divided by ", " / "),
    (" times ", " * "),
    (" plus ", " + "),
    (" minus ", " - "),
    ("×", "*"),
    ("·", "*"),
    ("÷", "/"),
    ("−", "-"),
];

/// What this sentence wishes for: sums first, then times, then waiting.
pub(super) fn wishes(said: &str) -> Vec<Wish> {
    let small = said.to_lowercase();
    let mut found: Vec<Wish> = sums(&small).into_iter().map(Wish::Sum).collect();
    found.extend(zones(said, &small).into_iter().map(Wish::Time));
    found.extend(wait(&small).map(Wish::Wait));
    found
}

fn sums(small: &str) -> Vec<String> {
    let mut text = small.to_owned();
    for (word, operator) in OPERATORS {
        text = text.replace(word, operator);
    }
    let of_sum = |letter: char| letter.is_ascii_digit() || " .+-*/^%()".contains(letter);
    text.split(|letter: char| !of_sum(letter))
        .map(|run| run.trim_matches(|letter: char| " .+*/^%".contains(letter)))
        .map(|run| run.trim_end_matches(|letter: char| " .-(".contains(letter)))
        .filter(|run| is_sum(run))
        .map(str::to_owned)
        .take(MOST_OF_A_KIND)
        .collect()
}

/// An operator stands between two numbers, and the brackets match. Dates are no sums.
fn is_sum(run: &str) -> bool {
    let digits_before = |at: usize| {
        run.get(..at)
            .is_some_and(|head| head.contains(|letter: char| letter.is_ascii_digit()))
    };
    let has_operator = run
        .char_indices()
        .any(|(at, letter)| "+-*/^%".contains(letter) && digits_before(at));
    let ends_with_number = run.ends_with(|letter: char| letter.is_ascii_digit() || letter == ')');
    has_operator && ends_with_number && brackets_match(run) && !is_date(run)
}

fn brackets_match(run: &str) -> bool {
    let mut open = 0_usize;
    for letter in run.chars() {
        match letter {
            '(' => open += 1,
            ')' => match open.checked_sub(1) {
                Some(left) => open = left,
                None => return false,
            },
            _ => {}
        }
    }
    open == 0
}

/// `2026-01-31`.
fn is_date(run: &str) -> bool {
    let parts: Vec<&str> = run.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    lengths == [4, 2, 2] && parts.concat().chars().all(|letter| letter.is_ascii_digit())
}

fn zones(said: &str, small: &str) -> Vec<String> {
    let words: Vec<&str> = small
        .split(|letter: char| !letter.is_alphanumeric())
        .collect();
    if !words
        .iter()
        .any(|word| ["time", "clock", "late"].contains(word))
    {
        return Vec::new();
    }
    let mut found: Vec<(usize, String)> = CITIES
        .iter()
        .filter_map(|(city, zone)| Some((whole_word(small, city)?, (*zone).to_owned())))
        .collect();
    found.extend(literal_zones(said));
    found.sort();
    let mut zones: Vec<String> = Vec::new();
    for (_, zone) in found {
        if !zones.contains(&zone) && zones.len() < MOST_OF_A_KIND {
            zones.push(zone);
        }
    }
    if zones.is_empty() && asks_for_the_time(small) {
        zones.push("UTC".to_owned());
    }
    zones
}

/// Zones written as IANA does: `Europe/Oslo`.
fn literal_zones(said: &str) -> Vec<(usize, String)> {
    let of_zone = |letter: char| letter.is_ascii_alphanumeric() || "/_+-".contains(letter);
    said.split(|letter: char| !of_zone(letter))
        .filter(|word| word.contains('/') && jiff::tz::TimeZone::get(word).is_ok())
        .filter_map(|word| Some((said.find(word)?, word.to_owned())))
        .collect()
}

/// Where the word stands, if no letter touches it.
fn whole_word(text: &str, word: &str) -> Option<usize> {
    text.match_indices(word)
        .find(|(at, found)| {
            let before = text.get(..*at).and_then(|head| head.chars().next_back());
            let after = text
                .get(at + found.len()..)
                .and_then(|tail| tail.chars().next());
            let touches = |letter: Option<char>| {
                letter.is_some_and(|letter| letter.is_alphanumeric() || "/_".contains(letter))
            };
            !touches(before) && !touches(after)
        })
        .map(|(at, _)| at)
}

fn asks_for_the_time(small: &str) -> bool {
    ["what time", "the time", "time is it", "how late"]
        .iter()
        .any(|phrase| small.contains(phrase))
}

/// `wait 3 seconds`, `wait for 1 minute`, `wait 5`.
fn wait(small: &str) -> Option<u64> {
    let words: Vec<&str> = small
        .split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    let at = words
        .iter()
        .position(|word| ["wait", "sleep", "pause"].contains(word))?;
    let mut rest = words.get(at + 1..)?.iter().filter(|word| **word != "for");
    let number: u64 = rest.next()?.parse().ok()?;
    let unit = rest.next().copied().unwrap_or_default();
    match unit {
        "minute" | "minutes" | "min" => number.checked_mul(60),
        _ => Some(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(expression: &str) -> Wish {
        Wish::Sum(expression.to_owned())
    }

    fn time(zone: &str) -> Wish {
        Wish::Time(zone.to_owned())
    }

    #[test]
    fn sums_are_found_in_sentences() {
        let cases = [
            ("What is 17 * 23?", "17 * 23"),
            ("what's 2 plus 3.5", "2 + 3.5"),
            ("12 divided by 4.", "12 / 4"),
            ("compute (1 + 2) * -3, please", "(1 + 2) * -3"),
            ("6×7", "6*7"),
            ("how much is 2^10 then", "2^10"),
        ];
        for (said, expression) in cases {
            assert_eq!(wishes(said), [sum(expression)], "{said}");
        }
    }

    #[test]
    fn what_is_no_sum_is_left_alone() {
        for said in [
            "hi",
            "I have 3 apples",
            "on 2026-01-31",
            "well - no",
            "a (b",
            "1 + (",
        ] {
            assert_eq!(wishes(said), [], "{said}");
        }
    }

    #[test]
    fn times_are_found_by_city_and_by_zone() {
        assert_eq!(
            wishes("What time is it in New York?"),
            [time("America/New_York")]
        );
        assert_eq!(wishes("time in Europe/Oslo"), [time("Europe/Oslo")]);
        assert_eq!(
            wishes("the time in Tokyo and London, and Tokyo"),
            [time("Asia/Tokyo"), time("Europe/London")]
        );
        assert_eq!(wishes("what time is it?"), [time("UTC")]);
        assert_eq!(wishes("I was in Tokyo last year"), []);
        assert_eq!(wishes("sometimes a time/space thing"), []);
    }

    #[test]
    fn waiting_is_found_with_its_unit() {
        assert_eq!(wishes("Wait 3 seconds"), [Wish::Wait(3)]);
        assert_eq!(wishes("please wait for 2 minutes"), [Wish::Wait(120)]);
        assert_eq!(wishes("I cannot wait"), []);
    }

    #[test]
    fn several_wishes_come_in_one_go() {
        assert_eq!(
            wishes("What is 17 * 23, and what time is it in Tokyo? Then wait 1 second."),
            [sum("17 * 23"), time("Asia/Tokyo"), Wish::Wait(1)]
        );
    }

    #[test]
    fn every_city_has_a_zone_that_exists() {
        for (city, zone) in CITIES {
            assert!(jiff::tz::TimeZone::get(zone).is_ok(), "{city}: {zone}");
        }
    }
}
