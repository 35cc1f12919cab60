//! The README does what it says. Its blocks are marked:
//!
//! - `sh run`: is run, as it stands, in a shell of its own; it has to succeed;
//! - `sh file NAME`, `toml file NAME`: is written to that file before;
//! - `text shows`: the blocks that ran before in the section must have shown it, line by line, in
//!   any order; `…` stands for anything.
//!
//! Each section has an empty home and an empty working directory. Rust blocks are run as doc tests.
#![expect(
    clippy::unwrap_used,
    reason = "helpers outside #[test] functions may unwrap too"
)]

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

const README: &str = include_str!("../README.md");
const PROGRAM: &str = env!("CARGO_BIN_EXE_impresario");

/// Seconds for one block; far more than any needs.
const PATIENCE: &str = "300";

/// `cargo run` is what was built already.
const CARGO: &str = r#"
cargo() {
    case "$1 $2" in
    "run --") shift 2; impresario "$@" ;;
    "run --example") "$EXAMPLES/$3" ;;
    *) echo "not a command of the README: cargo $*"; return 1 ;;
    esac
}
"#;

#[derive(Debug)]
struct Block {
    section: String,
    mark: String,
    text: String,
}

fn blocks(readme: &str) -> Vec<Block> {
    let (mut blocks, mut section) = (Vec::<Block>::new(), String::new());
    let mut inside = false;
    for line in readme.lines() {
        if let Some(mark) = line.strip_prefix("```") {
            inside = !inside;
            if inside {
                blocks.push(Block {
                    section: section.clone(),
                    mark: mark.to_owned(),
                    text: String::new(),
                });
            }
        } else if inside {
            writeln!(blocks.last_mut().unwrap().text, "{line}").unwrap();
        } else if let Some(title) = line.strip_prefix("## ") {
            title.clone_into(&mut section);
        }
    }
    blocks
}

/// An empty home with an empty working directory. Stops its daemon at the end.
struct House {
    folder: tempfile::TempDir,
    shown: String,
}

impl House {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("imp").tempdir().unwrap();
        for place in ["home", "work", "run"] {
            std::fs::create_dir(folder.path().join(place)).unwrap();
        }
        Self {
            folder,
            shown: String::new(),
        }
    }

    fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    fn command(&self, program: &str) -> Command {
        let programs = Path::new(PROGRAM).parent().unwrap();
        let path = std::env::join_paths(
            std::iter::once(programs.to_owned())
                .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
        );
        let mut command = Command::new(program);
        command
            .current_dir(self.work())
            .env_clear()
            .env("PATH", path.unwrap())
            .env("HOME", self.folder.path().join("home"))
            .env("XDG_RUNTIME_DIR", self.folder.path().join("run"))
            .env("TMPDIR", self.folder.path())
            .env("EXAMPLES", programs.join("examples"))
            // Several daemons may run on this machine.
            .env("IMPRESARIO__METRICS__LISTEN", "127.0.0.1:0")
            .stdin(Stdio::null());
        command
    }

    fn run(&mut self, script: &str) -> ExitStatus {
        // Not a pipe: a daemon in the background would keep it open.
        let path = self.folder.path().join("shown");
        let out = File::create(&path).unwrap();
        let errors = out.try_clone().unwrap();
        let status = self
            .command("timeout")
            .args([PATIENCE, "sh", "-eu", "-c"])
            .arg(format!("exec 2>&1\n{CARGO}\n{script}"))
            .stdout(out)
            .stderr(errors)
            .status()
            .unwrap();
        let shown = std::fs::read(&path).unwrap();
        self.shown.push_str(&String::from_utf8_lossy(&shown));
        status
    }

    fn has_shown(&self, line: &str) -> bool {
        self.shown.lines().any(|shown| matches(shown, line))
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let mut stop = self.command(PROGRAM);
        stop.arg("stop").stdout(Stdio::null()).stderr(Stdio::null());
        // There may be none.
        let _stopped = stop.status();
    }
}

/// Whether the parts around each `…` stand in the line, in order.
fn matches(shown: &str, wanted: &str) -> bool {
    let mut rest = shown;
    wanted.split('…').all(|part| match rest.find(part) {
        Some(at) => {
            rest = rest.get(at + part.len()..).unwrap_or_default();
            true
        }
        None => false,
    })
}

fn play(house: &mut House, block: &Block) {
    if let Some((_, name)) = block.mark.split_once(" file ") {
        std::fs::write(house.work().join(name), &block.text).unwrap();
    } else if block.mark == "sh run" {
        let status = house.run(&block.text);
        assert!(
            status.success(),
            "a block of '{}' ended with {status}:\n{}\nit showed:\n{}",
            block.section,
            block.text,
            house.shown
        );
    } else if block.mark == "text shows" {
        for line in block.text.lines() {
            assert!(
                house.has_shown(line),
                "'{}' promises {line:?}, shown was:\n{}",
                block.section,
                house.shown
            );
        }
    }
}

#[test]
fn every_command_of_the_readme_works() {
    let blocks = blocks(README);
    let mut ran = 0;
    for section in blocks.chunk_by(|one, next| one.section == next.section) {
        let mut house = House::new();
        for block in section {
            play(&mut house, block);
            ran += usize::from(block.mark == "sh run");
        }
    }
    assert!(ran > 0, "the README has no block to run");
}

#[test]
fn every_promise_of_the_documents_names_something_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut named = 0;
    let documents = [
        "README.md",
        "ARCHITECTURE.md",
        "docs/operation.md",
        "docs/performance.md",
    ];
    for document in documents {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        let quoted = text.split('`').skip(1).step_by(2);
        for (file, name) in quoted.filter_map(|quoted| quoted.split_once("::")) {
            if !(file.starts_with("tests/") || file.starts_with("src/")) {
                continue;
            }
            let Ok(code) = std::fs::read_to_string(root.join(file)) else {
                panic!("{document} names {file}, which is not there");
            };
            let found = ["fn ", "def "].iter().any(|word| {
                code.match_indices(&format!("{word}{name}"))
                    .any(|(at, found)| code.get(at + found.len()..).is_some_and(is_list))
            });
            assert!(found, "{document} names {file}::{name}, which is not there");
            named += 1;
        }
    }
    assert!(named > 0, "the documents name no test");
}

/// What follows the whole name of a function.
fn is_list(rest: &str) -> bool {
    rest.starts_with('(')
}

#[test]
fn every_file_that_the_documents_link_to_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for document in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|it| it.split(')').next())
        {
            let is_ours = !link.contains("://") && !link.starts_with('#');
            assert!(
                !is_ours || root.join(link).exists(),
                "{document} links to {link}, which is not there"
            );
        }
    }
}
