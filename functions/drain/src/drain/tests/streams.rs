//! Streams of tables. The sender opens each stream at its first event.

use super::super::sender::Sender;
use super::super::stream_routes::{StreamOpener as _, StreamRoutes};
use super::*;
use crate::base::position::Position;
use crate::change::{ColumnCoverage, Relation};
use crate::pack::QueuedEvent;
use crate::rules::stream_pattern::StreamPattern;

/// A sender whose streams have this number of shards.
///
/// The descriptions of the streams have one shard only.
fn sender(settings: &Settings, shards: u128) -> (Sender<FakeStream>, Log) {
    let log = Log::default();
    let stream = FakeStream {
        shards: ShardMap::even(shards),
        ..FakeStream::new(&log)
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    (Sender::new(stream, settings, Lsn(1).into(), deadline), log)
}

fn event(table: &str, number: u64) -> Event {
    let relation = Relation {
        table: TableName::new("public", table),
        columns: Vec::new(),
        primary_key: Vec::new(),
        coverage: ColumnCoverage::Whole,
        is_insert_only: false,
        partition_key_may_change: false,
    };
    Event {
        position: Position {
            commit_end: Lsn(number),
            lsn: Lsn(number),
            index: 0,
        },
        partition_key: number.to_string(),
        barrier: false,
        relation: Some(Arc::new(relation)),
        data: vec![0; 10],
        missing_bytes: 0,
        row_hash: None,
    }
}

fn settings_of_tables(aggregation: Aggregation) -> Settings {
    Settings {
        stream_pattern: StreamPattern::new("{table}"),
        ..settings(aggregation)
    }
}

/// Stream numbers of the tables with these names, in turn.
///
/// Each table's stream has the same name as the table.
async fn streams_of(tables: &[&str]) -> Result<Vec<usize>, StreamError> {
    let settings = settings_of_tables(Aggregation::None);
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut routes = StreamRoutes::new(&settings, "k".to_owned());
    let (mut sender, _) = sender(&settings, 1);
    let mut numbers = Vec::new();
    for table in tables {
        let stream = routes.stream_of(&event(table, 1), &mut sender, deadline).await?;
        numbers.push(stream.unwrap());
    }
    Ok(numbers)
}

#[tokio::test]
async fn tables_of_one_stream_have_its_number() {
    let numbers = streams_of(&["2000000", "3000000", "2000000", "k", "3000000"]).await;
    assert_eq!(numbers.unwrap(), [1, 2, 1, 0, 2]);
}

#[tokio::test]
async fn a_stream_that_cannot_be_used_is_named_with_its_table() {
    let long = "1".repeat(129);
    for (name, kind, text) in [
        (
            "1000",
            "StreamUnusable",
            "stream 1000 accepts records of 1000 bytes",
        ),
        ("Orders", "StreamMissing", "there is no stream Orders"),
        (&long, "StreamUnusable", "has 129 characters"),
    ] {
        let error = Error::Stream(streams_of(&["2000000", name]).await.unwrap_err());
        assert_eq!(error.name(), kind);
        let (chain, table) = (error.chain(), TableName::new("public", name).to_string());
        assert!(
            chain.contains(text) && chain.contains(&format!("changes of table {table} wait")),
            "{chain}"
        );
    }
}

#[tokio::test]
async fn a_stream_that_is_not_open_at_the_deadline_is_none() {
    let settings = settings_of_tables(Aggregation::None);
    let mut routes = StreamRoutes::new(&settings, "k".to_owned());
    let (mut sender, _) = sender(&settings, 1);
    let deadline = Instant::now() + Duration::from_millis(20);
    let slow = event("slow", 1);
    let number = routes.stream_of(&slow, &mut sender, deadline).await;
    assert_eq!(number.unwrap(), None);
}

/// Sends until every event is acknowledged. Returns the most requests that were in flight.
async fn send_all(sender: &mut Sender<FakeStream>) -> usize {
    let (mut report, mut most, mut requests) = (Report::default(), 0, 0usize);
    while !sender.is_done() {
        while sender.can_send_any() {
            sender.send(false);
            requests += 1;
        }
        most = most.max(requests);
        let answer = sender.next_answer().await.unwrap();
        requests = requests.saturating_sub(1);
        sender.apply_answer(answer, &mut report).unwrap();
        if let Some(at) = sender.next_try() {
            tokio::time::sleep_until(at.into()).await;
        }
    }
    most
}

fn push(sender: &mut Sender<FakeStream>, stream: usize, number: u64) {
    let span = sender.acknowledgements.begin();
    sender.acknowledgements.add_event(span);
    sender.acknowledgements.commit(span, Lsn(number));
    sender.push(QueuedEvent {
        event: event("t", number),
        span,
        change_positions: 1,
        stream,
    });
}

#[tokio::test]
async fn two_streams_may_be_resharded_at_once() {
    for aggregation in [Aggregation::None, Aggregation::Kpl { bytes: 1_000 }] {
        let settings = settings_of_tables(aggregation);
        let (mut sender, log) = sender(&settings, 2);
        for name in ["2000000", "3000000"] {
            sender.open_stream(name).await.unwrap();
        }
        for number in 2..102 {
            push(&mut sender, (number % 3) as usize, number);
        }
        send_all(&mut sender).await;
        assert_eq!(sender.acknowledgements.acknowledged(), Lsn(101));
        let arrived: BTreeSet<String> = log.arrived().into_iter().collect();
        assert_eq!(arrived.len(), 100, "{aggregation:?}");
    }
}

/// With four requests in flight, a few records wait.
#[tokio::test]
async fn a_stream_that_answers_slowly_does_not_delay_another() {
    let settings = settings_of_tables(Aggregation::None);
    let (mut sender, _) = sender(&settings, 1);
    for name in ["2000000", "3000000"] {
        sender.open_stream(name).await.unwrap();
    }
    for number in 2..6 {
        push(&mut sender, 1, number);
        sender.send(false);
    }
    for number in 6..16 {
        push(&mut sender, 1, number);
    }
    assert!(!sender.can_send_any());
    push(&mut sender, 2, 16);
    assert!(sender.can_send_any());
    sender.send(false);
    assert!(
        !sender.can_send_any(),
        "the record of the other stream was not sent"
    );
}

#[tokio::test]
async fn events_are_not_read_while_many_transactions_wait_for_an_earlier_one() {
    let settings = settings(Aggregation::None);
    let (mut sender, _) = sender(&settings, 1);
    push(&mut sender, 0, 2);
    // Transactions without events, such as those of other tables.
    for number in 3..50_000 {
        let span = sender.acknowledgements.begin();
        sender.acknowledgements.commit(span, Lsn(number));
    }
    assert!(!sender.has_room());
    send_all(&mut sender).await;
    assert!(sender.has_room());
    assert_eq!(sender.acknowledgements.acknowledged(), Lsn(49_999));
}

/// Otherwise, only the events of other shards are acknowledged.
#[tokio::test]
async fn no_more_is_read_than_a_limited_shard_accepts_before_the_deadline() {
    let settings = settings(Aggregation::Kpl { bytes: 1_000 });
    let stream = FakeStream {
        throttles: Arc::new(Mutex::new(vec!["2".to_owned()])),
        ..FakeStream::new(&Log::default())
    };
    let deadline = Instant::now() + Duration::from_millis(400);
    let mut sender = Sender::new(stream, &settings, Lsn(1).into(), deadline);
    for number in 2..32 {
        let span = sender.acknowledgements.begin();
        sender.acknowledgements.add_event(span);
        let mut event = event("t", number);
        event.data = vec![0; 10_000];
        sender.push(QueuedEvent {
            event,
            span,
            change_positions: 1,
            stream: 0,
        });
    }
    sender.update_bounds(Instant::now());
    assert!(sender.has_room(), "the shard has no limit");
    sender.send(false);
    let answer = sender.next_answer().await.unwrap();
    sender.apply_answer(answer, &mut Report::default()).unwrap();
    sender.update_bounds(Instant::now());
    assert!(!sender.has_room());
}

#[tokio::test]
async fn the_hot_rows_of_many_streams_are_sent_at_the_same_time() {
    let settings = settings_of_tables(Aggregation::None);
    let (mut sender, _) = sender(&settings, 1);
    for stream in 1..=12 {
        sender
            .open_stream(&(2_000_000 + stream).to_string())
            .await
            .unwrap();
    }
    for stream in 1..=12 {
        push(&mut sender, stream, 2 + stream as u64);
    }
    assert!(send_all(&mut sender).await >= 8);
}
