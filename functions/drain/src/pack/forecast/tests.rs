use super::*;
use crate::base::lsn::Lsn;
use crate::base::position::Position;
use crate::encode::Event;
use crate::pack::Acknowledgements;

const LIMITS: RequestLimits = RequestLimits {
    records: 500,
    bytes: 10 << 20,
};

fn figures<K: Into<String>>(events: impl IntoIterator<Item = (K, usize)>) -> PlanFigures {
    figures_of(events.into_iter().map(|(key, size)| (key, size, 0)))
}

/// Figures of events, given by key, size and bytes of missing values.
fn figures_of<K: Into<String>>(events: impl IntoIterator<Item = (K, usize, usize)>) -> PlanFigures {
    let settings = ForecastSettings {
        record_bytes: 1 << 20,
        aggregate_bytes: 256 << 10,
        max_unacknowledged_bytes: 32 << 20,
        names_keys: true,
    };
    let mut forecast = Forecast::new(Instant::now(), "s".to_owned(), &ShardMap::even(2), settings);
    let mut acknowledgements = Acknowledgements::new(Lsn(0).into());
    let mut count = 0;
    for (key, size, missing_bytes) in events {
        count += 1;
        let key: String = key.into();
        let data = vec![b'x'; size - key.len()];
        let position = Position {
            commit_end: Lsn(count),
            lsn: Lsn(count),
            index: 0,
        };
        let event = Event {
            position,
            partition_key: key,
            barrier: false,
            relation: None,
            data,
            missing_bytes,
            row_hash: None,
        };
        let span = acknowledgements.begin();
        let queued = QueuedEvent {
            event,
            span,
            change_positions: 1,
            stream: 0,
        };
        forecast.add(queued, LIMITS);
    }
    forecast.finish(count, LIMITS)
}

#[test]
fn tables_beyond_the_first_thousand_have_one_sum() {
    // The number of bytes decides the order.
    let tables = |count: usize| figures((0..count).map(|at| (format!("table {at}"), 5_000 - at))).tables;
    assert_eq!(tables(1_000).len(), 1_000);
    assert_eq!(tables(1_000)[999].table, "table 999");
    let tables = tables(1_003);
    assert_eq!(tables.len(), 1_001);
    let rest = &tables[1_000];
    assert_eq!((rest.table.as_str(), rest.events, rest.keys), ("3 others", 3, 3));
    assert_eq!((rest.bytes, rest.largest_bytes), (4_000 + 3_999 + 3_998, 4_000));
}

#[test]
fn a_record_costs_whole_put_units_and_aggregates_share_them() {
    // The MD5 of "abc" is in the upper half of the hash keys.
    let figures = figures([("abc", 25_600), ("abc", 25_601), ("abc", 100), ("abc", 100)]);
    let (none, kpl) = (&figures.none, &figures.kpl);
    assert_eq!(
        (none.records, none.requests, none.put_units),
        (4, 4, 1 + 2 + 1 + 1)
    );
    assert_eq!(none.put_units_per_million_changes, 1_250_000.0);
    assert_eq!(none.usd_per_million_changes_provisioned, 0.0175);
    // 25, 26, 1 and 1 KB.
    assert_eq!(
        none.usd_per_million_changes_on_demand,
        rounded(53.0 * 1024.0 * 0.08 / 1e9 * 1e6 / 4.0)
    );
    assert_eq!((kpl.records, kpl.requests, kpl.put_units), (1, 1, 3));
    assert_eq!(
        (
            &*none.shards[0].shard,
            none.shards[0].records,
            none.shards[1].records
        ),
        ("1 of 2", 4, 0)
    );
    assert_eq!(figures.hottest_keys[0].share, 1.0);
}

#[test]
fn an_event_that_lacks_a_value_counts_as_oversize() {
    assert_eq!(figures_of([("a", 100, 0), ("a", 100, 300)]).oversize, 1);
}

#[test]
fn events_that_exceed_a_record_are_counted_as_oversize() {
    let limit = 1 << 20;
    let figures = figures([("a", limit - 1), ("a", limit), ("b", limit + 1)]);
    assert_eq!(figures.oversize, 1);
    let of = |key: &str| figures.tables.iter().find(|table| table.table == key).unwrap();
    assert_eq!(
        (of("a").oversize, of("b").oversize, of("b").largest_bytes),
        (0, 1, limit + 1)
    );
}

#[test]
fn a_shard_accepts_a_thousand_records_a_second() {
    let figures = figures((0..3000).map(|_| ("abc", 200)));
    assert_eq!(figures.none.seconds_at_capacity, 3.0);
    assert_eq!(figures.none.requests, 3000, "one record of a key at a time");
    assert!(figures.kpl.seconds_at_capacity < 0.6, "{:?}", figures.kpl);
}
