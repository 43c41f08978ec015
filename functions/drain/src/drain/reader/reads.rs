//! What a reader does for a backfill: looks at changes before they go out, and at a watermark gives what was read.

use super::super::parts::{Looked, Row};
use super::{Output, Reader};
use crate::backfill::{self, Held, Load, Wanted};
use crate::change::{Change, Message};
use crate::encode::{self, Event};
use crate::error::Error;
use crate::lsn::Lsn;

impl<R: Row> Reader<'_, R> {
    /// What the server says of the row that was wanted.
    pub(in crate::drain) fn found(&mut self, looked: Looked) {
        let Some(side) = &mut self.side else {
            return;
        };
        side.found = Some(match looked {
            Looked::Row(line) => Some(line),
            Looked::Gone => None,
            Looked::Unknown(_) => {
                side.forget();
                None
            }
        });
    }

    /// Whether a change that was just turned into parcels has the table read from its beginning, which is to be stored before they are sent.
    pub(in crate::drain) fn loses(&mut self) -> bool {
        let side = self.side.as_mut();
        side.is_some_and(|side| std::mem::take(&mut side.is_lost))
    }

    /// Whether the server must be asked for a row before this change can go out.
    pub(super) fn wants(&self, change: &Change<'_>) -> Option<Wanted> {
        let (open, side) = (self.open.as_ref()?, self.side.as_ref()?);
        if open.skip || open.beyond || open.resumed.is_some() || side.found.is_some() {
            return None;
        }
        let held = side.chunk.as_ref().and_then(|chunk| chunk.held());
        Held::wants(side.table.as_ref()?, held, open.transaction.xid, change)
    }

    /// A watermark has come.
    pub(super) fn reach(&mut self, lsn: Lsn, content: &[u8]) {
        let (Some(open), Some(side)) = (&self.open, &mut self.side) else {
            return;
        };
        if let Some(chunk) = side.chunk.as_mut().filter(|_| !open.beyond)
            && chunk.watermark.as_bytes() == content
        {
            chunk.reached = Some(lsn);
        }
    }

    /// Whether rows that were read go out now.
    pub(super) fn gives(&self) -> bool {
        let chunk = self.side.as_ref().and_then(|side| side.chunk.as_ref());
        chunk.is_some_and(|chunk| chunk.reached.is_some() && chunk.next.is_some())
    }

    /// Sends the next row that was read and not overtaken, or what else waited for the watermark.
    pub(super) fn give(&mut self, out: &mut Output<'_>) -> Result<(), Error> {
        let (Some(open), Some(chunk)) = (
            &mut self.open,
            self.side.as_mut().and_then(|side| side.chunk.as_mut()),
        ) else {
            return Ok(());
        };
        let (Some(progress), Some(lsn), Some(from)) = (&mut open.progress, chunk.reached, chunk.next) else {
            return Ok(());
        };
        let id = open.id;
        match &chunk.load {
            Load::Repaired(content) => {
                chunk.next = None;
                let message = Message {
                    prefix: backfill::REPAIRED.into(),
                    content: content.as_bytes().into(),
                };
                let event = self.envelope.control(progress, lsn, &message, self.now);
                self.events.push(event);
            }
            Load::Rows { held, first, more } => {
                let Some(at) = held.next(from) else {
                    chunk.next = None;
                    return Ok(());
                };
                chunk.next = held.next(at + 1);
                let mark = match (chunk.next, *first && chunk.sent == 0) {
                    (None, _) if !more => encode::Snapshot::Last,
                    (_, true) => encode::Snapshot::First,
                    _ => encode::Snapshot::Within,
                };
                let limit = self.settings.record_bytes;
                let relation = &held.table().relation;
                match held.row(at) {
                    Ok(row) => {
                        out.report.omitted += self.envelope.read(
                            progress,
                            lsn,
                            relation,
                            &row,
                            mark,
                            self.now,
                            limit,
                            &mut self.events,
                        );
                        chunk.sent += 1;
                    }
                    Err(error) => chunk.failed = Some(error.to_string()),
                }
                let oversize = |event: &&Event| event.data.len() + event.partition_key.len() > limit;
                if let Some(event) = self.events.iter().find(oversize) {
                    // Short: the state keeps 120 bytes of it.
                    chunk.failed = Some(format!(
                        "row with key hash {} has {} bytes, a record may have {limit}: leave a column out, or OVERSIZE=omit",
                        event.key_hash(),
                        event.data.len() + event.partition_key.len()
                    ));
                }
                if chunk.failed.is_some() {
                    chunk.next = None;
                    self.events.clear();
                    return Ok(());
                }
            }
        }
        self.send(id, out)
    }
}
