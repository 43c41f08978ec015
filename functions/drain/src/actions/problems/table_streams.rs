//! Streams of the sent tables, if `STREAM_NAME` has a placeholder.

use std::collections::BTreeMap;

use crate::actions::app::App;
use crate::base::table_name::TableName;
use crate::drain::{MAX_STREAMS, check_stream_name};
use crate::error::Error;
use crate::plugin::Plugin;
use crate::ports::{SlotError, Stream as _};
use crate::postgres::connection::{Connector, Session};
use crate::postgres::tables::event_tables::event_tables;
use crate::rules::pattern::matches_any;

/// Problems of the tables' streams, one sentence each.
///
/// The first 49 streams are checked, by name. There is a sentence for each of them that cannot be used, and
/// one if there are too many streams.
///
/// A drain stops before the first change of a table whose stream cannot be used.
///
/// # Errors
/// The tables cannot be listed.
pub(super) async fn stream_problems(
    app: &App,
    connector: &Connector,
    session: &Session,
    plugin: Plugin,
) -> Result<Vec<String>, SlotError> {
    let config = &app.config;
    let Some(pattern) = &config.stream_pattern else {
        return Ok(Vec::new());
    };
    // The first table of each stream.
    let mut streams: BTreeMap<String, TableName> = BTreeMap::new();
    for table in event_tables(connector, session, plugin, &config.publications).await? {
        if matches_any(&config.tables, &table) {
            streams.entry(pattern.stream_of(&table)).or_insert(table);
        }
    }
    streams.remove(&config.stream);
    let mut problems = Vec::new();
    let count = streams.len() + 1;
    if count > MAX_STREAMS {
        problems.push(format!(
            "STREAM_NAME={pattern} and MESSAGE_STREAM_NAME need {count} streams, and a drain writes to at \
             most {MAX_STREAMS}: use {{schema}} alone in STREAM_NAME, or drain some tables through another \
             slot"
        ));
    }
    let main = app.stream.usable_info().await;
    let record_bytes = main.map_or(0, |main| main.record_bytes);
    for (stream, table) in streams.iter().take(MAX_STREAMS - 1) {
        let checked = match check_stream_name(stream) {
            Ok(()) => app.stream.open(stream, record_bytes).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = checked {
            problems.push(Error::from(error.with_table(table)).chain());
        }
    }
    Ok(problems)
}
