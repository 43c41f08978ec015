//! What a drain would send now: one peek, read as a drain reads it, and nothing sent, stored or confirmed.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::clock::now_micros;
use crate::continuity::Start;
use crate::encode::{Envelope, Oversize};
use crate::error::Error;
use crate::lsn::Lsn;
use crate::pack::{Figures, Forecast, Ledger};
use crate::window::Window;

use super::parts::{Rows as _, Slot, SlotError};
use super::reader::{HOLD_BYTES, Output, Past, Reader, Wants};
use super::report::Report;
use super::{AGGREGATE_BYTES, REQUEST, Settings};

/// The answer to `{"action":"plan"}`.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// `plan`
    pub action: &'static str,
    /// The slot.
    pub slot: String,
    /// The slot's plugin.
    pub plugin: &'static str,
    /// The stream.
    pub stream: String,
    /// How the function is configured: `none` or `kpl`.
    pub aggregation: &'static str,
    /// Up to where the stream has everything.
    pub from: Lsn,
    /// Up to where this was to be read: the end of the server's log.
    pub upto: Lsn,
    /// Whether it was read to its end; otherwise there is more than one peek should hold, and the figures are of its beginning.
    pub complete: bool,
    /// Transactions that brought at least one change.
    pub transactions: u64,
    /// Changes.
    pub changes: u64,
    /// Events made of them.
    pub events: u64,
    /// Events of which columns would be left out (`OVERSIZE=omit`).
    pub omitted: u64,
    /// What would be sent.
    #[serde(flatten)]
    pub figures: Figures,
    /// Wall-clock time, milliseconds.
    pub elapsed_ms: u64,
}

/// Peeks at most about `rows` rows, and tells what would come of them.
///
/// # Errors
/// What would stop a drain, too, but for events that are too large: these are counted.
pub async fn plan<S: Slot>(
    slot: &mut S,
    stream: &str,
    settings: &Settings,
    envelope: &Envelope,
    start: &Start,
    rows: i32,
    time: Duration,
) -> Result<Plan, Error> {
    let began = Instant::now();
    let upto = slot.reach().await?.readable;
    let window = Window {
        upto,
        rows,
        known: None,
    };
    let mut peeked = slot.peek(window, time).await?;
    let catalog = slot.catalog().await?;
    // Events of any size pass, and the forecast knows the limit; but where columns are left out, so they are here.
    let unlimited = Settings {
        record_bytes: match envelope.oversize {
            Oversize::Fail => usize::MAX,
            Oversize::Omit => settings.record_bytes,
        },
        ..settings.clone()
    };
    let mut reader = Reader::new(
        &unlimited,
        envelope,
        catalog,
        Past {
            settled: start.settled,
            acknowledged: start.acknowledged,
            inside: start.inside.clone(),
            expected: None,
            upto,
        },
        None,
        now_micros(),
    );
    let mut forecast = Forecast::new(
        began,
        &settings.shards,
        settings.record_bytes,
        AGGREGATE_BYTES.min(settings.record_bytes),
        settings.bytes_in_flight,
    );
    let (mut ledger, mut parcels, mut report) =
        (Ledger::new(start.settled.into()), Vec::new(), Report::default());
    let (mut count, mut complete) = (0i32, true);
    // The server ends at the end of a transaction, however many rows that has.
    while count < rows {
        let row = match tokio::time::timeout_at((began + time).into(), peeked.next()).await {
            Ok(Ok(Some(row))) => row,
            Ok(Ok(None)) => break,
            Err(_) | Ok(Err(SlotError::Timeout { .. })) => {
                complete = false;
                break;
            }
            Ok(Err(error)) => return Err(error.into()),
        };
        count += 1;
        if reader.take(row)? == Wants::LargeCommits {
            let commits = slot.large_commits(window, HOLD_BYTES / 2).await?;
            reader.large_commits(commits)?;
        }
        while reader.has_rows() {
            let mut out = Output {
                ledger: &mut ledger,
                parcels: &mut parcels,
                report: &mut report,
            };
            reader.next(&mut out)?;
            for parcel in parcels.drain(..) {
                forecast.add(parcel, REQUEST);
            }
        }
    }
    drop(peeked);
    slot.abandon().await;
    Ok(Plan {
        action: "plan",
        slot: settings.slot.clone(),
        plugin: settings.plugin.name(),
        stream: stream.to_owned(),
        aggregation: settings.aggregation.name(),
        from: start.acknowledged,
        upto,
        complete: complete && count < rows,
        transactions: report.transactions,
        changes: report.changes,
        events: report.events,
        omitted: report.omitted,
        figures: forecast.finish(report.changes, REQUEST),
        elapsed_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}
