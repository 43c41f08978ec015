//! Tests of drains that end at a random moment.
//!
//! After each drain, the next drain starts. The stream and the checkpoint are in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::continuity::checkpoint::{Checkpoint, settings_hash};
use crate::encode::Event;
use crate::pack::{Acknowledgements, Aggregation, Lanes, QueuedEvent, Record, RequestLimits, ShardMap};

const KEYS: u8 = 6;

const LIMITS: RequestLimits = RequestLimits {
    records: 3,
    bytes: 1 << 20,
};

/// A change, with the keys of the rows that it concerns.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Insert(u8),
    Update(u8),
    KeyChange(u8, u8),
    Truncate,
    /// A logical message, which has the LSN of the next log record.
    Message,
}

/// The row of the model that stands for all messages.
const MESSAGES: u8 = KEYS;

#[derive(Debug, Clone, Copy)]
struct LoggedChange {
    /// The position of its first event. The positions of several rows of one log record differ in `index`.
    position: Position,
    kind: Kind,
}

/// Rules for the events of a change. The catalog may be different at the next drain.
#[derive(Debug, Clone, Copy)]
struct Form {
    /// Whether the rows' keys are unknown. All rows then have the partition key of the table.
    one_key: bool,
    /// Whether a key change has two events.
    splits: bool,
}

/// The transactions of a log: changes in their order, each with the end of its commit.
fn log() -> impl Strategy<Value = Vec<LoggedChange>> {
    let key = 0..KEYS;
    let records = prop_oneof![
        4 => key.clone().prop_map(|key| vec![Kind::Update(key)]),
        2 => prop::collection::vec(key.clone().prop_map(Kind::Insert), 1..4),
        1 => (key.clone(), key).prop_map(|(old, new)| vec![Kind::KeyChange(old, new)]),
        1 => Just(vec![Kind::Truncate]),
    ];
    let records = (prop::bool::weighted(0.2), records);
    let transactions = prop::collection::vec(prop::collection::vec(records, 1..4), 1..25);
    transactions.prop_map(|transactions| {
        let (mut changes, mut lsn) = (Vec::new(), 1_000);
        for records in transactions {
            let commit_end = Lsn(lsn + 100 * records.len() as u64 + 50);
            for (has_message, rows) in records {
                lsn += 100;
                let position = |index| Position {
                    commit_end,
                    lsn: Lsn(lsn),
                    index,
                };
                let message = has_message.then_some((0, Kind::Message));
                // The first index is even. So that of a change with two events is known from each of them.
                let first = if has_message { 2 } else { 0 };
                let kinds = message.into_iter().chain((first..).zip(rows));
                changes.extend(kinds.map(|(index, kind)| LoggedChange {
                    position: position(index),
                    kind,
                }));
            }
            lsn = commit_end.0;
        }
        changes
    })
}

/// The events of a change: their partition keys, whether they are barriers, and the keys of their rows.
fn events(change: &LoggedChange, form: Form) -> Vec<(String, bool, Vec<u8>)> {
    let key = |key: u8| match form.one_key {
        true => "table".to_owned(),
        false => format!("{key} of {form:?}"),
    };
    match change.kind {
        Kind::Insert(row) | Kind::Update(row) => vec![(key(row), false, vec![row])],
        Kind::KeyChange(old, new) if form.splits => {
            vec![(key(old), false, vec![old]), (key(new), false, vec![new])]
        }
        Kind::KeyChange(old, new) => vec![(key(new), true, vec![old, new])],
        Kind::Truncate => vec![(key(0), true, (0..KEYS).collect())],
        Kind::Message => vec![("messages".to_owned(), false, vec![MESSAGES])],
    }
}

/// Changes in the order of their arrival: a row's key, and the change's position.
type ArrivedChanges = Vec<(u8, Position)>;

/// One drain.
struct ModelDrain<'a> {
    lanes: Lanes,
    acknowledgements: Acknowledgements,
    flight: Vec<Record>,
    earlier: Option<AckAhead>,
    stored: &'a mut Checkpoint,
    stream: &'a mut ArrivedChanges,
}

fn marker() -> Marker {
    Marker {
        number: 1,
        nonce: String::new(),
        lsn: Lsn(u64::MAX),
        flushed: Lsn(u64::MAX),
    }
}

