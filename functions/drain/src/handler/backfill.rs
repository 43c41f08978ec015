//! The backfill's actions: begin one, let it rest, go on, give it up; and how it stands.

use serde_json::{Value, json};

use super::{App, Opened};
use crate::backfill::State;
use crate::budget::Budget;
use crate::clock::now_text;
use crate::connect::{Connector, Session};
use crate::drain::Beside;
use crate::drain::parts::{Checkpoints as _, Kind};
use crate::drain::report::BackfillReport;
use crate::error::Error;
use crate::event::{Backfill, Request};
use crate::parameter::Parameter;
use crate::server;
use crate::setup::backfill::{describe, load};
use crate::slot::tables;

impl App {
    /// Does what an event asks for of a backfill.
    pub(super) async fn backfill(
        &self,
        connector: &Connector,
        asked: Backfill,
        budget: Budget,
    ) -> Result<Value, Error> {
        match asked {
            Backfill::Start(request) => Box::pin(self.begin(connector, request, budget)).await,
            Backfill::Resume => Box::pin(self.resume(connector, budget)).await,
            Backfill::Pause => self.pause(connector).await,
            Backfill::Cancel => self.cancel(connector).await,
        }
    }

    async fn pause(&self, connector: &Connector) -> Result<Value, Error> {
        let (_lock, mut state) = self.pending(connector).await?;
        state.paused = true;
        state.updated_at = now_text();
        self.backfill.store(state.to_text()).await?;
        Ok(self.told(&json!(BackfillReport::of(&state))))
    }

    async fn cancel(&self, connector: &Connector) -> Result<Value, Error> {
        let (_lock, state) = self.pending(connector).await?;
        self.backfill.delete().await?;
        let mut report = json!(BackfillReport::of(&state));
        report["state"] = json!("cancelled");
        Ok(self.told(&report))
    }

    fn told(&self, report: &Value) -> Value {
        json!({"action": "backfill", "slot": self.config.slot, "backfill": report})
    }

    async fn begin(&self, connector: &Connector, request: Request, budget: Budget) -> Result<Value, Error> {
        let slot = &self.config.slot;
        let opened = self.opened(connector).await?;
        if let Some(State { started_at, .. }) = load(&self.backfill).await?.filter(State::is_pending) {
            return Err(Error::BackfillPending {
                slot: slot.clone(),
                started_at,
            });
        }
        self.check(connector, &opened, &request).await?;
        let (identifier, began) = (&opened.server.system_identifier, opened.start.acknowledged);
        let state = State::new(slot, identifier, request, began, &now_text());
        if !state.has_room() {
            return Err(Error::BackfillRefused {
                slot: slot.clone(),
                reasons: "the request is too long for the 4 KB of a parameter; patterns, or several backfills, are shorter".to_owned(),
            });
        }
        self.backfill.store(state.to_text()).await?;
        tracing::info!(slot, request = %json!(state.request), "a backfill begins");
        Box::pin(self.go_on(connector, opened, state, budget)).await
    }

    async fn resume(&self, connector: &Connector, budget: Budget) -> Result<Value, Error> {
        let opened = self.opened(connector).await?;
        let state = load(&self.backfill).await?.filter(State::is_pending);
        let mut state = state.ok_or_else(|| self.no_backfill())?;
        state.paused = false;
        self.begin_anew_where_needed(&mut state, &opened, false);
        self.backfill.store(state.to_text()).await?;
        Box::pin(self.go_on(connector, opened, state, budget)).await
    }

    async fn go_on(
        &self,
        connector: &Connector,
        opened: Opened<'_>,
        state: State,
        budget: Budget,
    ) -> Result<Value, Error> {
        let beside = Beside::new(self.backfill.clone(), state);
        let mut report = Box::pin(self.run(connector, opened, None, Some(beside), budget)).await?;
        report.action = "backfill";
        Ok(serde_json::to_value(report).unwrap_or_default())
    }

    /// What was read before a gap, before the slot or its checkpoint was made anew, or on another server, may have changed unseen: a backfill
    /// that is pending begins anew then. Tells whether it does.
    fn begin_anew_where_needed(&self, state: &mut State, opened: &Opened<'_>, is_gap: bool) -> bool {
        let (slot, system) = (&self.config.slot, &opened.server.system_identifier);
        let is_same = state.slot == *slot && state.system_identifier == *system && opened.start.stored;
        if is_same && !is_gap {
            return false;
        }
        tracing::warn!(
            slot,
            "the changes have a gap, or are of another slot or server, or the checkpoint was lost: the pending backfill begins anew"
        );
        state.begin_anew(slot, system, opened.start.acknowledged);
        true
    }

    /// The backfill that is not over, under the lock.
    async fn pending(&self, connector: &Connector) -> Result<(Session, State), Error> {
        let slot = &self.config.slot;
        let session = connector.connect().await?;
        server::lock_or_busy(connector, &session, slot).await?;
        let state = load(&self.backfill).await?.filter(State::is_pending);
        Ok((session, state.ok_or_else(|| self.no_backfill())?))
    }

    fn no_backfill(&self) -> Error {
        Error::BackfillMissing {
            slot: self.config.slot.clone(),
        }
    }

    /// Whether all of a request can be read.
    ///
    /// # Errors
    /// What cannot, and why.
    async fn check(
        &self,
        connector: &Connector,
        opened: &Opened<'_>,
        request: &Request,
    ) -> Result<(), Error> {
        let refused = |reasons: Vec<String>| {
            Err(Error::BackfillRefused {
                slot: self.config.slot.clone(),
                reasons: reasons.join("; "),
            })
        };
        let plugin = opened.settings.plugin;
        if !plugin.tells_messages(opened.server.version) {
            let why =
                "pgoutput does not tell of logical messages before PostgreSQL 14, and so of no watermark";
            return refused(vec![why.to_owned()]);
        }
        let session = opened.slot.control();
        let site = describe(&self.context(connector), session, plugin).await?;
        let wanted = match site.tables(request) {
            Ok(wanted) => wanted,
            Err(refusals) => return refused(refusals.iter().map(ToString::to_string).collect()),
        };
        let mut reasons = Vec::new();
        for table in &wanted {
            if let Err(why) = tables::try_out(connector, session, table).await? {
                let told = request.condition.as_ref().map_or("", |_| "with this where, ");
                reasons.push(format!("{table}: {told}PostgreSQL says: {why}"));
            }
        }
        match reasons.is_empty() {
            true => Ok(()),
            false => refused(reasons),
        }
    }

    /// The backfill that a tick carries on, or tells of.
    ///
    /// # Errors
    /// It cannot be read at the moment. Whether changes must be completed for it is not known then. What is wrong with it for good does not
    /// keep the drain from its work.
    pub(super) async fn carried(
        &self,
        opened: &Opened<'_>,
        is_gap: bool,
    ) -> Result<Option<Beside<Parameter>>, Error> {
        let slot = &self.config.slot;
        match load(&self.backfill).await {
            Ok(Some(mut state)) if state.is_pending() => {
                if self.begin_anew_where_needed(&mut state, opened, is_gap) {
                    self.backfill.store(state.to_text()).await?;
                }
                return Ok(Some(Beside::new(self.backfill.clone(), state)));
            }
            Ok(_) => {}
            Err(error) if error.kind() == Kind::Transient => return Err(error),
            Err(error) => {
                tracing::warn!(
                    slot,
                    error_type = error.name(),
                    "the backfill rests: {}",
                    error.chain()
                );
            }
        }
        Ok(None)
    }
}
