//! Watchdogs around any model, and the contract that every stream of pieces keeps.
//!
//! Used by [`crate::model::build`] around each provider, and by whoever brings a model of their
//! own. Never retries. Time is counted in pieces, not in bytes: a provider that only sends pings
//! is silent.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::Sleep;

use crate::event::RequestedCall;
use crate::id::CallId;
use crate::model::{Answer, Model, ModelError, ModelErrorKind, Piece, PieceStream, Request};
use crate::settings::ModelSettings;

/// An answer with more text and thoughts than this is an error, so that a provider that never
/// stops cannot fill the memory.
const MAX_ANSWER_BYTES: usize = 32 << 20;

/// How long a model may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watchdogs {
    /// Up to the first piece.
    pub first_token: Duration,
    /// Between two pieces.
    pub idle: Duration,
    /// For the whole answer.
    pub call: Duration,
}

impl From<&ModelSettings> for Watchdogs {
    fn from(settings: &ModelSettings) -> Self {
        Self {
            first_token: Duration::from_millis(settings.first_token_timeout_ms),
            idle: Duration::from_millis(settings.idle_timeout_ms),
            call: Duration::from_millis(settings.call_timeout_ms),
        }
    }
}

/// A model whose silence has an end. See `docs/errors.md` for the codes.
///
/// Whatever the model inside does, the stream ends with exactly one [`Piece::Done`] or one error,
/// nothing comes after it, empty pieces are left out, and the ids of the calls differ.
#[derive(Clone, Debug)]
pub struct Watched {
    model: Arc<dyn Model>,
    watchdogs: Watchdogs,
}

impl Watched {
    /// Puts watchdogs around a model.
    #[must_use]
    pub fn new(model: Arc<dyn Model>, watchdogs: Watchdogs) -> Self {
        Self { model, watchdogs }
    }
}

impl Model for Watched {
    /// Times count from when the stream is first read.
    fn answer(&self, request: Request) -> PieceStream {
        let watch = Watch {
            pieces: self.model.answer(request),
            watchdogs: self.watchdogs,
            call: None,
            bytes: 0,
            phase: Phase::Waiting,
        };
        stream::unfold(watch, Watch::step).boxed()
    }

    fn provider(&self) -> &str {
        self.model.provider()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No piece has come.
    Waiting,
    /// Pieces come.
    Answering,
    /// The last item is out.
    Over,
}

/// One answer under watch.
struct Watch {
    pieces: PieceStream,
    watchdogs: Watchdogs,
    /// Runs from the first read on.
    call: Option<Pin<Box<Sleep>>>,
    bytes: usize,
    phase: Phase,
}

impl Watch {
    async fn step(mut self) -> Option<(Result<Piece, ModelError>, Self)> {
        if self.phase == Phase::Over {
            return None;
        }
        let item = match self.next().await {
            Ok(piece) => {
                let is_last = matches!(piece, Piece::Done(_));
                self.phase = if is_last {
                    Phase::Over
                } else {
                    Phase::Answering
                };
                Ok(piece)
            }
            Err(error) => {
                self.phase = Phase::Over;
                Err(error)
            }
        };
        if self.phase == Phase::Over {
            // The request ends now, not when the reader lets go of the stream.
            self.pieces = stream::empty().boxed();
        }
        Some((item, self))
    }

    /// The next piece that says something.
    async fn next(&mut self) -> Result<Piece, ModelError> {
        let watchdogs = self.watchdogs;
        let call = self
            .call
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(watchdogs.call)));
        let (wait, silence) = match self.phase {
            Phase::Waiting => (watchdogs.first_token, ModelErrorKind::FirstTokenTimeout),
            Phase::Answering | Phase::Over => (watchdogs.idle, ModelErrorKind::IdleTimeout),
        };
        let piece = tokio::select! {
            biased;
            () = call.as_mut() => return Err(too_slow(ModelErrorKind::CallTimeout, watchdogs.call)),
            piece = tokio::time::timeout(wait, telling(&mut self.pieces)) => piece,
        };
        let piece = piece.map_err(|_elapsed| too_slow(silence, wait))?;
        match piece {
            Some(Ok(Piece::Done(answer))) => Ok(Piece::Done(with_unique_ids(answer))),
            Some(Ok(piece)) => self.counted(piece),
            Some(Err(error)) => Err(error),
            None => Err(ModelError {
                kind: ModelErrorKind::CutStream,
                message: "the answer ended without an end".to_owned(),
                retry_after: None,
            }),
        }
    }

    fn counted(&mut self, piece: Piece) -> Result<Piece, ModelError> {
        self.bytes = self.bytes.saturating_add(size_of_words(&piece));
        if self.bytes > MAX_ANSWER_BYTES {
            return Err(ModelError {
                kind: ModelErrorKind::Garbage,
                message: format!("the answer has more than {MAX_ANSWER_BYTES} bytes"),
                retry_after: None,
            });
        }
        Ok(piece)
    }
}

