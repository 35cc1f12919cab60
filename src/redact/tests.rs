use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

const PEM: &str = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEAz/x+8s=\nQWERTYUIOPasdfghjkl1234567890\n-----END RSA PRIVATE KEY-----";
const JWT: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U";
const VALUE: &str = "correct horse\"battery/staple+9?";

fn shapes() -> Redactor {
    Redactor::new([], &[]).unwrap()
}

fn everything() -> Redactor {
    static EVERYTHING: LazyLock<Redactor> = LazyLock::new(all_rules);
    EVERYTHING.clone()
}

fn all_rules() -> Redactor {
    let values = [
        VALUE,
        "hunter2-hunter2",
        "hunter2-hunter2-and-more",
        "größter Geheimniß",
    ];
    Redactor::new(values, &["acme_[a-z]{6,}".to_owned()]).unwrap()
}

/// Keys of every shape, the kind that stands for each.
fn keys() -> Vec<(&'static str, String)> {
    let random = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0dF3gH6jK9m";
    let upper = "QX7RZ2LM9KPT4WVB";
    vec![
        (
            "anthropic_key",
            format!("sk-ant-api03-{random}_{random}-AA"),
        ),
        ("openai_key", format!("sk-{random}")),
        ("openai_key", format!("sk-proj-{random}_{random}")),
        ("openai_key", format!("sk-or-v1-{}", "0a1b2c3d".repeat(8))),
        ("stripe_key", format!("sk_live_{random}")),
        ("aws_key", format!("AKIA{upper}")),
        ("aws_key", format!("aws_secret_access_key = {random}")),
        ("aws_key", format!("\"SecretAccessKey\": \"{random}")),
        ("github_token", format!("ghp_{}", &random[..36])),
        (
            "github_token",
            format!("github_pat_{}_{random}", &random[..22]),
        ),
        (
            "slack_token",
            format!("xoxb-123456789012-{}", &random[..24]),
        ),
        ("google_key", format!("AIza{}", &random[..35])),
        ("bearer_token", format!("Bearer {random}")),
        ("bearer_token", format!("authorization: bearer {random}==")),
        (
            "basic_auth",
            "Authorization: Basic dXNlcjpwYXNzd29yZDE=".to_owned(),
        ),
        ("jwt", JWT.to_owned()),
        ("private_key", PEM.to_owned()),
        ("private_key", PEM.replace('\n', "\\n")),
        (
            "url_password",
            "postgres://admin:s3cr3t@db.internal/x".to_owned(),
        ),
        ("url_password", "redis://:s3cr3t:9@10.0.0.1".to_owned()),
    ]
}

#[test]
fn a_key_of_every_shape_is_taken_out_wherever_it_stands() {
    let redactor = shapes();
    let mut seen: Vec<_> = keys().iter().map(|(kind, _)| *kind).collect();
    seen.dedup();
    assert_eq!(seen, shape::KINDS);
    let places = [
        ("", ""),
        ("the key is ", ", keep it"),
        ("{\"a\":\"", "\"}"),
        ("one\\n", "\\nthree"),
        ("?k%3D", "&x"),
        ("\u{1b}[0m", "\u{1b}[0m"),
        ("\\u003d", "\\u003e"),
        ("größe=", " …"),
    ];
    for (kind, key) in keys() {
        for (before, after) in places {
            let text = format!("{before}{key}{after}");
            let redacted = redactor.redact(&text);
            assert!(
                redacted.contains(&format!("[redacted:{kind}]")),
                "{redacted}"
            );
            assert!(redacted.starts_with(before), "{text} → {redacted}");
            assert!(redacted.ends_with(after), "{text} → {redacted}");
            for secret in [
                "gH9jK2mN5",
                "QX7RZ2",
                "0a1b2c",
                "MIIE",
                "QWERTY",
                "dozjg",
                "s3cr3t",
                "dXNl",
            ] {
                assert!(!redacted.contains(secret), "{text} → {redacted}");
            }
        }
    }
}

#[test]
fn ordinary_text_stays_as_it_is() {
    let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let picture = "iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4//8/w38GIAXDIBKE0DHxgljNBAAO9TXL0Y4OHwAAAABJRU5ErkJggg==";
    let texts = [
        "The bearer of this letter, a basic understanding, and a risk-assessment-methodology-framework-2.",
        "Bearer authentication/authorization is described in RFC 6750.",
        "Use task-0123456789abcdefghijklmn and sk-learn; class=\"sk-estimator-doc-link\".",
        "01JAVZ5M8QKXW3T9R2Y7N4C6DE and 01ARZ3NDEKTSV4RRFFQ69G5FAV:17",
        "550e8400-e29b-41d4-a716-446655440000",
        "fn main() { let key = std::env::var(\"OPENAI_API_KEY\")?; a - -b; x--; }",
        "https://example.com:8080/path?q=a@b.c and mailto:someone@example.com and http://localhost:1234",
        "git@github.com:owner/repository.git, ssh://git@host/path, //comment: see a@b",
        "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----\n-----BEGIN CERTIFICATE-----",
        "eyJ is how base64 of a JSON object begins: eyJhIjoxfQ==.",
        "aws_secret_access_key is a setting; AKIA is a prefix. [redacted:openai_key] is a placeholder.",
        "größer, 日本語のテキスト, emoji 👩‍👩‍👧, \u{0} and \u{7f}",
    ];
    for text in texts.into_iter().chain([hash, picture]) {
        assert_eq!(everything().redact(text), text);
    }
}

