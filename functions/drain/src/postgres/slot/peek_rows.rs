//! The rows of a peek.
//!
//! Rows that are too large for memory arrive in slices, and are shortened.

use bytes::{Buf as _, Bytes};
use futures_util::StreamExt as _;
use futures_util::stream::{Fuse, LocalBoxStream};

use crate::base::error_kind::ErrorKind;
use crate::base::lsn::Lsn;
use crate::decode::{KeptBytes, RowShortener};
use crate::plugin::Plugin;
use crate::ports::{CommitRows, PeekRow, PeekRows, SlotError};
use crate::postgres::sql_state::{cause, is_cancelled};

/// The messages of a copy after the first one: rows and the trailer.
///
/// The stream is fused: after its end, a stream of tokio-postgres would report a closed connection.
pub(super) type CopyRows = Fuse<LocalBoxStream<'static, Result<Bytes, tokio_postgres::Error>>>;

/// The first bytes of the binary format (PostgreSQL, "COPY", "Binary Format").
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// The rows of a peek, read from the connection one by one.
pub(crate) struct PgPeekRows {
    rows: CopyRows,
    /// The commit rows that preceded all other rows.
    first_commits: CommitRows,
    /// The first row after them, until it is read.
    first: Option<CopiedRow>,
    /// The row of which some slices were read.
    ///
    /// It is a field, so a cancelled call does not lose it.
    sliced: Option<SlicedRow>,
    plugin: Plugin,
    kept: KeptBytes,
    slot: String,
    host: String,
}

/// A row of the copy: a row of the peek, or a slice of one.
#[derive(Debug, PartialEq)]
struct CopiedRow {
    lsn: Lsn,
    data: Bytes,
    /// Bytes of the whole row, if this is a slice.
    oversize_bytes: Option<usize>,
    /// The transaction of a commit row that precedes all other rows.
    commit_of: Option<u32>,
}

impl CopiedRow {
    /// The transaction, `lsn` and data of a first commit.
    fn first_commit(&self) -> Option<(u32, Lsn, Vec<u8>)> {
        self.commit_of.map(|xid| (xid, self.lsn, self.data.to_vec()))
    }
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

    fn take_first_commits(&mut self) -> CommitRows {
        std::mem::take(&mut self.first_commits)
    }

    async fn next(&mut self) -> Result<Option<PgPeekRow>, SlotError> {
        loop {
            let row = match self.first.take() {
                Some(first) => Some(first),
                None => self.next_copied().await?,
            };
            let Some(row) = row else {
                return Ok(None);
            };
            // All first commits precede the other rows. After another row, such a commit would end the wrong
            // transaction.
            if row.commit_of.is_some() {
                return Err(self.malformed());
            }
            if let Some(row) = self.whole(row) {
                return Ok(Some(row));
            }
        }
    }
}

impl PgPeekRows {
    /// Starts to read a copy of `plugin`'s rows.
    ///
    /// Reads the first commits: the commit rows that the server sends before all other rows. `first` is the
    /// first message of the copy. `slot` and `host` are for errors.
    ///
    /// # Errors
    /// The connection failed, or the messages are not those of such a copy.
    pub(super) async fn new(
        rows: CopyRows,
        first: Option<Bytes>,
        plugin: Plugin,
        kept: KeptBytes,
        slot: String,
        host: &str,
    ) -> Result<Self, SlotError> {
        let mut rows = PgPeekRows {
            rows,
            first_commits: CommitRows::new(),
            first: None,
            sliced: None,
            plugin,
            kept,
            slot,
            host: host.to_owned(),
        };
        if let Some(first) = first {
            let first = without_header(first).ok_or_else(|| rows.malformed())?;
            rows.first = rows.parse(first)?;
        }
        while let Some((xid, lsn, data)) = rows.first.as_ref().and_then(CopiedRow::first_commit) {
            rows.first_commits.insert(xid, (lsn, data));
            rows.first = rows.next_copied().await?;
        }
        // Each first commit is repeated among the other rows. A copy without other rows would look like an
        // empty window, and the changes of the window would be lost.
        match rows.first.is_none() && !rows.first_commits.is_empty() {
            true => Err(rows.malformed()),
            false => Ok(rows),
        }
    }

    async fn next_copied(&mut self) -> Result<Option<CopiedRow>, SlotError> {
        match self.rows.next().await {
            Some(message) => self.parse(message.map_err(|error| self.failed(error))?),
            None => Ok(None),
        }
    }

    fn parse(&self, message: Bytes) -> Result<Option<CopiedRow>, SlotError> {
        parse_row(message).map_err(|InvalidCopyRow| self.malformed())
    }

