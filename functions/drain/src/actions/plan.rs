//! The action `plan`: a forecast of the next drain. It sends, stores and confirms nothing.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use super::app::{App, LOCK_TIME, OpenedSlot};
use crate::base::budget::Budget;
use crate::base::clock::now_micros;
use crate::base::lsn::Lsn;
use crate::base::time::millis;
use crate::base::window::Window;
use crate::continuity::StartPosition;
use crate::continuity::checkpoint::ResumePoint;
use crate::drain::reader::{
    Barriers, HOLD_BYTES, ReaderNeed, ReaderOutput, ReaderRequest, SentHistory, WindowReader,
};
use crate::drain::report::Report;
use crate::drain::{AGGREGATE_BYTES, REQUEST_LIMITS, Settings, StreamOpener, StreamRoutes};
use crate::encode::Envelope;
use crate::error::Error;
use crate::pack::{Acknowledgements, Forecast, ForecastSettings, PlanFigures};
use crate::ports::{PeekRow, PeekRows, Slot, SlotError, Stream, StreamError};
use crate::postgres::connection::Connector;

/// The answer to `{"action":"plan"}`.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// The name of the action: always `plan`.
    pub action: &'static str,
    /// The slot.
    pub slot: String,
    /// The slot's plugin.
    pub plugin: &'static str,
    /// The name of the main stream.
    ///
    /// If tables have streams of their own, it receives only messages and control events.
    pub stream: String,
    /// The configured aggregation: `none` or `kpl`.
    pub aggregation: &'static str,
    /// The acknowledged position: the stream has every change up to it.
    pub from: Lsn,
    /// The readable position at the start of the plan: the end of its window.
    pub upto: Lsn,
    /// Whether the log was read up to `upto`.
    ///
    /// It is false if the row bound of the peek was reached, or the time was over. The figures then cover
    /// only the beginning of the log.
    pub complete: bool,
    /// Transactions with at least one change to send.
    pub transactions: u64,
    /// Changes to send.
    pub changes: u64,
    /// Events of these changes.
    pub events: u64,
    /// Events that would be sent without large columns (`OVERSIZE=omit`).
    pub omitted: u64,
    /// Forecast of records, requests, tables and keys.
    #[serde(flatten)]
    pub figures: PlanFigures,
    /// Wall-clock time, milliseconds.
    pub elapsed_ms: u64,
}

/// Answers with a [`Plan`]. Reads for at most half of the invocation's time.
///
/// With `names_keys`, the answer has partition keys. Otherwise it has their hashes.
///
/// # Errors
/// The errors that would stop a drain, except [`Error::Oversize`]: the forecast counts such events. Also
/// [`SlotError::Busy`] if another drainer has the slot.
pub(crate) async fn run(
    app: &App,
    connector: &Connector,
    names_keys: bool,
    budget: Budget,
) -> Result<Value, Error> {
    let mut opened = app.open_or_busy(connector, Instant::now() + LOCK_TIME).await?;
    // A row needs about 1 KiB: its key in the forecast, and the row itself until its commit. With this bound,
    // the rows need about half of the memory.
    let rows = i32::try_from(app.config.memory_mib.saturating_mul(500)).unwrap_or(i32::MAX);
    let OpenedSlot {
        slot,
        settings,
        start,
        ..
    } = &mut opened;
    let input = PlanInput {
        stream: &app.stream,
        settings,
        envelope: &app.config.envelope.with_empty_definitions(),
        start,
        rows,
        names_keys,
        time: budget.reading_time_left(Instant::now()) / 2,
    };
    Ok(json!(plan(slot, input).await?))
}

/// Input of a plan, and its bounds.
pub(crate) struct PlanInput<'a, K> {
    /// The main stream. If tables have streams, it receives only messages.
    pub(crate) stream: &'a K,
    pub(crate) settings: &'a Settings,
    pub(crate) envelope: &'a Envelope,
    pub(crate) start: &'a StartPosition,
    /// Row bound of the peek. The server exceeds it to complete a transaction.
    pub(crate) rows: i32,
    /// Whether the answer has partition keys. Otherwise it has their hashes.
    pub(crate) names_keys: bool,
    /// Longest time of the peek, including the read of its rows.
    pub(crate) time: Duration,
}

/// Peeks, and forecasts the records of a drain.
///
/// If the rows of a partly acknowledged transaction have changed, it peeks again. The forecast then has the
/// whole transaction, since a drain would send all of it.
///
/// # Errors
/// See [`run`].
pub(crate) async fn plan<S: Slot, K: Stream>(slot: &mut S, input: PlanInput<'_, K>) -> Result<Plan, Error> {
    match forecast(slot, &input, input.start.resume.clone()).await {
        Err(Error::NotResumed { .. }) => {
            slot.cancel_peek().await;
            forecast(slot, &input, None).await
        }
        planned => planned,
    }
}

