//! The control protocol is the one whose schema is kept in `tests/formats`.

use std::path::Path;

/// When the protocol grows on purpose, write the new schema with
/// `cargo run -- schema > tests/formats/control-v1.schema.json`; what was there must stay.
#[test]
fn the_protocol_is_the_one_that_was_promised() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/control-v1.schema.json");
    let promised: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let now = impresario::control::wire::schema();
    assert!(
        now == promised,
        "the protocol has changed; see the comment above this test"
    );
}
