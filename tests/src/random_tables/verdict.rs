//! Comparison of a round's events with the recording.
//!
//! Backfills are also compared with logs, and the plugins with each other.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use crate::consumer::event::{Envelope, Row, UNAVAILABLE};
use crate::fixture::Plugin;

use super::alignment::{AlignedChange, ParsedArrival, align};
use super::event_checks::{self, EventContext, KeyColumns, RowIdentity};
use super::recorded_table::{RecordedChange, RecordedTable, Recording, RowTexts};
use super::result::{Failure, RoundCounts};

/// Events of one plugin in one round, in the order of positions.
#[derive(Debug)]
pub(super) struct PluginEvents {
    pub(super) plugin: Plugin,
    pub(super) events: Vec<ParsedArrival>,
    /// Names of the tables that its backfill read.
    pub(super) backfilled: Vec<String>,
}

/// Round with its events.
#[derive(Debug)]
pub(super) struct FinishedRound {
    pub(super) recording: Recording,
    pub(super) plugins: Vec<PluginEvents>,
    /// [`RecordedChange::seq`] of the last change before the drain.
    pub(super) drained: i64,
    /// [`RecordedTable::catalog_version`] of the tables at the drain.
    pub(super) catalog_version: i32,
    /// Version of the server.
    pub(super) version: u32,
}

/// Most failures that are reported for one round.
const MAX_FAILURES: usize = 12;
/// Limit of reported failures of one kind in one round.
///
/// Without it, they would hide another kind.
const MAX_OF_A_KIND: usize = 3;

/// Image of a row in the events of one plugin.
///
/// It is compared with those of other plugins.
struct SentImage<'t> {
    event: &'t ParsedArrival,
    context: EventContext<'t>,
}

/// Checks a round. Returns its failures, and adds to the counts.
pub(super) fn check_round(round: &FinishedRound, counts: &mut RoundCounts) -> Vec<Failure> {
    let mut checks = RoundChecks {
        round,
        counts,
        images: BTreeMap::new(),
        failures: Vec::new(),
    };
    for plugin in &round.plugins {
        let mut log = LogRows::default();
        if checks.check_log(plugin, &mut log) {
            checks.check_backfill(plugin, log);
        }
    }
    let differences = checks
        .images
        .values()
        .filter_map(|images| compare_plugins(images));
    let mut failures: Vec<Failure> = differences.collect();
    failures.splice(0..0, checks.failures);
    let mut by_kind: HashMap<String, usize> = HashMap::new();
    failures.retain(|failure| {
        let count = by_kind.entry(failure.kind.clone()).or_default();
        *count += 1;
        *count <= MAX_OF_A_KIND
    });
    failures.truncate(MAX_FAILURES);
    failures
}

/// The live events of a plugin: the last event of each version of a row, and the keys.
#[derive(Default)]
struct LogRows<'t> {
    /// Events by the definition of the table, and the row.
    events: HashMap<(String, &'t RowTexts), (&'t ParsedArrival, EventContext<'t>)>,
    keys: RowIdentities,
}

/// Definition of a table as text, without its version of the catalog.
fn definition(table: &RecordedTable, event_table: &RecordedTable) -> String {
    format!(
        "{:?} {:?} {:?} {:?}",
        table.columns, event_table.name, event_table.key, table.publication
    )
}

/// State of the checks of a round.
struct RoundChecks<'t> {
    round: &'t FinishedRound,
    counts: &'t mut RoundCounts,
    /// Events of each change.
    images: BTreeMap<i64, Vec<SentImage<'t>>>,
    failures: Vec<Failure>,
}

impl<'t> RoundChecks<'t> {
    /// Compares the live events of a plugin with the changes.
    ///
    /// The result is false if the events cannot be assigned.
    fn check_log(&mut self, plugin: &'t PluginEvents, log: &mut LogRows<'t>) -> bool {
        let live: Vec<&ParsedArrival> = plugin.events.iter().filter(|it| it.event.op != "r").collect();
        let (aligned, broken) = align(&self.round.recording, plugin.plugin, &live);
        self.counts.changes += aligned.len() as u64;
        self.counts.events += plugin.events.len() as u64;
        for change in &aligned {
            let context = self.round.context(plugin.plugin, change);
            self.failures.extend(context.check(&change.events));
            for event in &change.events {
                self.failures.extend(log.keys.add(&context, event));
            }
            let Some(last) = change.events.last() else {
                continue;
            };
            self.add_image(last, context);
            if let Some(new) = &change.change.new {
                let definition = definition(&change.change.table, change.event_table);
                log.events.insert((definition, new), (last, context));
            }
        }
        let is_whole = broken.is_none();
        self.failures.extend(broken.map(|detail| Failure {
            kind: format!("{}: events and changes differ", plugin.plugin.name()),
            detail: event_checks::shortened(&detail),
        }));
        is_whole
    }

