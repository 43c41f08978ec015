//! Reshard of a stream that has three shards.

use scenarios::aws::kinesis::Kinesis;
use scenarios::fixture::DEADLINE;
use scenarios::wait;

/// First hash key of the upper half of a shard.
fn middle(shard: &aws_sdk_kinesis::types::Shard) -> String {
    let range = shard.hash_key_range().unwrap();
    let place = |text: &str| text.parse::<u128>().unwrap();
    let (first, last) = (place(range.starting_hash_key()), place(range.ending_hash_key()));
    (first + (last - first) / 2 + 1).to_string()
}

/// Splits the first of three shards, and merges the other two.
pub(crate) async fn reshard(kinesis: &Kinesis, stream: &str) {
    let shards = kinesis.shards(stream).await;
    let client = kinesis.client();
    let split = client
        .split_shard()
        .stream_name(stream)
        .shard_to_split(shards[0].shard_id());
    split
        .new_starting_hash_key(middle(&shards[0]))
        .send()
        .await
        .unwrap();
    let merge = client
        .merge_shards()
        .stream_name(stream)
        .shard_to_merge(shards[1].shard_id());
    let merged = || async {
        merge
            .clone()
            .adjacent_shard_to_merge(shards[2].shard_id())
            .send()
            .await
            .is_ok()
    };
    wait::until("the stream can be resharded once more", DEADLINE, merged).await;
    let open = || async {
        let all = kinesis.shards(stream).await;
        let open = all.iter().filter(|shard| {
            shard
                .sequence_number_range()
                .is_none_or(|range| range.ending_sequence_number().is_none())
        });
        open.count() == 3
    };
    wait::until("the stream is resharded", DEADLINE, open).await;
}
