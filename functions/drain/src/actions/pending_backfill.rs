//! The stored backfill: its load, and its restart after a gap.

pub(super) mod status;

use super::app::{App, OpenedSlot};
use crate::aws::parameter_store::Parameter;
use crate::backfill::BackfillState;
use crate::drain::BackfillRunner;
use crate::error::Error;
use crate::ports::StateStore as _;

/// Loads the stored state; `None` when there is none.
///
/// # Errors
/// The parameter cannot be read, or its text is not a state of this version.
pub(super) async fn load(parameter: &Parameter) -> Result<Option<BackfillState>, Error> {
    let Some(text) = parameter.text().await? else {
        return Ok(None);
    };
    let parsed = BackfillState::parse(&text);
    parsed.map(Some).map_err(|source| Error::BackfillInvalid {
        parameter: parameter.name.clone(),
        source,
    })
}

/// The pending backfill, if there is one.
///
/// A tick runs the backfill between its windows. A damaged state does not stop the drain: the log has the
/// reason.
///
/// # Errors
/// The state cannot be read from the store, or the restarted state cannot be stored. The drain must not run
/// without the state: a change of a key may need a row lookup while a backfill is pending.
pub(super) async fn pending_runner(
    app: &App,
    opened: &OpenedSlot<'_>,
    is_gap: bool,
) -> Result<Option<BackfillRunner<Parameter>>, Error> {
    match load(&app.backfill).await {
        Ok(Some(mut state)) if state.is_pending() => {
            if restart_if_needed(app, &mut state, opened, is_gap) {
                app.backfill.store(state.to_text()).await?;
            }
            Ok(Some(BackfillRunner::new(app.backfill.clone(), state)))
        }
        Ok(_) => Ok(None),
        Err(error @ Error::BackfillInvalid { .. }) => {
            tracing::warn!(
                slot = app.config.slot,
                error_type = error.name(),
                "the backfill does not run: {}",
                error.chain()
            );
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Restarts a pending backfill if changes may be missing.
///
/// Changes may be missing after a gap, on another slot or server, or after the loss of the checkpoint. Rows
/// that the backfill has read may have changed since, and the slot may lack these changes. Returns whether
/// the backfill was restarted.
pub(super) fn restart_if_needed(
    app: &App,
    state: &mut BackfillState,
    opened: &OpenedSlot<'_>,
    is_gap: bool,
) -> bool {
    let (slot, system) = (&app.config.slot, &opened.server.system_identifier);
    if state.is_of(slot, system) && opened.start.has_checkpoint && !is_gap {
        return false;
    }
    tracing::warn!(
        slot,
        "the changes have a gap, or belong to another slot or server, or the checkpoint was lost: \
         the pending backfill restarts"
    );
    state.restart(slot, system, opened.start.acknowledged);
    true
}
