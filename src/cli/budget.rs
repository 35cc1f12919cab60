//! `budget`: what a session may spend and has spent; allows more.

use anyhow::Result;

use crate::cli::args::BudgetRaise;
use crate::cli::screen::{Screen, Style, table};
use crate::control::client::Client;
use crate::control::wire::{Amounts, Budget, Budgets, Method, Raised, SessionBudget};
use crate::daemon::Exit;

/// Raises it, if that is asked for, and shows it.
pub(super) async fn budget(
    client: &Client,
    screen: &mut Screen,
    session: String,
    raise: BudgetRaise,
) -> Result<Exit> {
    let add = Amounts {
        usd: raise.add_usd,
        tokens: raise.add_tokens,
        steps: raise.add_steps,
        seconds: raise.add_seconds,
    };
    let params = SessionBudget {
        session,
        add: Some(add).filter(|add| *add != Amounts::default()),
        scope: if raise.turn {
            Raised::Turn
        } else {
            Raised::Session
        },
        by: raise.by.by,
    };
    let budgets: Budgets = client.call(Method::SessionBudget, params).await?;
    match screen.style {
        Style::Json => screen.value(&budgets)?,
        Style::Text => {
            let head = ["SCOPE", "MEASURE", "LIMIT", "SPENT", "PROMISED", "LEFT"];
            let head = head.map(str::to_owned).to_vec();
            let rows = budgets.budgets.iter().map(row);
            for line in table(&std::iter::once(head).chain(rows).collect::<Vec<_>>()) {
                screen.line(&line)?;
            }
            screen.line(&format!("when one is used up: {}", budgets.on_reached))?;
        }
    }
    Ok(Exit::Ok)
}

fn row(budget: &Budget) -> Vec<String> {
    let number = |value: f64| {
        let text = format!("{value:.6}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    let or_dash = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
    vec![
        budget.scope.clone(),
        budget.measure.clone(),
        or_dash(budget.limit),
        number(budget.spent),
        number(budget.promised),
        or_dash(budget.left),
    ]
}
