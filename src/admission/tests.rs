//! Lanes: places, waits, refusals, fairness.

use super::*;
use crate::clock::ManualClock;

fn lane(places: usize, waiting: usize) -> (Lane, Arc<ManualClock>) {
    shared(places, waiting, Shares::default())
}

fn shared(places: usize, waiting: usize, shares: Shares) -> (Lane, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    let lane = Lane::on(
        metric::Lane::RunningTurns,
        terms(places, waiting, shares),
        Arc::<ManualClock>::clone(&clock),
    );
    (lane, clock)
}

fn terms(limit: usize, max_waiting: usize, shares: Shares) -> Terms {
    Terms {
        limit,
        max_waiting,
        shares,
    }
}

fn claim(tenant: &str, session: u128) -> Claim {
    Claim::of(tenant, SessionId::from_u128(session))
}

fn somebody() -> Claim {
    Claim::nobodys(None)
}

#[tokio::test]
async fn a_full_lane_says_at_once_when_to_come_back() {
    let (lane, clock) = lane(1, 0);
    let place = lane.try_enter(&somebody()).unwrap();
    clock.advance(Duration::from_secs(2));
    drop(place);
    let _taken = lane.enter_or_refuse(&somebody()).await.unwrap();
    let refusal = lane.enter_or_refuse(&somebody()).await.unwrap_err();
    assert_eq!(refusal.retry_after, Duration::from_secs(2));
    assert!(
        refusal.to_string().contains("limits.running_turns"),
        "{refusal}"
    );
}

#[tokio::test]
async fn a_place_is_free_again_when_its_holder_panics() {
    let (lane, _) = lane(1, 0);
    let held = lane.try_enter(&somebody()).unwrap();
    let task = crate::clock::spawn(async move {
        let _held = held;
        panic!("on purpose");
    });
    task.await.unwrap_err();
    assert_eq!(lane.gauge().used, 0);
}

#[tokio::test]
async fn one_that_gives_up_waiting_is_not_counted_and_gets_nothing() {
    let (lane, _) = lane(1, 5);
    let held = lane.try_enter(&somebody()).unwrap();
    {
        let claim = somebody();
        let mut waiting = Box::pin(lane.enter(&claim));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert_eq!(lane.gauge().waiting, 1);
        // It has its place and does not know yet.
        drop(held);
        assert_eq!(lane.gauge().used, 1);
    }
    assert_eq!((lane.gauge().used, lane.gauge().waiting), (0, 0));
}

#[tokio::test]
async fn a_tenant_that_offers_much_is_served_by_its_weight_and_holds_up_nobody() {
    let shares = Shares {
        named: [(
            "large".to_owned(),
            Share {
                weight: 2,
                ..Share::default()
            },
        )]
        .into(),
        ..Shares::default()
    };
    let (lane, _) = shared(1, 10_000, shares);
    let mut held = lane.try_enter(&somebody()).unwrap();
    let offers = [("greedy", 300), ("large", 90), ("modest", 30)];
    let mut waiting: Vec<_> = offers
        .into_iter()
        .flat_map(|(tenant, count)| (0..count).map(move |number| claim(tenant, number)))
        .collect();
    let mut doors: Vec<_> = waiting
        .drain(..)
        .map(|claim| (claim.tenant.clone(), lane.queue_up(&claim)))
        .collect();
    let mut served = HashMap::<Arc<str>, usize>::new();
    for _ in 0..120 {
        drop(held);
        let next = doors
            .iter_mut()
            .find_map(|(tenant, (_, door))| Some((Arc::clone(tenant), door.try_recv().ok()?)));
        let (tenant, place) = next.unwrap();
        *served.entry(tenant).or_default() += 1;
        held = place;
    }
    // Weights 1, 2, 1, and three lines that are never empty meanwhile.
    let of = |tenant: &str| served.get(tenant).copied().unwrap_or(0);
    assert_eq!((of("greedy"), of("large"), of("modest")), (30, 60, 30));
}

#[tokio::test]
async fn a_session_with_many_calls_does_not_hold_up_its_siblings() {
    let (lane, _) = lane(1, 100);
    let held = lane.try_enter(&somebody()).unwrap();
    let mut busy: Vec<_> = (0..50).map(|_| lane.queue_up(&claim("t", 1))).collect();
    let (_waiting, mut quiet) = lane.queue_up(&claim("t", 2));
    drop(held);
    let first = busy.iter_mut().find_map(|(_, door)| door.try_recv().ok());
    drop(first.unwrap());
    assert!(quiet.try_recv().is_ok());
}

