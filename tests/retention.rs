//! Sessions that nobody needs any more are deleted by themselves, and no others. Time is paused.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers outside #[test] functions may fail too"
)]

#[path = "support/company.rs"]
mod company;

use std::time::Duration;

use company::{Gate, Puppet, Stage, turn};
use impresario::event::{Fact, Parent, SessionCreated, Timestamp};
use impresario::id::{Seq, SessionId};
use impresario::settings::{Settings, TenantSettings};
use impresario::store::{Append, EventStore, Status, Summary};

const HOUR: Duration = Duration::from_secs(3_600);

/// Lets the daemon look once more, and lets it finish.
async fn hours(count: u32) {
    tokio::time::sleep(HOUR * count + Duration::from_secs(1)).await;
}

/// A session as some earlier company left it.
async fn left(stage: &Stage, number: u128, tenant: &str, status: Status, parent: Option<u128>) {
    let parent = parent.map(SessionId::from_u128);
    let created = SessionCreated {
        tenant: tenant.to_owned(),
        parent: parent.map(|session| Parent {
            session,
            of: Seq::new(1),
            key: String::new(),
        }),
        ..SessionCreated::default()
    };
    let at = Timestamp(1_700_000_000_000);
    let append = Append {
        session: SessionId::from_u128(number),
        after: Seq::START,
        at,
        facts: vec![Fact::SessionCreated(created)],
        spent: impresario::budget::Spending::NOTHING,
        summary: Summary {
            tenant: tenant.to_owned(),
            status,
            updated_at: at,
            parent,
            ..Summary::default()
        },
    };
    stage.store.append(append).await.unwrap();
}

async fn there(stage: &Stage) -> Vec<u128> {
    let page = stage.store.list(None, 1_000).await.unwrap();
    let mut ids: Vec<_> = page.iter().map(|(id, _)| id.to_u128()).collect();
    ids.sort_unstable();
    ids
}

fn stage(change: impl FnOnce(&mut Settings)) -> Stage {
    Stage::new(&Puppet::calling(&[]), &[]).with(change)
}

#[tokio::test(start_paused = true)]
async fn only_what_is_old_and_done_is_deleted_by_itself() {
    let stage = stage(|settings| {
        settings.retention.idle_hours = 10;
        settings.retention.closed_hours = 3;
    });
    left(&stage, 1, "a", Status::Idle, None).await;
    left(&stage, 2, "a", Status::Closed, None).await;
    left(&stage, 3, "a", Status::Quarantined, None).await;
    left(&stage, 4, "a", Status::Waiting, None).await;
    // Set aside beside its log, and of a parent that waits.
    left(&stage, 5, "a", Status::Closed, None).await;
    let reason = Some("it failed".to_owned());
    stage
        .store
        .set_quarantine(SessionId::from_u128(5), reason)
        .await
        .unwrap();
    left(&stage, 6, "a", Status::Closed, Some(4)).await;
    let _company = stage.start().await;
    hours(2).await;
    assert_eq!(there(&stage).await, [1, 2, 3, 4, 5, 6]);
    hours(2).await;
    assert_eq!(there(&stage).await, [1, 3, 4, 5, 6]);
    hours(8).await;
    assert_eq!(there(&stage).await, [3, 4, 5, 6]);
    hours(2).await;
    assert_eq!(there(&stage).await, [3, 4, 5, 6]);
    assert!(stage.store.verify().is_sound());
}

#[tokio::test(start_paused = true)]
async fn of_each_tenant_the_newest_stay() {
    let stage = stage(|settings| {
        settings.retention.keep = 2;
        let mut own = TenantSettings::default();
        own.retention.keep = Some(0);
        settings.tenants.insert("archive".to_owned(), own);
    });
    for number in 1..=4 {
        left(&stage, number, "a", Status::Idle, None).await;
        left(&stage, 10 + number, "archive", Status::Closed, None).await;
    }
    left(&stage, 20, "b", Status::Idle, None).await;
    let _company = stage.start().await;
    hours(1).await;
    assert_eq!(there(&stage).await, [3, 4, 11, 12, 13, 14, 20]);
}

#[tokio::test(start_paused = true)]
async fn one_run_deletes_a_bounded_number_the_oldest_first() {
    let stage = stage(|settings| {
        settings.retention.idle_hours = 1;
        settings.retention.per_run = 2;
    });
    for number in 1..=5 {
        left(&stage, number, "a", Status::Idle, None).await;
    }
    let _company = stage.start().await;
    hours(1).await;
    assert_eq!(there(&stage).await, [3, 4, 5]);
    hours(2).await;
    assert!(there(&stage).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_in_memory_or_at_work_is_not_touched() {
    let gate = Gate::default();
    let stage = Stage::new(&Puppet::waiting_for(&gate), &[]).with(|settings| {
        settings.retention.idle_hours = 1;
        settings.sessions.idle_after_ms = 10 * 3_600_000;
    });
    let (company, session) = stage.open().await;
    let at_work = company.session("actor").create().await.unwrap();
    let _turn = at_work.send("work").await.unwrap();
    hours(5).await;
    assert_eq!(there(&stage).await.len(), 2);
    // It leaves memory, and then it goes; the other one goes on.
    hours(8).await;
    assert_eq!(there(&stage).await, [at_work.id().to_u128()]);
    assert!(session.info().await.is_err());
    gate.open();
}

#[tokio::test(start_paused = true)]
async fn nothing_is_deleted_without_a_rule() {
    let stage = stage(|_| {});
    let (_company, session) = stage.open().await;
    turn(&session, "hi").await;
    hours(3).await;
    assert_eq!(there(&stage).await, [session.id().to_u128()]);
}
