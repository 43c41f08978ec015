//! The rows of a peek. Rows that are too large for the memory arrive in slices, and are shortened.

use std::pin::Pin;

use futures_util::StreamExt as _;
use futures_util::stream::Fuse;
use postgres_types::PgLsn;
use tokio_postgres::{Row as PgRow, RowStream};

use super::sql_state::is_cancelled;
use crate::decode::{KeptBytes, RowShortener};
use crate::lsn::Lsn;
use crate::plugin::Plugin;
use crate::ports::{PeekRow, PeekRows, SlotError};

/// The rows of a peek, read from the connection one by one.
pub(crate) struct PgPeekRows {
    /// Fused: after its end, a row stream of tokio-postgres reports a closed connection.
    rows: Pin<Box<Fuse<RowStream>>>,
    /// The first row of the result, until it is read.
    first: Option<PgRow>,
    /// The row of which some slices were read. It stays here when a call is cancelled.
    sliced: Option<SlicedRow>,
    plugin: Plugin,
    kept: KeptBytes,
    slot: String,
    host: String,
}

/// A row that arrives in slices.
struct SlicedRow {
    shortener: RowShortener,
    /// Bytes that did not arrive yet.
    left: usize,
}

impl PeekRows for PgPeekRows {
    type Row = PgPeekRow;

    fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    async fn next(&mut self) -> Result<Option<PgPeekRow>, SlotError> {
        loop {
            let row = match self.first.take() {
                Some(first) => Some(Ok(first)),
                None => self.rows.next().await,
            };
            let Some(row) = row else {
                return Ok(None);
            };
            let row = row.map_err(|error| self.failed(error))?;
            if let Some(row) = self.whole(row)? {
                return Ok(Some(row));
            }
        }
    }
}

impl PgPeekRows {
    /// The rows of a stream of `plugin`'s rows. `slot` and `host` are for errors.
    pub(super) fn new(
        rows: Pin<Box<Fuse<RowStream>>>,
        plugin: Plugin,
        kept: KeptBytes,
        slot: String,
        host: &str,
    ) -> Self {
        PgPeekRows {
            rows,
            first: None,
            sliced: None,
            plugin,
            kept,
            slot,
            host: host.to_owned(),
        }
    }

    /// These rows behind a first one that was read already; without a first one there are none.
    pub(super) fn with_first(mut self, first: Option<PgRow>) -> Self {
        self.first = first;
        self
    }

    fn failed(&self, error: tokio_postgres::Error) -> SlotError {
        const DOING: &str = "reading a window";
        if is_cancelled(&error) {
            return SlotError::Timeout {
                slot: self.slot.clone(),
                doing: DOING,
                source: Box::new(error),
            };
        }
        SlotError::Failed {
            host: self.host.clone(),
            doing: DOING,
            transient: true,
            source: Box::new(error),
        }
    }

    /// The row that a row of the result completes; `None` if it is a slice, and others follow.
    fn whole(&mut self, row: PgRow) -> Result<Option<PgPeekRow>, SlotError> {
        let bytes = match row.try_get::<_, Option<i32>>("oversize_bytes") {
            Ok(None) => return Ok(Some(PgPeekRow::Whole(row))),
            Ok(Some(bytes)) => usize::try_from(bytes).unwrap_or_default(),
            Err(error) => {
                return Err(SlotError::Failed {
                    host: self.host.clone(),
                    doing: "reading a row",
                    transient: false,
                    source: Box::new(error),
                });
            }
        };
        let (lsn, slice) = (lsn_of(&row), data_of(&row));
        let (plugin, kept) = (self.plugin, self.kept);
        let mut sliced = self.sliced.take().unwrap_or_else(|| SlicedRow {
            shortener: RowShortener::new(plugin, bytes, kept),
            left: bytes,
        });
        sliced.shortener.push(slice);
        sliced.left = sliced.left.saturating_sub(slice.len());
        if sliced.left > 0 && !slice.is_empty() {
            self.sliced = Some(sliced);
            return Ok(None);
        }
        let data = sliced.shortener.finish();
        Ok(Some(PgPeekRow::Shortened { lsn, data }))
    }
}

/// A row of a peek.
pub(crate) enum PgPeekRow {
    /// A whole row, in the buffer that it was received in.
    Whole(PgRow),
    /// A row that was too large.
    Shortened {
        /// The row's `lsn` column.
        lsn: Lsn,
        /// What was kept of the row.
        data: Vec<u8>,
    },
}

impl PeekRow for PgPeekRow {
    fn lsn(&self) -> Lsn {
        match self {
            PgPeekRow::Whole(row) => lsn_of(row),
            PgPeekRow::Shortened { lsn, .. } => *lsn,
        }
    }

    fn data(&self) -> &[u8] {
        match self {
            PgPeekRow::Whole(row) => data_of(row),
            PgPeekRow::Shortened { data, .. } => data,
        }
    }
}

fn lsn_of(row: &PgRow) -> Lsn {
    row.try_get::<_, PgLsn>("lsn")
        .map_or(Lsn::ZERO, |lsn| Lsn(lsn.into()))
}

fn data_of(row: &PgRow) -> &[u8] {
    row.try_get("data").unwrap_or_default()
}
