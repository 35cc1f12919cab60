//! Power cuts: the store lies on an ext4 image, its writer is stopped, the image is copied as the
//! device has it, and the copy is checked. Unlike `kill -9`, this shows a missing fsync.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "helpers outside #[test] functions may unwrap; a skipped test says so; the child is told what to do by its environment"
)]

#[path = "store_support/crash.rs"]
mod crash;
mod store_support;

use std::collections::HashMap;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command};

use crash::{Mount, WRITER, skipped, start_writer};
use impresario::id::Seq;
use impresario::store::verify;
use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use store_support::session;

const ROUNDS: usize = 20;

#[test]
#[ignore = "the writer that the test below starts as a child"]
fn writer() {
    let dir = std::env::var(WRITER).expect("the test below says where to write");
    crash::write_until_killed(Path::new(&dir));
}

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    if !rustix::process::geteuid().is_root() {
        return skipped("power cuts need root, for mounts");
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    if !make_image(&image) {
        return skipped("power cuts need mkfs.ext4");
    }
    let Some(disk) = mount(&dir.path().join("disk"), &image) else {
        return skipped("power cuts need loop devices");
    };
    let mut writer = Writer::start(&disk.path().join("data"));
    for round in 0..ROUNDS {
        writer.run_for(60 + round * 10);
        writer.stop();
        check_copy(dir.path(), round, &writer.acked);
        writer.go_on();
    }
    let kept: u64 = writer.acked.values().sum();
    println!("{ROUNDS} power cuts, {kept} acknowledged events, none lost");
}

/// Copies the image as it is now and checks the store on the copy.
fn check_copy(dir: &Path, round: usize, acked: &HashMap<u128, u64>) {
    let copy = dir.join(format!("copy-{round}"));
    let copied = Command::new("cp")
        .args([Path::new("--sparse=always"), &dir.join("image"), &copy])
        .status();
    assert!(copied.unwrap().success());
    let after_cut = mount(&dir.join(format!("after-{round}")), &copy).expect("the copy mounts");
    let report = verify(&after_cut.path().join("data")).unwrap();
    assert_eq!(report.problems, [], "round {round}");
    assert_eq!(acked.len(), 8, "every session was acknowledged");
    for (&number, &seq) in acked {
        let head = report.heads.get(&session(number)).copied();
        assert!(
            head >= Some(Seq::new(seq)),
            "lost in round {round}: {head:?} < {seq}"
        );
    }
    drop(after_cut);
    std::fs::remove_file(copy).unwrap();
}

fn make_image(image: &Path) -> bool {
    let file = std::fs::File::create(image).unwrap();
    file.set_len(1 << 30).unwrap();
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F"])
        .arg(image)
        .status();
    made.is_ok_and(|status| status.success())
}

fn mount(at: &Path, image: &Path) -> Option<Mount> {
    std::fs::create_dir(at).unwrap();
    let image = image.to_str().unwrap();
    Mount::new(&["-t", "ext4", "-o", "loop", image], at)
}

/// The child that writes; killed when dropped, also by a panic.
struct Writer {
    child: Child,
    pipe: ChildStdout,
    line: Vec<u8>,
    lines: usize,
    acked: HashMap<u128, u64>,
}

impl Writer {
    fn start(dir: &Path) -> Self {
        let mut child = start_writer(dir);
        Self {
            pipe: child.stdout.take().unwrap(),
            child,
            line: Vec::new(),
            lines: 0,
            acked: HashMap::new(),
        }
    }

    /// Reads so many acknowledgements more, and until every session had one.
    fn run_for(&mut self, acks: usize) {
        let enough = self.lines + acks;
        while self.lines < enough || self.acked.len() < 8 {
            assert!(self.read().unwrap() > 0, "the writer ended by itself");
        }
    }

    /// Stops the child and reads what it had said before.
    fn stop(&mut self) {
        let pid = self.pid();
        kill_process(pid, Signal::STOP).unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped(), "{status:?}");
        rustix::fs::fcntl_setfl(&self.pipe, OFlags::NONBLOCK).unwrap();
        loop {
            match self.read() {
                Ok(bytes) => assert!(bytes > 0, "the writer ended by itself"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                    break;
                }
            }
        }
        rustix::fs::fcntl_setfl(&self.pipe, OFlags::empty()).unwrap();
    }

    fn go_on(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn read(&mut self) -> std::io::Result<usize> {
        let mut bytes = [0; 4_096];
        let count = self.pipe.read(&mut bytes)?;
        for &byte in bytes.iter().take(count) {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = String::from_utf8(std::mem::take(&mut self.line)).unwrap();
            crash::take_ack(&line, &mut self.acked);
            self.lines += 1;
        }
        Ok(count)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