    fn add_image(&mut self, event: &'t ParsedArrival, context: EventContext<'t>) {
        let images = self.images.entry(context.change.seq).or_default();
        images.push(SentImage { event, context });
    }

    /// Compares backfilled rows with the server's rows and the log's events.
    fn check_backfill(&mut self, plugin: &'t PluginEvents, mut log: LogRows<'t>) {
        let round = self.round;
        let rows = round.recording.changes.iter().filter(|change| change.op == 'r');
        let mut rows: Vec<EventContext<'t>> = rows
            .filter_map(|change| round.read_context(plugin.plugin, change))
            .filter(|context| plugin.backfilled.contains(&context.event_table.name))
            .collect();
        for event in plugin.events.iter().filter(|event| event.event.op == "r") {
            let table = event.event.source.table.as_deref();
            let candidates = rows.iter().enumerate();
            let candidates = candidates.filter(|(_, row)| Some(&*row.event_table.name) == table);
            let compared = candidates.map(|(index, row)| (row.check(&[event]), index));
            let Some((wrong, index)) = compared.min_by_key(|(wrong, _)| wrong.len()) else {
                self.failures.push(Failure {
                    kind: format!("{}: a backfilled row that does not exist", plugin.plugin.name()),
                    detail: event_checks::shortened(&event.text),
                });
                continue;
            };
            let context = rows.swap_remove(index);
            self.failures
                .extend(wrong.into_iter().map(|failure| failure.of("backfill")));
            self.check_read(event, context, &mut log);
        }
        for row in rows {
            self.failures.push(Failure {
                kind: format!("{}: a row that the backfill lacks", plugin.plugin.name()),
                detail: event_checks::shortened(&format!("{:?}", row.change)),
            });
        }
    }

    /// Compares a row of a backfill with the log's event of it.
    fn check_read(&mut self, event: &'t ParsedArrival, context: EventContext<'t>, log: &mut LogRows<'t>) {
        self.counts.reads += 1;
        self.failures.extend(log.keys.add(&context, event));
        let definition = definition(&context.change.table, context.event_table);
        let row = context.change.new.as_ref();
        if let Some((logged, logged_context)) = row.and_then(|row| log.events.get(&(definition, row))) {
            self.counts.compared += 1;
            let differences = differ(&context, event, logged, logged_context);
            self.failures
                .extend(differences.map(|failure| failure.of("backfill and log")));
        }
        self.add_image(event, context);
    }
}

impl FinishedRound {
    fn context<'t>(&self, plugin: Plugin, aligned: &AlignedChange<'t>) -> EventContext<'t> {
        let is_drained = aligned.change.seq <= self.drained;
        let catalog_version = match is_drained {
            true => self.catalog_version,
            false => i32::MAX,
        };
        let (recording, table, event_table) = (&self.recording, &aligned.change.table, aligned.event_table);
        EventContext {
            plugin,
            change: aligned.change,
            event_table,
            undisturbed: recording.is_undisturbed(table, catalog_version),
            all_log_old_key: recording.all_log_old_key(table, event_table),
            is_insert_only: recording.is_insert_only(table, event_table),
            may_lack_generated: self.may_lack_generated(plugin, event_table, catalog_version),
        }
    }

    /// Whether the drain cannot learn that the table has a generated column.
    ///
    /// pgoutput does not send such columns before PostgreSQL 18, and the catalog lacks a table that was
    /// dropped.
    fn may_lack_generated(&self, plugin: Plugin, event_table: &RecordedTable, catalog_version: i32) -> bool {
        let mut tables = self.recording.at(catalog_version);
        let is_dropped = tables.all(|it| it.relation != event_table.relation);
        plugin == Plugin::Pgoutput && self.version < 18 && is_dropped
    }

    /// Context of a row that a backfill reads.
    ///
    /// `None` if the plugin does not send its table.
    fn read_context<'t>(&'t self, plugin: Plugin, change: &'t RecordedChange) -> Option<EventContext<'t>> {
        let event_table: &RecordedTable = match plugin {
            Plugin::Pgoutput => self.recording.published_table(&change.table)?,
            Plugin::Wal2json | Plugin::TestDecoding => &change.table,
        };
        Some(EventContext {
            plugin,
            change,
            event_table,
            undisturbed: true,
            all_log_old_key: self.recording.all_log_old_key(&change.table, event_table),
            is_insert_only: self.recording.is_insert_only(&change.table, event_table),
            may_lack_generated: false,
        })
    }
}

