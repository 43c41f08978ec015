//! Assignment of events to the recorded changes of the server.

use crate::consumer::Arrival;
use crate::consumer::event::Event;
use crate::fixture::Plugin;

use super::recorded_table::{RecordedChange, RecordedTable, Recording};

/// Event with its partition key.
#[derive(Debug)]
pub(super) struct ParsedArrival {
    pub(super) event: Event,
    pub(super) partition_key: String,
    /// Text of the event, for the report.
    pub(super) text: String,
}

impl ParsedArrival {
    /// Event of an arrival.
    pub(super) fn of(arrival: &Arrival) -> Self {
        Self {
            event: arrival.event(),
            partition_key: arrival.partition_key.clone(),
            text: String::from_utf8_lossy(&arrival.data).trim_end().to_owned(),
        }
    }

    fn is_of(&self, name: &str) -> bool {
        self.event.source.table.as_deref() == Some(name)
    }
}

/// A change with its events: one, or the delete and the create of a key change.
#[derive(Debug)]
pub(super) struct AlignedChange<'t> {
    pub(super) change: &'t RecordedChange,
    /// Relation that the events name: the table, or a root.
    pub(super) event_table: &'t RecordedTable,
    pub(super) events: Vec<&'t ParsedArrival>,
}

/// Assigns the events of a plugin to the changes.
///
/// The events are in the order of positions. Returns the assigned changes, and the first difference, which
/// ends the assignment.
pub(super) fn align<'t>(
    recording: &'t Recording,
    plugin: Plugin,
    events: &[&'t ParsedArrival],
) -> (Vec<AlignedChange<'t>>, Option<String>) {
    let mut aligned = Vec::new();
    let (mut next, mut changes) = (
        0,
        recording
            .changes
            .iter()
            .filter(|change| change.op != 'r')
            .peekable(),
    );
    while let Some(change) = changes.next() {
        if change.op == 't' {
            let mut truncated = vec![change];
            // Truncates are one group if the plugin sends no change between them.
            let is_next =
                |more: &&RecordedChange| more.op == 't' || sent_as(recording, plugin, more).is_none();
            while let Some(more) = changes.next_if(is_next) {
                truncated.extend((more.op == 't').then_some(more));
            }
            match truncates(recording, plugin, &truncated, &events[next..]) {
                Ok(used) => next += used,
                Err(reason) => return (aligned, Some(reason)),
            }
            continue;
        }
        let Some(event_table) = sent_as(recording, plugin, change) else {
            continue;
        };
        // After a root is renamed, pgoutput still sends the old name for partitions that it decoded before.
        let names = match plugin {
            Plugin::Pgoutput => recording.names_of(event_table.relation),
            Plugin::Wal2json | Plugin::TestDecoding => vec![&*event_table.name],
        };
        let found = split(change, &names, &events[next..]);
        if found.is_empty() {
            let got = events.get(next).map_or("nothing", |event| &event.text);
            let reason =
                format!("the event of a change is missing\n  change {change:?}\n  the next event is {got}");
            return (aligned, Some(reason));
        }
        next += found.len();
        aligned.push(AlignedChange {
            change,
            event_table,
            events: found,
        });
    }
    let more = events
        .get(next)
        .map(|event| format!("an event without a change\n  {}", event.text));
    (aligned, more)
}

/// Relation that the events of a change name.
///
/// `None` if the plugin sends no event.
fn sent_as<'t>(
    recording: &'t Recording,
    plugin: Plugin,
    change: &'t RecordedChange,
) -> Option<&'t RecordedTable> {
    let table = &change.table;
    match plugin {
        Plugin::Pgoutput => {
            let publication = table.publication.as_ref()?;
            let sent = match change.op {
                'i' => publication.insert,
                'u' => publication.update,
                _ => publication.delete,
            };
            recording
                .published_table(table)
                .filter(|_| sent)
                .map(|table| &**table)
        }
        // wal2json drops updates and deletes of a table without a replica identity, with a warning.
        Plugin::Wal2json if change.op != 'i' && !table.is_identified() => None,
        Plugin::Wal2json | Plugin::TestDecoding => Some(table),
    }
}

/// The first events, if they belong to this change; otherwise none.
fn split<'t>(
    change: &RecordedChange,
    names: &[&str],
    events: &[&'t ParsedArrival],
) -> Vec<&'t ParsedArrival> {
    let op = |at: usize| {
        events
            .get(at)
            .filter(|event| names.iter().any(|name| event.is_of(name)))
            .map(|event| &*event.event.op)
    };
    let count = match (change.op, op(0), op(1)) {
        ('i', Some("c"), _) | ('u', Some("u"), _) | ('d', Some("d"), _) => 1,
        ('u', Some("d"), Some("c")) => 2,
        _ => 0,
    };
    events[..count].to_vec()
}

/// Number of leading truncate events; `Err` if a truncate is missing.
fn truncates(
    recording: &Recording,
    plugin: Plugin,
    truncated: &[&RecordedChange],
    events: &[&ParsedArrival],
) -> Result<usize, String> {
    let is_about = |event: &ParsedArrival, change: &RecordedChange| {
        let names = recording.names_of(change.table.relation);
        event.event.op == "t" && names.iter().any(|name| event.is_of(name))
    };
    let is_of_any = |event: &&&ParsedArrival| truncated.iter().any(|change| is_about(event, change));
    let used = events.iter().take_while(is_of_any).count();
    let (got, rest) = events.split_at(used);
    let is_sent = |change: &RecordedChange| match (plugin, &change.table.publication) {
        (Plugin::Pgoutput, Some(publication)) => {
            publication.truncate && publication.relation == change.table.relation
        }
        (Plugin::Pgoutput, None) => false,
        _ => change.table.kind == "r",
    };
    let mut sent = truncated.iter().filter(|change| is_sent(change));
    match sent.find(|change| !got.iter().any(|event| is_about(event, change))) {
        Some(missing) => {
            let next = rest.first().map_or("nothing", |event| &event.text);
            let name = &missing.table.name;
            Err(format!(
                "the truncate of {name} is missing\n  the next event is {next}"
            ))
        }
        None => Ok(used),
    }
}
