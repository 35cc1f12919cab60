//! From a session's name to a session that can begin to live: a place in memory, its log, and a
//! durable count of the recoveries. Runs beside the root, which may not wait for a disk.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::poll_immediate;
use tokio::sync::Semaphore;
use tracing::{error, info};

use super::family;
use crate::admission::{Claim, Full, Lane, Place};
use crate::budget::Spending;
use crate::event::{Event, Fact, SessionCreated};
use crate::fault::{Code, Fault};
use crate::id::{Seq, SessionId};
use crate::metric::{self, Rejection};
use crate::session::recovery::Resumption;
use crate::session::shared::{Shared, rules};
use crate::session::{Began, Loaded, SessionError, load, summary};
use crate::store::{Append, Blame, StoreError};
use crate::turn::Input;

/// So long a child waits for room in memory.
const CHILD_WAIT: Duration = Duration::from_secs(2);

/// Why a session's actor is made.
#[derive(Debug)]
pub(super) enum Why {
    /// It is new.
    Created(SessionCreated),
    /// It is new, unless it exists: another session begins it.
    Child(SessionCreated),
    /// Somebody wants it.
    Asked,
    /// The company has begun and its turn is unfinished. Its recovery was counted.
    Resumed(Resumption),
    /// It wanted to be awake at this time.
    Due,
    /// Its actor failed.
    Crashed,
    /// The store took no append for a while.
    Refused,
    /// Its actor failed too often, for this reason.
    SetAside(String),
}

/// A session that can begin to live.
#[derive(Debug)]
pub(super) struct Activated {
    pub(super) loaded: Loaded,
    pub(super) place: Place,
    pub(super) began: Began,
    pub(super) resumption: Option<Resumption>,
}