/// Partition keys of events, each with the key of its row.
#[derive(Debug, Default)]
struct RowIdentities(HashMap<(String, String), RowIdentity>);

impl RowIdentities {
    /// Adds an event. Returns a failure if an earlier row with another key has the same partition key.
    fn add(&mut self, context: &EventContext<'_>, event: &ParsedArrival) -> Option<Failure> {
        let event_table = context.event_table;
        let row = match event.event.op.as_str() {
            "d" => context.change.old.as_ref(),
            _ => context.change.new.as_ref(),
        }?;
        if event_checks::is_table_key(event) {
            return None;
        }
        let columns = match context.key_columns(event) {
            KeyColumns::Known(columns) => columns,
            // `EventContext::check` reports this failure.
            KeyColumns::Unknown => return None,
            KeyColumns::Hashed => event_table.key.clone(),
        };
        let identity = context.row_identity(&columns, row);
        // DMS joins the values of a key with periods.
        let is_ambiguous = event.event.envelope == Envelope::Dms && identity.has_period();
        if is_ambiguous || context.is_reduced_key(&columns) {
            return None;
        }
        let key = (
            format!("{:?} {columns:?}", event_table.name),
            event.partition_key.clone(),
        );
        let earlier = self.0.entry(key).or_insert_with(|| identity.clone());
        earlier.is_other_row(&identity).then(|| {
            let mut failure = context.failure("two rows share a key", event, "");
            failure.detail.push_str(&event_checks::shortened(&format!(
                "\n  the other row is {earlier:?}"
            )));
            failure
        })
    }
}

/// Compares the plugins' events of one change.
fn compare_plugins(images: &[SentImage<'_>]) -> Option<Failure> {
    let (first, others) = images.split_first()?;
    others.iter().find_map(|other| {
        let failure = differ(&first.context, first.event, other.event, &other.context)?;
        Some(failure.of(&format!("compared with {}", other.context.plugin.name())))
    })
}

/// Reports a difference between two events of the same row.
///
/// The difference is in a column or a key that both events have.
fn differ(
    context: &EventContext<'_>,
    one: &ParsedArrival,
    other: &ParsedArrival,
    other_context: &EventContext<'_>,
) -> Option<Failure> {
    let image = |event: &ParsedArrival| match event.event.op.as_str() {
        "d" => event.event.before.clone(),
        _ => event.event.after.clone(),
    };
    let (ours, theirs): (Row, Row) = (image(one).unwrap_or_default(), image(other).unwrap_or_default());
    let is_known = |value: &Value| value != UNAVAILABLE && !value.is_null();
    let column = ours.iter().find_map(|(name, value)| {
        let theirs = theirs.get(name)?;
        (value != theirs && is_known(value) && is_known(theirs)).then_some(name)
    });
    let same_name = context.event_table.name == other_context.event_table.name
        && context.event_table.key == other_context.event_table.key;
    let is_keyed = |event: &ParsedArrival| !event_checks::is_table_key(event);
    // A key of DMS has the name of the table. The server may send a former name of a renamed root.
    let same_form = one.event.envelope != Envelope::Dms || one.event.table() == other.event.table();
    let other_key = same_name
        && same_form
        && context.undisturbed
        && other_context.undisturbed
        && is_keyed(one)
        && is_keyed(other)
        && one.partition_key != other.partition_key;
    let kind = match (column, other_key) {
        (Some(name), _) => {
            let kind = context
                .change
                .table
                .column(name)
                .map_or("?", |column| &column.type_name);
            format!(
                "another form of a value ({})",
                kind.rsplit('.').next().unwrap_or_default()
            )
        }
        (None, true) => "another key".to_owned(),
        (None, false) => return None,
    };
    let mut failure = context.failure(&kind, one, column.map_or("", String::as_str));
    let text = format!(
        "\n  the other event is {} with the key {}",
        other.text, other.partition_key
    );
    failure.detail.push_str(&event_checks::shortened(&text));
    Some(failure)
}