/// The next item that is not an empty piece.
async fn telling(pieces: &mut PieceStream) -> Option<Result<Piece, ModelError>> {
    loop {
        match pieces.next().await {
            Some(Ok(Piece::Text(words) | Piece::Reasoning(words))) if words.is_empty() => {}
            item => return item,
        }
    }
}

fn size_of_words(piece: &Piece) -> usize {
    match piece {
        Piece::Text(words) | Piece::Reasoning(words) => words.len(),
        Piece::Progress | Piece::Done(_) => 0,
    }
}

fn too_slow(kind: ModelErrorKind, limit: Duration) -> ModelError {
    let what = match kind {
        ModelErrorKind::FirstTokenTimeout => "first_token_timeout_ms",
        ModelErrorKind::IdleTimeout => "idle_timeout_ms",
        ModelErrorKind::CallTimeout
        | ModelErrorKind::RateLimited
        | ModelErrorKind::Overloaded
        | ModelErrorKind::Connection
        | ModelErrorKind::CutStream
        | ModelErrorKind::Garbage
        | ModelErrorKind::Unauthorized
        | ModelErrorKind::Rejected
        | ModelErrorKind::ContextTooLong
        | ModelErrorKind::Crashed
        | ModelErrorKind::BreakerOpen => "call_timeout_ms",
    };
    ModelError {
        kind,
        message: format!("nothing within {what} = {}", limit.as_millis()),
        retry_after: None,
    }
}

/// Gives calls without an id, or with one that was there before, an id of their own. The same
/// answer always gets the same ids.
fn with_unique_ids(mut answer: Answer) -> Answer {
    let mut taken: HashSet<String> = answer
        .tool_calls
        .iter()
        .map(|call| call.id.0.clone())
        .collect();
    let mut seen: HashSet<String> = HashSet::new();
    for (at, call) in answer.tool_calls.iter_mut().enumerate() {
        if call.id.0.is_empty() || seen.contains(&call.id.0) {
            rename(call, at, &mut taken);
        }
        seen.insert(call.id.0.clone());
    }
    answer
}