#[test]
fn a_known_value_is_taken_out_in_every_form_in_which_it_travels() {
    let redactor = everything();
    let json = serde_json::to_string(VALUE).unwrap();
    // The value alone, behind one byte, behind two bytes; in both alphabets.
    let forms = [
        VALUE,
        &json,
        &serde_json::to_string(&json).unwrap(),
        "Y29ycmVjdCBob3JzZSJiYXR0ZXJ5L3N0YXBsZSs5Pw==",
        "OmNvcnJlY3QgaG9yc2UiYmF0dGVyeS9zdGFwbGUrOT8=",
        "YTpjb3JyZWN0IGhvcnNlImJhdHRlcnkvc3RhcGxlKzk_",
        "correct%20horse%22battery%2Fstaple%2B9%3F",
        "correct%20horse%22battery%2fstaple%2b9%3f",
    ];
    for form in forms {
        let text = format!("before {form} after");
        let redacted = redactor.redact(&text);
        assert!(redacted.contains("[redacted:secret]"), "{form}: {redacted}");
        let rest = redacted.replace("[redacted:secret]", "");
        assert!(
            rest.len() <= "before  after".len() + 8,
            "{form}: {redacted}"
        );
    }
}

#[test]
fn of_two_known_values_the_longer_is_taken_out() {
    let redactor = everything();
    assert_eq!(
        redactor.redact("hunter2-hunter2-and-more!"),
        "[redacted:secret]!"
    );
    assert_eq!(
        redactor.redact("hunter2-hunter2-and-m"),
        "[redacted:secret]-and-m"
    );
}

#[test]
fn a_value_too_short_to_be_told_from_words_is_left() {
    let redactor = Redactor::new(["true", "", "redacted"], &[]).unwrap();
    assert_eq!(redactor.redact("true [redacted:x]"), "true [redacted:x]");
}

#[test]
fn a_value_of_many_kilobytes_is_known_by_its_parts() {
    let long: String = (0..3000).map(|number| format!("{number:x}.")).collect();
    let redactor = Redactor::new([long.as_str()], &[]).unwrap();
    let redacted = redactor.redact(&long);
    assert_eq!(redacted.replace("[redacted:secret]", ""), "", "{redacted}");
}

#[test]
fn the_lines_of_a_value_are_known_one_by_one() {
    let redactor = Redactor::new([PEM], &[]).unwrap();
    assert_eq!(
        redactor.redact("> QWERTYUIOPasdfghjkl1234567890"),
        "> [redacted:secret]"
    );
    assert_eq!(
        redactor.redact("-----END RSA PRIVATE KEY-----"),
        "-----END RSA PRIVATE KEY-----"
    );
}

#[test]
fn a_pattern_is_taken_out_of_words_and_a_useless_one_is_refused() {
    let redactor = everything();
    assert_eq!(
        redactor.redact("{\"k\":\"acme_qwertz\"}\nacme_abc"),
        "{\"k\":\"[redacted:pattern]\"}\nacme_abc"
    );
    let refused = |pattern: &str| Redactor::new([], &[pattern.to_owned()]).unwrap_err();
    assert!(matches!(refused("("), BadPattern::Syntax(_)));
    assert!(matches!(refused("pass: \\S+"), BadPattern::Space(_)));
    assert!(matches!(refused("pass\\s"), BadPattern::Space(_)));
    assert!(matches!(refused("x*"), BadPattern::Empty(_)));
    assert!(Redactor::new([], &["pass=[^\\s]+".to_owned()]).is_ok());
}

#[test]
fn what_is_redacted_is_not_redacted_again() {
    let redactor = everything();
    for (_, key) in keys() {
        let once = redactor.redact(&key).into_owned();
        assert_eq!(redactor.redact(&once), once);
    }
}

#[test]
fn without_rules_everything_stays() {
    let redactor = Redactor::default();
    assert_eq!(redactor.redact(PEM), PEM);
    assert_eq!(redactor.stream().push(PEM), PEM);
}

#[test]
fn debug_output_shows_no_value() {
    let redactor = everything();
    assert!(!format!("{redactor:?}").contains("hunter2"));
}