#[tokio::test]
async fn a_tenant_has_at_most_its_places_and_others_pass_it() {
    let shares = Shares {
        others: Share {
            limit: 2,
            ..Share::default()
        },
        ..Shares::default()
    };
    let (lane, clock) = shared(3, 10, shares);
    let held: Vec<_> = (0..2)
        .map(|number| lane.try_enter(&claim("a", number)).unwrap())
        .collect();
    lane.try_enter(&claim("a", 3)).unwrap_err();
    let (_first, mut of_a) = lane.queue_up(&claim("a", 3));
    clock.advance(Duration::from_secs(5));
    assert!(of_a.try_recv().is_err());
    let why = lane.why(SessionId::from_u128(3)).unwrap();
    assert_eq!((why.of_tenant, why.ahead), ((2, Some(2)), 0));
    assert_eq!(why.since, Duration::from_secs(5));
    assert_eq!(why.holders.first().unwrap().0, claim("a", 0));
    let _of_b = lane.try_enter(&claim("b", 4)).unwrap();
    drop(held);
    assert!(of_a.try_recv().is_ok());
    assert_eq!(lane.why(SessionId::from_u128(3)), None);
}

#[tokio::test]
async fn a_lane_that_is_to_be_empty_lets_nobody_in_until_it_was() {
    let (lane, _) = lane(2, 10);
    let held = lane.try_enter(&somebody()).unwrap();
    let mut empty = Box::pin(lane.empty());
    assert!(futures_util::poll!(&mut empty).is_pending());
    lane.try_enter(&somebody()).unwrap_err();
    let (_waiting, mut door) = lane.queue_up(&somebody());
    assert!(door.try_recv().is_err());
    drop(held);
    assert!(futures_util::poll!(&mut empty).is_ready());
    assert!(door.try_recv().is_ok());
}

/// What can happen to a lane, in any order: all places come back.
#[tokio::test]
async fn whatever_happens_every_place_comes_back() {
    let shares = Shares {
        others: Share {
            limit: 3,
            weight: 2,
        },
        ..Shares::default()
    };
    let (lane, _) = shared(4, 50, shares);
    let tasks = (0..400_u64).map(|number| {
        let lane = lane.clone();
        crate::clock::spawn(async move {
            let tenant = ["a", "b", "c"][usize::try_from(number % 3).unwrap()];
            let claim = claim(tenant, u128::from(number % 7));
            match number % 5 {
                0 => {
                    let mut waiting = Box::pin(lane.enter(&claim));
                    // It gives up, with its place or without.
                    let _maybe = futures_util::poll!(&mut waiting);
                }
                1 => {
                    let _place = lane.enter(&claim).await;
                    panic!("on purpose");
                }
                2 => drop(lane.try_enter(&claim)),
                3 => drop(lane.enter_or_refuse(&claim).await),
                _ => {
                    let _place = lane.enter(&claim).await;
                    tokio::task::yield_now().await;
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        // Some of them panic on purpose.
        let _ended = task.await;
    }
    let state = lane.0.state();
    assert_eq!(state.holders.len() + state.waiters.len(), 0);
    assert!(state.by_tenant.is_empty());
    assert!(state.queue.next(|_| true).is_none());
}

#[tokio::test]
async fn a_lane_that_gets_fewer_places_throws_nobody_out_and_shrinks_as_they_come_back() {
    let (lane, _) = lane(2, 5);
    let first = lane.try_enter(&somebody()).unwrap();
    let second = lane.try_enter(&somebody()).unwrap();
    lane.set(terms(1, 5, Shares::default()));
    let waiting = somebody();
    let mut waits = Box::pin(lane.enter(&waiting));
    assert!(futures_util::poll!(&mut waits).is_pending());
    drop(first);
    assert!(futures_util::poll!(&mut waits).is_pending());
    drop(second);
    assert!(futures_util::poll!(&mut waits).is_ready());
}

#[tokio::test]
async fn a_lane_that_gets_more_places_gives_them_to_those_who_wait() {
    let (lane, _) = lane(1, 5);
    let _held = lane.try_enter(&somebody()).unwrap();
    let waiting = somebody();
    let mut waits = Box::pin(lane.enter(&waiting));
    assert!(futures_util::poll!(&mut waits).is_pending());
    lane.set(terms(2, 5, Shares::default()));
    assert!(futures_util::poll!(&mut waits).is_ready());
}

#[tokio::test]
async fn a_tenant_whose_limit_grows_is_served_at_once() {
    let one = |limit| Shares {
        named: [("a".to_owned(), Share { weight: 1, limit })].into(),
        ..Shares::default()
    };
    let (lane, _) = shared(4, 5, one(1));
    let _held = lane.try_enter(&claim("a", 1)).unwrap();
    let waiting = claim("a", 2);
    let mut waits = Box::pin(lane.enter(&waiting));
    assert!(futures_util::poll!(&mut waits).is_pending());
    lane.set(terms(4, 5, one(2)));
    assert!(futures_util::poll!(&mut waits).is_ready());
}
