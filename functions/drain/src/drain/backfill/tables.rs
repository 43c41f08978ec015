//! The tables of a backfill: which are left, and how each is described.

use super::BackfillRunner;
use crate::backfill::BackfillTable;
use crate::budget::Budget;
use crate::error::Error;
use crate::ports::{ErrorKind, Slot, StateStore, TableSource};
use crate::table_name::TableName;

impl<C: StateStore> BackfillRunner<C> {
    /// Lists the tables of the request, once in an invocation. Returns false if they cannot be listed.
    ///
    /// The drain does not fail then: the answer and the log have the reason.
    pub(super) async fn list_tables<S: Slot + TableSource>(
        &mut self,
        slot: &mut S,
        budget: Budget,
    ) -> Result<bool, Error> {
        if self.tables.is_some() {
            return Ok(true);
        }
        let schema = match slot.list().await {
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
            // A table that was created since then is in the log. A table that was renamed or published since
            // then is not read: the cursor would be lost.
            names.retain(|name| name >= reading);
        }
        names.retain(|name| !self.state.is_over(name));
        self.tables = Some(names);
        if let Some(name) = missing {
            let why = "it is no longer there, no longer published or left out by TABLES";
            self.fail_table(slot, &name, why.to_owned(), budget).await?;
        }
        Ok(true)
    }

    /// The next table that can be read, and its description. Tables before it that cannot be read fail.
    pub(super) async fn next_table<S: Slot + TableSource>(
        &mut self,
        slot: &mut S,
        budget: Budget,
    ) -> Result<Option<(TableName, BackfillTable)>, Error> {
        loop {
            let next = self.tables.as_ref().and_then(|tables| tables.first());
            let Some(name) = next.cloned() else {
                return Ok(None);
            };
            match self.describe_table(slot, &name).await? {
                Ok(table) => return Ok(Some((name, table))),
                Err(why) => self.fail_table(slot, &name, why, budget).await?,
            }
        }
    }

    /// The present description of a table, or the reason why it cannot be read.
    pub(super) async fn describe_table<S: TableSource>(
        &self,
        slot: &mut S,
        name: &TableName,
    ) -> Result<Result<BackfillTable, String>, Error> {
        let schema = match slot.describe(name).await {
            Ok(schema) => schema,
            // Only this table is known to have the problem. The drain and the other tables continue.
            Err(error) if error.kind() == ErrorKind::Definite => return Ok(Err(Error::from(error).chain())),
            Err(error) => return Err(error.into()),
        };
        let info = schema.relations.iter().find(|info| info.table == *name);
        Ok(match info {
            None => Err("it is no longer there".to_owned()),
            Some(info) => schema
                .backfill_table(info, &self.state.request)
                .map_err(|refusal| refusal.reason),
        })
    }
}
