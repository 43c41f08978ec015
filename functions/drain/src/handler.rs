//! Handler of an invocation: parses the event, and runs its action in time.

use std::time::Instant;

use serde_json::Value;

use crate::actions::app::App;
use crate::actions::{backfill, drain, plan, setup, status, teardown};
use crate::base::budget::Budget;
use crate::error::Error;
use crate::invocation::Action;

/// Runs the action that `event` names, and returns its answer before `deadline`.
///
/// # Errors
/// See [`Error`]. An action that still runs at [`Budget::end`] is dropped with [`Error::OutOfTime`].
pub async fn handle(app: &App, event: &Value, deadline: Instant) -> Result<Value, Error> {
    app.reset_failure_fields(None);
    let action = Action::parse(event)?;
    app.reset_failure_fields(Some(action.name()));
    let budget = Budget::new(Instant::now(), deadline);
    // On the heap: the future of a drain is large.
    let running = Box::pin(run(app, action, budget));
    let answered = tokio::time::timeout_at(budget.end().into(), running).await;
    answered.unwrap_or(Err(Error::OutOfTime))
}

async fn run(app: &App, action: Action, budget: Budget) -> Result<Value, Error> {
    let connector = &app.connector(budget.lifetime()).await?;
    match action {
        Action::Drain { accept_gap } => Box::pin(drain::run(app, connector, accept_gap, budget)).await,
        Action::Backfill(command) => backfill::run(app, connector, command, budget).await,
        Action::Setup { plugin } => setup::run(app, connector, plugin, budget).await,
        Action::Plan { names_keys } => plan::run(app, connector, names_keys, budget).await,
        Action::Status => status::run(app, connector).await,
        Action::Teardown => teardown::run(app, connector, budget).await,
    }
}
