//! Events of the wal2json envelope.

use serde_json::{Value, json};

use super::*;

#[test]
fn a_truncate_and_a_message_are_actions_of_wal2json() {
    let events = encode(&wal2json(), &[truncate(), message()]);
    let expected = json!({"action": "T", "xid": 7, "timestamp": "2023-11-14 22:13:20.123456+00",
        "lsn": "0/10", "schema": "public", "table": "t", "position": position(16, 0)});
    assert_eq!(parsed(&events[0]), expected);
    let expected = json!({"action": "M", "xid": 7, "timestamp": "2023-11-14 22:13:20.123456+00",
        "lsn": "0/11", "transactional": true, "prefix": "p", "content": "/zE=", "encoding": "base64",
        "position": position(17, 0)});
    assert_eq!(parsed(&events[1]), expected);
}

#[test]
fn a_message_outside_any_transaction_is_not_transactional_in_wal2json() {
    let event = parsed(&wal2json().encode_message(OUTSIDE, &logical_message(), NOW));
    assert_eq!(
        (&event["xid"], &event["transactional"]),
        (&Value::Null, &json!(false))
    );
}
