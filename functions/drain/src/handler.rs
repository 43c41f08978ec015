//! From an event to its answer: reads the event, runs its action within the invocation's time.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::actions::app::App;
use crate::actions::{backfill, drain, plan, setup, status, teardown};
use crate::budget::Budget;
use crate::error::Error;
use crate::event::Action;

/// Runs the action that `event` names, and returns its answer before `deadline`.
///
/// # Errors
/// See [`Error`]. A hundredth of the time before the deadline, an action that still runs is dropped with
/// [`Error::OutOfTime`].
pub async fn handle(app: &App, event: &Value, deadline: Instant) -> Result<Value, Error> {
    let action = Action::parse(event)?;
    let lifetime = deadline.saturating_duration_since(Instant::now());
    // On the heap: the future of a drain is large.
    let running = Box::pin(run(app, action, deadline, lifetime));
    let answered = tokio::time::timeout(lifetime - lifetime / 100, running);
    answered.await.unwrap_or(Err(Error::OutOfTime))
}

async fn run(app: &App, action: Action, deadline: Instant, lifetime: Duration) -> Result<Value, Error> {
    let budget = Budget::new(Instant::now(), deadline);
    let connector = &app.connector(lifetime).await?;
    match action {
        Action::Drain { accept_gap } => drain::run(app, connector, accept_gap, budget).await,
        Action::Backfill(command) => backfill::run(app, connector, command, budget).await,
        Action::Setup { plugin } => setup::run(app, connector, plugin, budget).await,
        Action::Plan { names_keys } => plan::run(app, connector, names_keys, budget).await,
        Action::Status => status::run(app, connector).await,
        Action::Teardown => teardown::run(app, connector, budget).await,
    }
}