fn rename(call: &mut RequestedCall, at: usize, taken: &mut HashSet<String>) {
    let mut number = at + 1;
    let mut id = format!("call_{number}");
    while !taken.insert(id.clone()) {
        number += 1;
        id = format!("call_{number}");
    }
    call.id = CallId(id);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const WATCHDOGS: Watchdogs = Watchdogs {
        first_token: Duration::from_secs(10),
        idle: Duration::from_secs(5),
        call: Duration::from_secs(60),
    };

    /// Waits, then gives the item; at the end it hangs, or not.
    #[derive(Debug)]
    struct Played {
        items: Vec<(u64, Result<Piece, ModelError>)>,
        at_the_end: AtTheEnd,
        dropped: Arc<AtomicBool>,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum AtTheEnd {
        Hangs,
        Ends,
    }

    struct SetOnDrop(Arc<AtomicBool>);

    impl Drop for SetOnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    impl Model for Played {
        fn answer(&self, _request: Request) -> PieceStream {
            let guard = SetOnDrop(Arc::clone(&self.dropped));
            let items = stream::iter(self.items.clone()).then(move |(seconds, item)| {
                let _held = &guard;
                async move {
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                    item
                }
            });
            if self.at_the_end == AtTheEnd::Hangs {
                items.chain(stream::pending()).boxed()
            } else {
                items.boxed()
            }
        }

        fn provider(&self) -> &str {
            "played"
        }
    }

    fn text(words: &str) -> Result<Piece, ModelError> {
        Ok(Piece::Text(words.to_owned()))
    }

    fn done() -> Result<Piece, ModelError> {
        Ok(Piece::Done(Answer::default()))
    }

    fn failed(kind: ModelErrorKind) -> Result<Piece, ModelError> {
        Err(ModelError {
            kind,
            message: String::new(),
            retry_after: None,
        })
    }

    async fn heard(
        items: Vec<(u64, Result<Piece, ModelError>)>,
        at_the_end: AtTheEnd,
    ) -> Vec<Result<Piece, ModelErrorKind>> {
        let model = Played {
            items,
            at_the_end,
            dropped: Arc::default(),
        };
        let stream = Watched::new(Arc::new(model), WATCHDOGS).answer(Request::default());
        stream
            .map(|item| item.map_err(|error| error.kind))
            .collect()
            .await
    }

    #[tokio::test(start_paused = true)]
    async fn a_whole_answer_passes_unchanged() {
        let items = vec![(9, text("a")), (4, text("b")), (4, done())];
        let whole: Vec<_> = vec![
            Ok(Piece::Text("a".to_owned())),
            Ok(Piece::Text("b".to_owned())),
            Ok(Piece::Done(Answer::default())),
        ];
        assert_eq!(heard(items, AtTheEnd::Ends).await, whole);
    }

    #[tokio::test(start_paused = true)]
    async fn each_silence_has_its_own_error() {
        let last = async |items| heard(items, AtTheEnd::Hangs).await.pop();
        assert_eq!(
            last(vec![]).await,
            Some(Err(ModelErrorKind::FirstTokenTimeout))
        );
        assert_eq!(
            last(vec![(1, text("a"))]).await,
            Some(Err(ModelErrorKind::IdleTimeout))
        );
        let endless: Vec<_> = (0..100).map(|_| (4, text("a"))).collect();
        assert_eq!(last(endless).await, Some(Err(ModelErrorKind::CallTimeout)));
    }

    #[tokio::test(start_paused = true)]
    async fn empty_pieces_count_as_silence_and_progress_does_not() {
        let empty = vec![(4, text("a")), (4, text("")), (4, text("b"))];
        assert_eq!(
            heard(empty, AtTheEnd::Hangs).await,
            vec![
                Ok(Piece::Text("a".to_owned())),
                Err(ModelErrorKind::IdleTimeout)
            ]
        );
        let busy = vec![
            (4, Ok(Piece::Progress)),
            (4, Ok(Piece::Progress)),
            (4, done()),
        ];
        assert_eq!(heard(busy, AtTheEnd::Ends).await.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_without_an_end_is_cut() {
        assert_eq!(
            heard(vec![(0, text("a"))], AtTheEnd::Ends).await,
            vec![
                Ok(Piece::Text("a".to_owned())),
                Err(ModelErrorKind::CutStream)
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_comes_after_the_end_or_an_error() {
        assert_eq!(
            heard(vec![(0, done()), (0, text("a"))], AtTheEnd::Hangs)
                .await
                .len(),
            1
        );
        let garbage = failed(ModelErrorKind::Garbage);
        assert_eq!(
            heard(vec![(0, garbage), (0, done())], AtTheEnd::Hangs).await,
            vec![Err(ModelErrorKind::Garbage)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_ends_the_request_at_once() {
        let dropped = Arc::<AtomicBool>::default();
        let model = Played {
            items: vec![(1_000, done())],
            at_the_end: AtTheEnd::Ends,
            dropped: Arc::clone(&dropped),
        };
        let mut stream = Watched::new(Arc::new(model), WATCHDOGS).answer(Request::default());
        assert!(stream.next().await.unwrap().is_err());
        assert!(dropped.load(Ordering::SeqCst), "the stream is still held");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_without_measure_is_an_error() {
        let items = vec![(0, text(&"x".repeat(MAX_ANSWER_BYTES))), (0, text("x"))];
        assert_eq!(
            heard(items, AtTheEnd::Hangs).await.pop(),
            Some(Err(ModelErrorKind::Garbage))
        );
    }

    #[test]
    fn calls_get_ids_that_differ_and_keep_those_that_do() {
        let ids = |given: &[&str]| -> Vec<String> {
            let tool_calls = given
                .iter()
                .map(|id| RequestedCall {
                    id: CallId((*id).to_owned()),
                    tool: "calc".to_owned(),
                    arguments: String::new(),
                    signature: None,
                })
                .collect();
            with_unique_ids(Answer {
                tool_calls,
                ..Answer::default()
            })
            .tool_calls
            .into_iter()
            .map(|call| call.id.0)
            .collect()
        };
        assert_eq!(ids(&["a", "b"]), ["a", "b"]);
        assert_eq!(ids(&["a", "a", "a"]), ["a", "call_2", "call_3"]);
        assert_eq!(ids(&["", "call_1", ""]), ["call_2", "call_1", "call_3"]);
    }
}
