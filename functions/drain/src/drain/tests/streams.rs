//! Streams of tables, which the sender opens at their first event.

use super::super::stream_routes::StreamRoutes;
use super::*;
use crate::change::{ColumnCoverage, Relation};
use crate::stream_pattern::StreamPattern;

/// Numbers of the streams of tables with these names in turn, if each name is also that of the stream.
async fn streams_of(tables: &[&str]) -> Result<Vec<usize>, StreamError> {
    let stream = FakeStream {
        log: Log::default(),
        throttles: Arc::default(),
        stuck: None,
        shards: ShardMap::even(1),
        stale_lists: Arc::default(),
    };
    let settings = Settings {
        stream_pattern: StreamPattern::new("{table}"),
        ..settings(Aggregation::None)
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut routes = StreamRoutes::new(&settings, "k".to_owned());
    let mut sender = Sender::new(stream, &settings, Lsn(1).into(), deadline);
    let mut numbers = Vec::new();
    for table in tables {
        let relation = Relation {
            table: TableName::new("public", *table),
            columns: Vec::new(),
            primary_key: Vec::new(),
            coverage: ColumnCoverage::Whole,
            is_insert_only: false,
            rows_may_move: false,
        };
        let event = Event {
            position: crate::position::Position {
                commit_end: Lsn(1),
                lsn: Lsn(1),
                index: 0,
            },
            partition_key: "k".into(),
            barrier: false,
            relation: Some(Arc::new(relation)),
            data: Vec::new(),
            missing_bytes: 0,
            row: None,
        };
        numbers.push(routes.stream_of(&event, &mut sender, deadline).await?);
    }
    Ok(numbers)
}

#[tokio::test]
async fn tables_of_one_stream_have_its_number() {
    let numbers = streams_of(&["2000000", "3000000", "2000000", "k", "3000000"]).await;
    assert_eq!(numbers.unwrap(), [1, 2, 1, 0, 2]);
}

#[tokio::test]
async fn a_stream_with_smaller_records_is_refused() {
    let error = streams_of(&["2000000", "1000"]).await.unwrap_err();
    assert_eq!(error.name(), "StreamUnusable");
    let expected = "stream 1000 accepts records of 1000 bytes, and stream k of 1048576: set the maximum record \
                    size of 1000 to that of k";
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_missing_stream_is_named_with_its_table() {
    let error = streams_of(&["Orders"]).await.unwrap_err();
    assert_eq!(error.name(), "StreamMissing");
    assert!(
        error
            .to_string()
            .contains(r#"stream Orders for the rows of table public."Orders""#),
        "{error}"
    );
}