impl ModelDrain<'_> {
    fn queue(&mut self, change: &LoggedChange, form: Form, transaction: crate::pack::SpanId) {
        let has = match (&self.earlier, change.kind) {
            (None, _) => false,
            (Some(ahead), Kind::Insert(_)) => ahead.is_insert_acknowledged(change.position),
            (Some(ahead), Kind::Message) => ahead.is_message_acknowledged(change.position),
            (Some(ahead), _) => ahead.is_change_acknowledged(change.position),
        };
        if has {
            return;
        }
        let events = events(change, form);
        let change_positions = events.len() as u32;
        for (index, (partition_key, barrier, rows)) in (0..).zip(events) {
            let position = Position {
                index: change.position.index + index,
                ..change.position
            };
            self.acknowledgements.add_event(transaction);
            self.lanes.push(QueuedEvent {
                event: Event {
                    position,
                    partition_key,
                    barrier,
                    relation: None,
                    data: rows,
                    missing_bytes: 0,
                    row_hash: None,
                },
                span: transaction,
                change_positions,
                stream: 0,
            });
        }
    }

    /// Answers a record in flight.
    ///
    /// Depending on `fate`, the record does not arrive, arrives without an answer, or is acknowledged.
    /// Without an acknowledgement it is sent again.
    fn answer(&mut self, at: usize, is_slow: impl Fn(&Record) -> bool, fate: u8) {
        let record = self.flight.swap_remove(at % self.flight.len());
        if fate > 1 {
            for event in record.events() {
                let position = Position {
                    index: match event.change_positions {
                        1 => event.event.position.index,
                        _ => event.event.position.index & !1,
                    },
                    ..event.event.position
                };
                let rows = event.event.data.iter();
                self.stream.extend(rows.map(|row| (*row, position)));
            }
        }
        if fate <= 2 || is_slow(&record) {
            self.lanes.retry(Instant::now(), record, |_| Duration::ZERO);
            return;
        }
        for event in record.events() {
            self.acknowledgements.acknowledge(event.span);
        }
        self.lanes.acknowledge(Instant::now(), record);
    }

    fn store(&mut self) {
        let acknowledged = self.acknowledgements.acknowledged();
        let in_flight = self.flight.iter().flat_map(Record::events);
        let outstanding = self.lanes.outstanding(in_flight.map(QueuedEvent::outstanding));
        let ahead = outstanding
            .unwrap()
            .ack_ahead(acknowledged, self.earlier.as_ref(), Some(&marker()));
        *self.stored = Checkpoint {
            commit_end: acknowledged,
            ack_ahead: None,
            ..self.stored.clone()
        };
        if let Some(ahead) = ahead {
            *self.stored = self.stored.clone().with_ack_ahead(&ahead, &settings_hash(&[]));
        }
        *self.stored = Checkpoint::parse(&self.stored.to_text()).unwrap();
    }

    /// Reads the log, sends, answers and stores, in the order of `steps`.
    ///
    /// Records with an event of the row `slow` are never acknowledged.
    fn run(&mut self, log: &[LoggedChange], form: Form, slow: u8, steps: &[(u8, usize, u8)]) {
        let from = self.stored.commit_end;
        let mut log = log
            .iter()
            .filter(|change| change.position.commit_end > from)
            .peekable();
        let mut open = None;
        for (step, at, fate) in steps.iter().copied() {
            match step {
                0..5 => {
                    let Some(change) = log.next() else { continue };
                    let id = *open.get_or_insert_with(|| self.acknowledgements.begin());
                    self.queue(change, form, id);
                    let commit_end = change.position.commit_end;
                    if log
                        .peek()
                        .is_none_or(|next| next.position.commit_end > commit_end)
                    {
                        self.acknowledgements.commit(id, commit_end);
                        open = None;
                    }
                }
                5..7 => self
                    .flight
                    .extend(self.lanes.next_request(Instant::now(), LIMITS, false, |_| 1)),
                7..10 if !self.flight.is_empty() => {
                    let is_slow =
                        |record: &Record| record.events().iter().any(|it| it.event.data.contains(&slow));
                    self.answer(at, is_slow, fate);
                }
                7..10 => {}
                _ => self.store(),
            }
        }
    }
}