#[test]
fn ordinary_words_come_out_a_letter_or_two_late() {
    let redactor = Redactor::new([VALUE, "hunter2-hunter2"], &[]).unwrap();
    let mut stream = redactor.stream();
    let text =
        "Well, the basic answer is: skip the header, then go back to https, as A-Z does. See";
    let mut shown = String::new();
    let mut late = Vec::new();
    for (at, letter) in text.char_indices() {
        shown.push_str(&stream.push(&letter.to_string()));
        late.push(at + letter.len_utf8() - shown.len());
    }
    // "basic answer" is the longest that could go on as a key.
    assert!(late.iter().max() <= Some(&12), "{late:?}");
    let all: usize = late.iter().sum();
    assert!(all < 2 * late.len(), "{late:?}");
    assert_eq!(shown + &stream.finish(), text);
}

#[test]
fn what_is_held_back_is_bounded() {
    let redactor = everything();
    let endless = [
        "eyJ",
        "sk-",
        "AKIA",
        "://u",
        "://u:p",
        "Bearer ",
        "-----BEGIN A",
        "acme_a",
        "ghp_",
    ];
    for begin in endless {
        let mut stream = redactor.stream();
        stream.push(begin);
        for _ in 0..2_000 {
            stream.push("aaaaaaaaaaaaaaaa");
            assert!(stream.held() <= 9_000, "{begin}: {}", stream.held());
        }
    }
}

/// Pieces of text with whole, broken and hidden secrets among them.
fn text() -> impl Strategy<Value = String> {
    let mut parts: Vec<String> = keys().into_iter().map(|(_, key)| key).collect();
    parts.extend(
        [
            VALUE,
            "hunter2-hunter2",
            "größter Geheimniß",
            "acme_secretly",
            " ",
            "\n",
            "s",
            "sk-",
            "eyJ",
            "é",
            "\\n",
        ]
        .map(str::to_owned),
    );
    parts.extend(
        [
            "YTpjb3JyZWN0IGhvcnNlImJhdHRlcnkvc3RhcGxlKzk_",
            "://a:",
            "-----",
            "b=",
            "[redacted:",
        ]
        .map(str::to_owned),
    );
    let part = proptest::sample::select(parts);
    let broken = (part.clone(), any::<prop::sample::Index>()).prop_map(|(part, at)| {
        let mut at = at.index(part.len() + 1);
        while !part.is_char_boundary(at) {
            at -= 1;
        }
        part[..at].to_owned()
    });
    let noise = "[ -~é]{0,12}";
    prop::collection::vec(prop_oneof![part, broken, noise], 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn text_in_pieces_gives_what_the_whole_gives(text in text(), cuts in prop::collection::vec(1usize..9, 1..40)) {
        let redactor = everything();
        let mut stream = redactor.stream();
        let mut pieces = String::new();
        let letters: Vec<char> = text.chars().collect();
        let (mut rest, mut cuts) = (letters.as_slice(), cuts.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            pieces.push_str(&stream.push(&piece.iter().collect::<String>()));
            rest = after;
        }
        pieces.push_str(&stream.finish());
        prop_assert_eq!(stream.held(), 0);
        prop_assert_eq!(&pieces, &redactor.redact(&text));
        prop_assert!(!pieces.contains("hunter2-hunter2") && !pieces.contains(VALUE));
    }

    #[test]
    fn long_words_in_pieces_give_what_the_whole_gives(seed in "[a-f_]{1,9}(acme_)?", cut in 1usize..5000, many in 900usize..4000) {
        let redactor = everything();
        let text = seed.repeat(many);
        let mut stream = redactor.stream();
        let mut pieces = String::new();
        for piece in text.as_bytes().chunks(cut) {
            pieces.push_str(&stream.push(std::str::from_utf8(piece).unwrap()));
        }
        pieces.push_str(&stream.finish());
        prop_assert_eq!(pieces, redactor.redact(&text));
    }
}

#[test]
fn an_attachment_that_holds_a_secret_is_left_out_and_others_stay_as_they_are() {
    use crate::event::{Attachment, AttachmentKind, Fact, Outcome, ToolResult};

    // "correct horse\"battery/staple+9?" and "a picture", in base64.
    let secret = "Y29ycmVjdCBob3JzZSJiYXR0ZXJ5L3N0YXBsZSs5Pw==";
    let attachment = |data: &str| Attachment {
        kind: AttachmentKind::Image,
        mime: Some("image/png".to_owned()),
        uri: Some(format!("demo://{VALUE}")),
        data: Some(data.to_owned()),
        bytes: 9,
    };
    let fact = Fact::ToolResult(ToolResult {
        of: crate::id::Seq::new(1),
        outcome: Outcome::Ok,
        content: String::new(),
        attempts: 1,
        duration_ms: 1,
        sandbox: None,
        cause: None,
        attachments: vec![attachment(secret), attachment("YSBwaWN0dXJl")],
        spent: None,
    });
    let Fact::ToolResult(result) = everything().fact(fact) else {
        panic!("a result stays a result");
    };
    let data: Vec<_> = result
        .attachments
        .iter()
        .map(|it| it.data.as_deref())
        .collect();
    assert_eq!(data, [None, Some("YSBwaWN0dXJl")]);
    assert!(
        result
            .attachments
            .iter()
            .all(|it| !it.uri.as_ref().unwrap().contains(VALUE))
    );
}