    fn malformed(&self) -> SlotError {
        SlotError::Failed {
            host: self.host.clone(),
            doing: "reading a row",
            kind: ErrorKind::Definite,
            source: "the server sent no row of a binary copy with four columns".into(),
        }
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
            kind: ErrorKind::Transient,
            source: cause(error),
        }
    }

    /// The row of the peek that this row of the copy completes.
    ///
    /// `None` if the row of the copy is a slice, and other slices follow.
    fn whole(&mut self, row: CopiedRow) -> Option<PgPeekRow> {
        let CopiedRow {
            lsn,
            data,
            oversize_bytes,
            commit_of: _,
        } = row;
        let Some(bytes) = oversize_bytes else {
            return Some(PgPeekRow { lsn, data });
        };
        let (plugin, kept) = (self.plugin, self.kept);
        let mut sliced = self.sliced.take().unwrap_or_else(|| SlicedRow {
            shortener: RowShortener::new(plugin, bytes, kept),
            left: bytes,
        });
        sliced.shortener.push(&data);
        sliced.left = sliced.left.saturating_sub(data.len());
        if sliced.left > 0 && !data.is_empty() {
            self.sliced = Some(sliced);
            return None;
        }
        let data = sliced.shortener.finish().into();
        Some(PgPeekRow { lsn, data })
    }
}

/// A row of a peek.
///
/// The data of a row that was too large is the kept part of the row. Other data is in the buffer in which it
/// was received.
pub(crate) struct PgPeekRow {
    /// The row's `lsn` column.
    lsn: Lsn,
    data: Bytes,
}

impl PeekRow for PgPeekRow {
    fn lsn(&self) -> Lsn {
        self.lsn
    }

    fn data(&self) -> &[u8] {
        &self.data
    }
}

/// Removes the header from the first message of a copy.
///
/// The header consists of the signature, flags, and an extension with its length. `None` without a valid
/// header.
fn without_header(mut message: Bytes) -> Option<Bytes> {
    if !message.starts_with(SIGNATURE) {
        return None;
    }
    message.advance(SIGNATURE.len());
    let _flags = message.try_get_u32().ok()?;
    let extension = usize::try_from(message.try_get_u32().ok()?).ok()?;
    (extension <= message.len()).then(|| message.split_off(extension))
}

/// The message is not a row with four columns.
#[derive(Debug, PartialEq)]
struct InvalidCopyRow;

/// The row in a message.
///
/// `None` for the trailer, which ends the copy.
fn parse_row(mut message: Bytes) -> Result<Option<CopiedRow>, InvalidCopyRow> {
    let mut rest = &message[..];
    let columns = rest.try_get_i16().map_err(|_| InvalidCopyRow)?;
    if columns == -1 {
        return Ok(None);
    }
    let (lsn, data) = (next_column(&mut rest)?, next_column(&mut rest)?);
    let (data_bytes, data_end) = (data.map_or(0, <[u8]>::len), message.len() - rest.len());
    let (oversize_bytes, commit_of) = (next_column(&mut rest)?, next_column(&mut rest)?);
    if columns != 4 || !rest.is_empty() {
        return Err(InvalidCopyRow);
    }
    let lsn = lsn.and_then(|mut lsn| lsn.try_get_u64().ok());
    let number =
        |column: Option<&[u8]>| column.map(|mut bytes| bytes.try_get_u32().map_err(|_| InvalidCopyRow));
    let lsn = Lsn(lsn.ok_or(InvalidCopyRow)?);
    let oversize_bytes = number(oversize_bytes).transpose()?.map(|bytes| bytes as usize);
    let commit_of = number(commit_of).transpose()?;
    // The message itself becomes the data. `Bytes::slice` would increment a reference count, which costs
    // more.
    message.truncate(data_end);
    message.advance(data_end - data_bytes);
    Ok(Some(CopiedRow {
        lsn,
        data: message,
        oversize_bytes,
        commit_of,
    }))
}