fn drain(
    stored: &mut Checkpoint,
    stream: &mut ArrivedChanges,
    aggregation: Aggregation,
    run: impl FnOnce(&mut ModelDrain<'_>),
) {
    let earlier = stored.ack_ahead(&settings_hash(&[])).map(Result::unwrap);
    run(&mut ModelDrain {
        lanes: Lanes::new(aggregation, ShardMap::even(2)),
        acknowledgements: Acknowledgements::new(stored.commit_end.into()),
        flight: Vec::new(),
        earlier,
        stored,
        stream,
    });
}

/// Changes of each key's row, in the order of first arrival.
fn first_arrivals(stream: &ArrivedChanges) -> BTreeMap<u8, Vec<Position>> {
    let (mut seen, mut arrivals) = (BTreeSet::new(), BTreeMap::<u8, Vec<Position>>::new());
    for (key, position) in stream {
        if seen.insert((*key, *position)) {
            arrivals.entry(*key).or_default().push(*position);
        }
    }
    arrivals
}

fn form() -> impl Strategy<Value = Form> {
    (any::<bool>(), any::<bool>()).prop_map(|(one_key, splits)| Form { one_key, splits })
}

fn steps() -> impl Strategy<Value = Vec<(u8, usize, u8)>> {
    prop::collection::vec((0u8..11, 0usize..9, 0u8..9), 0..250)
}

const STORED: &str = r#"{"version":1,"system_identifier":"7","timeline":1,"database":"d","slot":"s",
    "plugin":"pgoutput","commit_end":"0/1","updated_at":""}"#;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Drains that end at any moment lose no change.
    ///
    /// They also keep the order of each key. The next drain may have other partition keys, and another number
    /// of events for a change.
    ///
    /// The last arrivals of each change of a key have the same order. So a consumer that drops no duplicates
    /// has the right state in the end.
    #[test]
    fn a_change_that_is_not_sent_again_is_in_the_stream(
        log in log(),
        runs in prop::collection::vec((form(), 0..2 * KEYS, steps()), 1..4),
        last in form(),
        aggregation in prop_oneof![Just(Aggregation::None), Just(Aggregation::Kpl { bytes: 60 })],
    ) {
        let (mut stored, mut stream) = (Checkpoint::parse(STORED).unwrap(), ArrivedChanges::new());
        for (form, slow, steps) in runs {
            drain(&mut stored, &mut stream, aggregation, |drain| drain.run(&log, form, slow, &steps));
        }
        let rest: Vec<_> = (0..log.len()).map(|_| (0, 0, 0)).collect();
        drain(&mut stored, &mut stream, aggregation, |drain| {
            drain.run(&log, last, u8::MAX, &rest);
            while !drain.lanes.is_empty() {
                let request = drain.lanes.next_request(Instant::now(), LIMITS, false, |_| 1);
                drain.flight.extend(request);
                drain.answer(0, |_| false, 8);
            }
        });
        let mut expected: BTreeMap<u8, Vec<Position>> = BTreeMap::new();
        for change in &log {
            let rows = events(change, last).into_iter().flat_map(|(_, _, rows)| rows);
            for row in rows.collect::<BTreeSet<_>>() {
                expected.entry(row).or_default().push(change.position);
            }
        }
        prop_assert_eq!(&first_arrivals(&stream), &expected);
        stream.reverse();
        let mut last_arrivals = first_arrivals(&stream);
        last_arrivals.values_mut().for_each(|positions| positions.reverse());
        prop_assert_eq!(&last_arrivals, &expected);
    }
}

#[test]
fn the_first_change_that_is_acknowledged_in_part_is_the_bound() {
    let event = |commit_end: u64, index, change_positions| OutstandingEvent {
        position: Position {
            commit_end: Lsn(commit_end),
            lsn: Lsn(commit_end - 5),
            index,
        },
        change_positions,
    };
    let ahead = |events: &[OutstandingEvent]| {
        let outstanding = OutstandingEvents {
            events: events.to_vec(),
            queued_to: Some(event(100, 0, 1).position),
        };
        outstanding.ack_ahead(Lsn(1), None, Some(&marker())).unwrap()
    };
    let both = [event(20, 0, 1), event(30, 0, 2), event(30, 1, 2), event(40, 0, 1)];
    assert_eq!(ahead(&both).missing().len(), 4);
    assert_eq!(ahead(&both).bound().commit_end, Lsn(100));
    for part in [&both[..2], &[both[0], both[2]]] {
        assert_eq!(ahead(part).missing(), [both[0].position]);
        assert_eq!(ahead(part).bound(), both[1].position);
    }
    // A message, and one of the two events of the change that follows it.
    let mixed = [event(20, 0, 1), event(30, 0, 1), event(30, 1, 2)];
    assert_eq!(ahead(&mixed).missing(), [mixed[0].position]);
    assert_eq!(ahead(&mixed).bound(), mixed[1].position);
}
