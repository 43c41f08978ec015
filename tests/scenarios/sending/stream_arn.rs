//! Every request addresses a stream of another account by its ARN.

use scenarios::aws::fake_kinesis::FakeKinesisSettings;
use scenarios::aws::kinesis::REGION;
use scenarios::fixture::{Fixture, Plugin};
use serde_json::json;

crate::scenarios![a_stream_is_addressed_by_the_arn_or_the_name_that_is_set];

async fn a_stream_is_addressed_by_the_arn_or_the_name_that_is_set() {
    // ListShards has two pages.
    let settings = FakeKinesisSettings {
        shards: 3,
        page: 2,
        ..FakeKinesisSettings::default()
    };
    let mut fixture = Fixture::builder(Plugin::Pgoutput)
        .on_fake_kinesis(settings)
        .build()
        .await;
    fixture.sql("create table t (id int primary key)").await;
    fixture.sql("insert into t select generate_series(1, 9)").await;
    let arn = format!("arn:aws:kinesis:{REGION}:999999999999:stream/{}", fixture.stream);
    fixture.function.set("STREAM_NAME", &arn).await;
    fixture.drain().await;
    let status = fixture.status().await;
    assert_eq!(
        (&status["stream"], &status["problems"]),
        (&json!(arn), &json!([]))
    );
    assert_eq!(
        fixture.fake_kinesis().addresses(),
        [
            "DescribeStreamSummary StreamARN",
            "ListShards StreamARN",
            "ListShards of a later page StreamARN",
            "PutRecords StreamARN",
        ]
    );
    assert_eq!(fixture.compare(&["t"]).await.changes().len(), 9);
    // Kinesis accepts no name beside a token.
    let name = fixture.stream.clone();
    fixture.function.set("STREAM_NAME", &name).await;
    fixture.sql("insert into t values (10)").await;
    fixture.drain().await;
    let addresses = fixture.fake_kinesis().addresses();
    let names = addresses.iter().filter(|it| it.ends_with("StreamName"));
    assert_eq!(
        names.collect::<Vec<_>>(),
        [
            "DescribeStreamSummary StreamName",
            "ListShards StreamName",
            "PutRecords StreamName",
        ]
    );
    assert_eq!(fixture.compare(&["t"]).await.changes().len(), 10);
}