/// The next column of `rest`; `None` for a null.
fn next_column<'m>(rest: &mut &'m [u8]) -> Result<Option<&'m [u8]>, InvalidCopyRow> {
    let length = rest.try_get_i32().map_err(|_| InvalidCopyRow)?;
    // A null has the length -1.
    let Ok(length) = usize::try_from(length) else {
        return Ok(None);
    };
    let (column, after) = rest.split_at_checked(length).ok_or(InvalidCopyRow)?;
    *rest = after;
    Ok(Some(column))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message with these columns.
    fn message(columns: &[Option<&[u8]>]) -> Bytes {
        let mut message = (columns.len() as i16).to_be_bytes().to_vec();
        for column in columns {
            let length = column.map_or(-1, |bytes| bytes.len() as i32);
            message.extend(length.to_be_bytes());
            message.extend(column.unwrap_or_default());
        }
        message.into()
    }

    #[test]
    fn a_row_is_read_from_its_message() {
        let lsn = 7u64.to_be_bytes();
        let row = |oversize_bytes, commit_of| CopiedRow {
            lsn: Lsn(7),
            data: Bytes::from_static(b"data"),
            oversize_bytes,
            commit_of,
        };
        let whole = message(&[Some(&lsn), Some(b"data"), None, None]);
        assert_eq!(parse_row(whole.clone()), Ok(Some(row(None, None))));
        let nine = 9u32.to_be_bytes();
        let slice = message(&[Some(&lsn), Some(b"data"), Some(&nine), None]);
        assert_eq!(parse_row(slice), Ok(Some(row(Some(9), None))));
        let commit = message(&[Some(&lsn), Some(b"data"), None, Some(&nine)]);
        assert_eq!(parse_row(commit), Ok(Some(row(None, Some(9)))));
        assert_eq!(parse_row(Bytes::from_static(b"\xff\xff")), Ok(None));
        for length in 0..whole.len() {
            assert_eq!(parse_row(whole.slice(..length)), Err(InvalidCopyRow), "{length}");
        }
        let longer = [&whole[..], b"x"].concat();
        assert_eq!(parse_row(longer.into()), Err(InvalidCopyRow));
        assert_eq!(
            parse_row(message(&[Some(&lsn), Some(b"data"), None])),
            Err(InvalidCopyRow)
        );
    }

    #[test]
    fn the_header_precedes_the_first_row() {
        let header = |extension: &[u8]| {
            let length = (extension.len() as u32).to_be_bytes();
            [SIGNATURE, &[0; 4], &length, extension, b"row"].concat()
        };
        for extension in [&b""[..], b"extension"] {
            let first = without_header(header(extension).into());
            assert_eq!(first.as_deref(), Some(&b"row"[..]));
        }
        assert_eq!(without_header(Bytes::from_static(b"PGCOPY")), None);
        assert_eq!(without_header(Bytes::from_static(b"")), None);
    }

    /// The first commits and the other rows of a copy.
    ///
    /// Each of `rows` has an LSN and data, and a first commit also has its transaction.
    async fn copied(rows: &[(u64, &[u8], Option<u32>)]) -> Result<(CommitRows, Vec<Vec<u8>>), SlotError> {
        let row = |(lsn, data, commit_of): &(u64, &[u8], Option<u32>)| {
            let commit_of = commit_of.map(u32::to_be_bytes);
            message(&[
                Some(&lsn.to_be_bytes()),
                Some(*data),
                None,
                commit_of.as_ref().map(|xid| &xid[..]),
            ])
        };
        let mut messages: Vec<Bytes> = rows.iter().map(row).collect();
        messages.push(Bytes::from_static(b"\xff\xff"));
        let header = [SIGNATURE, &[0; 8], &messages.remove(0)].concat();
        let rest = futures_util::stream::iter(messages.into_iter().map(Ok))
            .boxed_local()
            .fuse();
        let kept = KeptBytes::for_record(1 << 20, false);
        let plugin = Plugin::Pgoutput;
        let mut rows =
            PgPeekRows::new(rest, Some(header.into()), plugin, kept, "slot".into(), "host").await?;
        let (commits, mut data) = (rows.take_first_commits(), Vec::new());
        while let Some(row) = rows.next().await? {
            data.push(row.data().to_vec());
        }
        Ok((commits, data))
    }

    #[tokio::test]
    async fn first_commits_precede_the_rows_and_are_repeated() {
        let (commits, rows) = copied(&[
            (9, b"C of 7", Some(7)),
            (19, b"C of 8", Some(8)),
            (1, b"B", None),
            (9, b"C of 7", None),
        ])
        .await
        .unwrap();
        let commit = |lsn, data: &[u8]| (Lsn(lsn), data.to_vec());
        assert_eq!(
            commits,
            CommitRows::from([(7, commit(9, b"C of 7")), (8, commit(19, b"C of 8"))])
        );
        assert_eq!(rows, [b"B".to_vec(), b"C of 7".to_vec()]);
    }

    #[tokio::test]
    async fn first_commits_without_rows_or_after_a_row_are_refused() {
        assert!(copied(&[(9, b"C", Some(7))]).await.is_err());
        assert!(copied(&[(1, b"B", None), (9, b"C", Some(7))]).await.is_err());
    }
}