/// Peeks once. With `resume`, the rows up to that point are not part of the forecast.
async fn forecast<S: Slot, K: Stream>(
    slot: &mut S,
    input: &PlanInput<'_, K>,
    resume: Option<ResumePoint>,
) -> Result<Plan, Error> {
    let began = Instant::now();
    let PlanInput {
        stream,
        settings,
        start,
        rows,
        time,
        ..
    } = *input;
    let upto = slot.wal_positions().await?.readable;
    let window = Window {
        upto,
        rows,
        acknowledged_prefix: None,
    };
    let mut peeked = slot.peek(window, time).await?;
    let reader_settings = reader_settings(input);
    let history = SentHistory {
        settled: start.settled,
        queued_upto: start.settled,
        acknowledged: start.acknowledged,
        resume,
        expected: None,
        ahead: None,
        readable: upto,
    };
    let catalog = slot.catalog().await?;
    let mut reader = WindowReader::new(&reader_settings, input.envelope, catalog, history, now_micros());
    reader.add_first_commits(peeked.take_first_commits());
    let mut forecaster = Forecaster::new(reader, input, began);
    let complete = forecaster.read(slot, &mut peeked, window).await?;
    drop(peeked);
    slot.cancel_peek().await;
    let Forecaster { planned, report, .. } = forecaster;
    Ok(Plan {
        action: "plan",
        slot: settings.slot.clone(),
        plugin: settings.plugin.name(),
        stream: stream.name(),
        aggregation: settings.aggregation.name(),
        from: start.acknowledged,
        upto,
        complete,
        transactions: report.transactions,
        changes: report.changes,
        events: report.events,
        omitted: report.omitted,
        figures: planned.forecast.finish(report.changes, REQUEST_LIMITS),
        elapsed_ms: millis(began.elapsed()),
    })
}

/// The reader's settings, without a limit for the size of events.
///
/// A plan does not stop at an event that is too large: the forecast counts it.
fn reader_settings<K>(input: &PlanInput<'_, K>) -> Settings {
    Settings {
        passes_oversize: true,
        ..input.settings.clone()
    }
}

/// The forecast, and the main stream, whose client opens the tables' streams.
struct PlannedStreams<'a, K> {
    main: &'a K,
    record_bytes: usize,
    forecast: Forecast,
}

impl<K: Stream> StreamOpener for PlannedStreams<'_, K> {
    async fn open_stream(&mut self, name: &str) -> Result<usize, StreamError> {
        let (stream, info) = self.main.open(name, self.record_bytes).await?;
        self.forecast.add_stream(stream.name(), &info.shards);
        Ok(self.forecast.streams() - 1)
    }
}

struct Forecaster<'a, R, K> {
    reader: WindowReader<'a, R>,
    planned: PlannedStreams<'a, K>,
    routes: StreamRoutes,
    acknowledgements: Acknowledgements,
    barriers: Barriers,
    report: Report,
    /// Time at which reading ends.
    end: Instant,
}

impl<'a, R: PeekRow, K: Stream> Forecaster<'a, R, K> {
    fn new(reader: WindowReader<'a, R>, input: &PlanInput<'a, K>, began: Instant) -> Self {
        let PlanInput { stream, settings, .. } = *input;
        let limits = ForecastSettings {
            record_bytes: settings.record_bytes,
            aggregate_bytes: AGGREGATE_BYTES.min(settings.record_bytes),
            max_unacknowledged_bytes: settings.max_unacknowledged_bytes,
            names_keys: input.names_keys,
        };
        let forecast = Forecast::new(began, stream.name(), &settings.shards, limits);
        Forecaster {
            reader,
            planned: PlannedStreams {
                main: stream,
                record_bytes: settings.record_bytes,
                forecast,
            },
            routes: StreamRoutes::new(settings, stream.name()),
            acknowledgements: Acknowledgements::new(input.start.settled.into()),
            barriers: Barriers::default(),
            report: Report::default(),
            end: began + input.time,
        }
    }

    /// Adds the rows of a peek to the forecast.
    ///
    /// Stops at the window's row bound, or when the time is over. Returns whether the window was read to its
    /// end in the log.
    async fn read<S: Slot>(
        &mut self,
        slot: &mut S,
        peeked: &mut impl PeekRows<Row = R>,
        window: Window,
    ) -> Result<bool, Error> {
        let mut count = 0i32;
        // The server exceeds the row bound to complete a transaction. So the loop checks the bound, too.
        while count < window.rows {
            let row = match tokio::time::timeout_at(self.end.into(), peeked.next()).await {
                Ok(Ok(Some(row))) => row,
                Ok(Ok(None)) => return Ok(true),
                Err(_) | Ok(Err(SlotError::Timeout { .. })) => return Ok(false),
                Ok(Err(error)) => return Err(error.into()),
            };
            count += 1;
            if self.reader.push_row(row)? == ReaderNeed::LargeCommits {
                let commits = slot.large_commits(window, HOLD_BYTES / 2).await?;
                self.reader.add_large_commits(commits)?;
            }
            if !self.add_events(slot).await? {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Adds the events of the rows that were read.
    ///
    /// Returns false if a stream could not be opened before the end of the time.
    async fn add_events<S: Slot>(&mut self, slot: &mut S) -> Result<bool, Error> {
        let mut events = Vec::new();
        while self.reader.has_rows(None) {
            let mut out = ReaderOutput {
                acknowledgements: &mut self.acknowledgements,
                events: &mut events,
                barriers: &mut self.barriers,
                report: &mut self.report,
                chunk: None,
            };
            // A plan runs no backfill, so the reader requests no row lookup.
            if let Some(ReaderRequest::Tables(tables)) = self.reader.next(&mut out)? {
                slot.add_tables(self.reader.catalog_mut(), &tables).await?;
            }
            for mut event in events.drain(..) {
                let stream = self.routes.stream_of(&event.event, &mut self.planned, self.end);
                let Some(stream) = stream.await? else {
                    return Ok(false);
                };
                event.stream = stream;
                self.planned.forecast.add(event, REQUEST_LIMITS);
            }
        }
        Ok(true)
    }
}
