//! The reader's part in the catalog: asks for the tables that its rows name.

use std::collections::BTreeSet;

use super::WindowReader;
use crate::catalog::{Catalog, TableRequest};
use crate::ports::PeekRow;

/// Requests for single tables after which a window reads all tables.
///
/// Each request costs a round trip. All tables cost about as much as so many round trips where a database has
/// ten thousand of them.
const MANY_REQUESTS: usize = 256;

impl<R: PeekRow> WindowReader<'_, R> {
    /// The catalog, to add tables to.
    pub(crate) fn catalog_mut(&mut self) -> &mut Catalog {
        &mut self.catalog
    }

    /// The tables that the next row needs and the catalog lacks; `None` if it lacks none.
    ///
    /// The request has the tables of the other rows that wait, too.
    pub(super) fn table_request(&mut self) -> Option<TableRequest> {
        if !self.catalog.is_partial() {
            return None;
        }
        let lacks = |table: &_| self.catalog.lacks(table);
        let mut next = self.decoder.tables(self.rows.front()?.data()).into_iter();
        next.find(lacks)?;
        self.table_requests += 1;
        // Names that it does not find are requested one by one again.
        if self.table_requests == MANY_REQUESTS {
            return Some(TableRequest::All);
        }
        let waiting = self.rows.iter().flat_map(|row| self.decoder.tables(row.data()));
        let names: BTreeSet<_> = waiting.filter(lacks).collect();
        Some(TableRequest::Named(names.into_iter().collect()))
    }
}
