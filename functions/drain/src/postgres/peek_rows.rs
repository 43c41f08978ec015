//! The rows of a peek, and the check of their size.

use std::pin::Pin;

use futures_util::StreamExt as _;
use futures_util::stream::Fuse;
use postgres_types::PgLsn;
use tokio_postgres::{Row as PgRow, RowStream};

use super::sql_state::is_cancelled;
use crate::lsn::Lsn;
use crate::ports::{PeekRow, PeekRows, SlotError};

/// The rows of a peek, read from the connection one by one.
pub(crate) struct PgPeekRows {
    /// Fused: after its end, a row stream of tokio-postgres reports a closed connection.
    rows: Pin<Box<Fuse<RowStream>>>,
    /// The first row, until it is read.
    first: Option<PgPeekRow>,
    slot: String,
    host: String,
}

impl PeekRows for PgPeekRows {
    type Row = PgPeekRow;

    fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    async fn next(&mut self) -> Result<Option<PgPeekRow>, SlotError> {
        const DOING: &str = "reading a window";
        if let Some(row) = self.first.take() {
            return Ok(Some(row));
        }
        match self.rows.next().await {
            None => Ok(None),
            Some(Ok(row)) => self.checked(row).map(Some),
            Some(Err(error)) if is_cancelled(&error) => Err(SlotError::Timeout {
                slot: self.slot.clone(),
                doing: DOING,
                source: Box::new(error),
            }),
            Some(Err(error)) => Err(SlotError::Failed {
                host: self.host.clone(),
                doing: DOING,
                transient: true,
                source: Box::new(error),
            }),
        }
    }
}

impl PgPeekRows {
    /// The rows of a stream. `slot` and `host` are for errors.
    pub(super) fn new(rows: Pin<Box<Fuse<RowStream>>>, slot: String, host: String) -> Self {
        PgPeekRows {
            rows,
            first: None,
            slot,
            host,
        }
    }

    /// These rows behind a first one that was read already; without a first one there are none.
    ///
    /// # Errors
    /// [`SlotError::RowTooLarge`] for a first row that no record can hold.
    pub(super) fn with_first(mut self, first: Option<PgRow>) -> Result<Self, SlotError> {
        self.first = first.map(|row| self.checked(row)).transpose()?;
        Ok(self)
    }

    /// The row, if its data arrived with it.
    ///
    /// # Errors
    /// [`SlotError::RowTooLarge`] for a row that no record can hold.
    fn checked(&self, row: PgRow) -> Result<PgPeekRow, SlotError> {
        let row = PgPeekRow(row);
        match row.0.try_get::<_, Option<i32>>("oversize_bytes") {
            Ok(Some(bytes)) => Err(SlotError::RowTooLarge {
                slot: self.slot.clone(),
                lsn: row.lsn(),
                bytes: bytes.into(),
            }),
            Ok(None) => Ok(row),
            Err(error) => Err(SlotError::Failed {
                host: self.host.clone(),
                doing: "reading a row",
                transient: false,
                source: Box::new(error),
            }),
        }
    }
}

/// A row of a peek, in the buffer that it was received in.
pub(crate) struct PgPeekRow(PgRow);

impl PeekRow for PgPeekRow {
    fn lsn(&self) -> Lsn {
        self.0
            .try_get::<_, PgLsn>("lsn")
            .map_or(Lsn::ZERO, |lsn| Lsn(lsn.into()))
    }

    fn data(&self) -> &[u8] {
        self.0.try_get("data").unwrap_or_default()
    }
}