/// Makes a session ready to live.
pub(super) async fn activate(
    shared: &Arc<Shared>,
    loading: &Semaphore,
    id: SessionId,
    mut why: Why,
) -> Result<Activated, Fault> {
    let place = place(shared, id, &mut why).await?;
    let _loading = if matches!(why, Why::Created(_)) {
        // There is nothing to be read.
        None
    } else {
        Some(loading.acquire().await)
    };
    if let Some(reason) = shared.store.quarantine(id).await? {
        return Err(quarantined(&reason));
    }
    let (began, resumption) = match why {
        Why::Created(created) => return create(shared, id, created, place).await,
        Why::Child(created) if shared.store.summary(id).await?.is_none() => {
            return create(shared, id, created, place).await;
        }
        Why::SetAside(reason) => return Err(set_aside(shared, id, &reason).await),
        Why::Crashed => {
            count_recovery(shared, id).await?;
            (Began::Crashed, None)
        }
        Why::Resumed(resumption) => {
            let recoveries = resumption.recoveries().unwrap_or(0);
            check_recoveries(shared, id, recoveries).await?;
            (Began::Restarted, Some(resumption))
        }
        Why::Asked | Why::Due | Why::Child(_) => {
            // Whoever comes before the company takes it up does so instead.
            let resumption = Resumption::begin(shared, id, None);
            if resumption.is_some() {
                count_recovery(shared, id).await?;
                (Began::Restarted, resumption)
            } else {
                (Began::Woken, None)
            }
        }
        Why::Refused => (Began::Refused, None),
    };
    match load(&shared.store, id).await {
        Ok(mut loaded) => {
            recall_unwanted(shared, id, &mut loaded).await?;
            Ok(Activated {
                loaded,
                place,
                began,
                resumption,
            })
        }
        Err(error) if error.blame() == Blame::Session => {
            Err(set_aside(shared, id, &error.to_string()).await)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whoever asks can be refused; what was accepted waits as long as it takes.
async fn place(shared: &Shared, id: SessionId, why: &mut Why) -> Result<Place, Fault> {
    let lane = &shared.lanes.live_sessions;
    // Whose it is stands in its log.
    let claim = Claim::nobodys(Some(id));
    match why {
        Why::Created(_) | Why::Asked => {
            let entered = with_room(shared, lane.enter_or_refuse(&claim)).await;
            entered.map_err(overloaded)
        }
        Why::Child(_) => child_place(shared, lane, &claim).await,
        Why::Resumed(resumption) => Ok(resumed_place(shared, lane, &claim, resumption).await),
        Why::Due | Why::Crashed | Why::Refused | Why::SetAside(_) => {
            Ok(with_room(shared, lane.enter(&claim)).await)
        }
    }
}

/// Those that live may wait for the place that this one has for its turn: who waits for them to leave
/// holds none, and asks again when it lives.
async fn resumed_place(
    shared: &Shared,
    lane: &Lane,
    claim: &Claim,
    resumption: &mut Resumption,
) -> Place {
    if let Ok(place) = lane.try_enter(claim) {
        return place;
    }
    drop(resumption.take_place());
    with_room(shared, lane.enter(claim)).await
}

/// Waits for a place, and has the least recently used of those leave that have nothing to do.
async fn with_room<T>(shared: &Shared, entering: impl Future<Output = T>) -> T {
    let mut entering = std::pin::pin!(entering);
    // It waits before room is made for it.
    if let Some(entered) = poll_immediate(&mut entering).await {
        return entered;
    }
    shared.make_room();
    entering.await
}

fn overloaded(full: Full) -> Fault {
    metric::rejected(Rejection::Overloaded);
    SessionError::from(full).into()
}

/// A parent holds its place while it waits for its child, so that waiting for long is no use: only
/// sessions that have nothing to do leave.
async fn child_place(shared: &Shared, lane: &Lane, claim: &Claim) -> Result<Place, Fault> {
    let entering = with_room(shared, lane.enter(claim));
    if let Ok(place) = tokio::time::timeout(CHILD_WAIT, entering).await {
        return Ok(place);
    }
    lane.try_enter(claim).map_err(overloaded)
}

/// What a session did for its parent is cancelled before it goes on, when the parent has given it
/// up in the meantime.
async fn recall_unwanted(
    shared: &Arc<Shared>,
    id: SessionId,
    loaded: &mut Loaded,
) -> Result<(), StoreError> {
    if let Some(by) = family::unwanted_by(shared, &loaded.turn).await? {
        info!(session = %id, "nobody waits for this session's answer any more");
        append(shared, id, loaded, Input::Recall { by }).await?;
    }
    Ok(())
}

/// The first event of a new session, durable before anybody has its name.
async fn create(
    shared: &Arc<Shared>,
    id: SessionId,
    created: SessionCreated,
    place: Place,
) -> Result<Activated, Fault> {
    let mut loaded = Loaded::default();
    append(shared, id, &mut loaded, Input::Create(created)).await?;
    info!(session = %id, "session created");
    Ok(Activated {
        loaded,
        place,
        began: Began::Created,
        resumption: None,
    })
}

/// Counts a recovery before the log is replayed, so that a session which takes the process down
/// is found out.
async fn count_recovery(shared: &Arc<Shared>, id: SessionId) -> Result<(), Fault> {
    metric::recovered();
    let counted = shared.store.count_recoveries(vec![id]).await?;
    let recoveries = counted.first().map_or(0, |counted| counted.recoveries);
    check_recoveries(shared, id, recoveries).await
}

async fn check_recoveries(
    shared: &Arc<Shared>,
    id: SessionId,
    recoveries: u32,
) -> Result<(), Fault> {
    if recoveries > shared.cast().sessions.max_recoveries {
        let reason = format!("{recoveries} recoveries without progress");
        return Err(set_aside(shared, id, &reason).await);
    }
    Ok(())
}

/// Sets a session aside: in its log if that can be read, and beside it in any case.
async fn set_aside(shared: &Arc<Shared>, id: SessionId, reason: &str) -> Fault {
    error!(session = %id, reason, "session quarantined");
    let reason: &str = &shared.redactor.redact(reason);
    if let Ok(mut loaded) = load(&shared.store, id).await {
        let input = Input::Quarantine {
            reason: reason.to_owned(),
        };
        if let Err(error) = append(shared, id, &mut loaded, input).await {
            error!(session = %id, %error, "quarantine could not be written to the log");
        }
    }
    let kept = shared
        .store
        .set_quarantine(id, Some(reason.to_owned()))
        .await;
    match kept {
        Ok(()) => quarantined(reason),
        Err(error) => error.into(),
    }
}

fn quarantined(reason: &str) -> Fault {
    Fault::new(
        Code::Quarantined,
        format!(
            "the session is quarantined: {reason}; look at it with `impresario log`, then let it go on with `impresario release`"
        ),
    )
}

/// Appends what an input leads to, for a session that has no actor. Durable when this returns.
async fn append(
    shared: &Shared,
    id: SessionId,
    loaded: &mut Loaded,
    input: Input,
) -> Result<(), StoreError> {
    let after = loaded.turn.head();
    let at = shared.clock.now();
    let rules = rules(&shared.cast().sessions);
    let Ok(facts) = loaded.turn.decide(input, at, &rules) else {
        return Ok(());
    };
    let facts = facts.into_iter().map(|fact| shared.redactor.fact(fact));
    let facts: Vec<_> = facts.collect();
    evolve(loaded, after, at, &facts);
    let summary = summary(&loaded.turn);
    let ack = shared.store.append(Append {
        session: id,
        after,
        at,
        facts,
        summary,
        spent: Spending::NOTHING,
    });
    ack.await.map(drop)
}

fn evolve(loaded: &mut Loaded, after: Seq, at: crate::event::Timestamp, facts: &[Fact]) {
    let mut seq = after;
    for fact in facts {
        seq = seq.next();
        let event = Event {
            seq,
            at,
            fact: fact.clone(),
        };
        loaded.turn.evolve(&event);
        loaded.context.evolve(&event);
    }
}
