//! The tables of a backfill: the list of those that are left, and their descriptions.

use super::BackfillRunner;
use crate::backfill::BackfillTable;
use crate::base::budget::Budget;
use crate::base::error_kind::ErrorKind;
use crate::base::table_name::TableName;
use crate::error::Error;
use crate::ports::{Slot, StateStore, TableSource};

impl<C: StateStore> BackfillRunner<C> {
    /// Lists the tables of the request, once in an invocation. Returns false if they cannot be listed.
    ///
    /// In that case the drain continues, and the answer and the log contain the reason.
    pub(super) async fn list_tables<S: Slot + TableSource>(
        &mut self,
        slot: &mut S,
        budget: Budget,
    ) -> Result<bool, Error> {
        if self.tables.is_some() {
            return Ok(true);
        }
        let schema = match slot.list_relations().await {
            Ok(schema) => schema,
            Err(error) if error.kind() == ErrorKind::Definite => {
                let why = Error::from(error).chain();
                tracing::warn!(
                    slot = self.state.slot,
                    why,
                    "the tables of the backfill cannot be listed"
                );
                self.waits_for = Some(why);
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        let mut names = schema.table_names(&self.state.request);
        let reading = self.state.table.as_ref().map(|table| table.name.clone());
        let missing = reading
            .as_ref()
            .filter(|reading| !names.contains(reading))
            .cloned();
        if let Some(reading) = &reading {
            // Tables are read in the order of their names. Tables before the current one are finished, or
            // were created, renamed or published meanwhile. The rows of a created table are in the log.
            // Renamed and published tables are not read: the state has only one cursor, that of the current
            // table.
            names.retain(|name| name >= reading);
        }
        names.retain(|name| !self.state.has_ended(name));
        self.tables = Some(names);
        if let Some(name) = missing {
            let why = "it no longer exists, is no longer published, or is excluded by TABLES";
            self.fail_table(slot, &name, why.to_owned(), budget).await?;
        }
        Ok(true)
    }

    /// The next readable table. Unreadable tables before it fail.
    ///
    /// A table that was dropped or unpublished after the list was made is left out. If the request names it,
    /// or its reading has begun, it fails instead.
    pub(super) async fn next_table<S: Slot + TableSource>(
        &mut self,
        slot: &mut S,
        budget: Budget,
    ) -> Result<Option<BackfillTable>, Error> {
        loop {
            let next = self.tables.as_ref().and_then(|tables| tables.first());
            let Some(name) = next.cloned() else {
                return Ok(None);
            };
            match self.describe_table(slot, &name).await? {
                Ok(table) => return Ok(Some(table)),
                Err(why) if self.is_selected(slot, &name).await? => {
                    self.fail_table(slot, &name, why, budget).await?;
                }
                Err(why) => {
                    let of = &self.state.slot;
                    tracing::warn!(slot = of, table = %name, why, "the backfill leaves the table out");
                    self.remove_table(&name);
                }
            }
        }
    }

    /// Whether the request still selects a table, or its reading has begun.
    async fn is_selected<S: TableSource>(&self, slot: &mut S, name: &TableName) -> Result<bool, Error> {
        if self.state.table.as_ref().is_some_and(|table| table.name == *name) {
            return Ok(true);
        }
        match slot.list_relations().await {
            Ok(schema) => Ok(schema.table_names(&self.state.request).contains(name)),
            Err(error) if error.kind() == ErrorKind::Definite => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// The present description of a table, or why it is unreadable.
    pub(super) async fn describe_table<S: TableSource>(
        &self,
        slot: &mut S,
        name: &TableName,
    ) -> Result<Result<BackfillTable, String>, Error> {
        let schema = match slot.describe_relation(name).await {
            Ok(schema) => schema,
            // The problem may concern only this table, so the drain and the other tables continue.
            Err(error) if error.kind() == ErrorKind::Definite => return Ok(Err(Error::from(error).chain())),
            Err(error) => return Err(error.into()),
        };
        let info = schema.relations.iter().find(|info| info.table == *name);
        Ok(match info {
            None => Err("it no longer exists".to_owned()),
            Some(info) => schema
                .backfill_table(info, &self.state.request)
                .map_err(|refusal| refusal.reason),
        })
    }
}
