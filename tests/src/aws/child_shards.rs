//! `ChildShards` in the answers of GetRecords, which ferrokinesis lacks.
//!
//! Kinesis names the children of a closed shard in the last answer of that shard. Without them KCL takes the
//! answer for an error, and asks again without end.

use axum::body::{Body, HttpBody as _, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::CONTENT_LENGTH;
use axum::middleware::Next;
use axum::response::Response;
use ferrokinesis::shard_iterator::decode_shard_iterator;
use ferrokinesis::store::Store;
use serde_json::{Value, json};

/// Size of an answer without records, at most. The last answer of a shard has none.
const MAX_WITHOUT_RECORDS: u64 = 500;

/// Middleware in front of the emulator. It changes answers in JSON only.
pub(crate) async fn add(State(store): State<Store>, request: Request, next: Next) -> Response {
    let target = request.headers().get("x-amz-target");
    if target.is_none_or(|target| !target.as_bytes().ends_with(b".GetRecords")) {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    let asked = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let request = Request::from_parts(head, Body::from(asked.clone()));
    let answer = next.run(request).await;
    let is_short = answer.body().size_hint().upper();
    if !answer.status().is_success() || is_short.is_none_or(|size| size > MAX_WITHOUT_RECORDS) {
        return answer;
    }
    let (mut head, body) = answer.into_parts();
    let mut body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    if let Some(with_children) = with_children(&store, &asked, &body).await {
        head.headers.remove(CONTENT_LENGTH);
        body = with_children.into();
    }
    Response::from_parts(head, Body::from(body))
}

/// Answer with the children of its shard.
///
/// `None` if the shard continues, or if `answer` is not JSON.
async fn with_children(store: &Store, asked: &[u8], answer: &[u8]) -> Option<Vec<u8>> {
    let mut answer: Value = serde_json::from_slice(answer).ok()?;
    if answer.get("NextShardIterator").is_some() {
        return None;
    }
    let asked: Value = serde_json::from_slice(asked).ok()?;
    let (_, stream, shard, _) = decode_shard_iterator(asked["ShardIterator"].as_str()?).ok()?;
    let shards = store.get_stream(&stream).await.ok()?.shards;
    let mut children = Vec::new();
    for child in shards {
        let parents = [child.parent_shard_id, child.adjacent_parent_shard_id];
        let parents: Vec<String> = parents.into_iter().flatten().collect();
        if parents.contains(&shard) {
            children.push(json!({
                "ShardId": child.shard_id, "ParentShards": parents, "HashKeyRange": child.hash_key_range,
            }));
        }
    }
    answer["ChildShards"] = Value::Array(children);
    serde_json::to_vec(&answer).ok()
}
