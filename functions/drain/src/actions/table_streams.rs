//! The streams of the tables that are sent, if `STREAM_NAME` has a placeholder.

use std::collections::BTreeMap;

use super::app::App;
use crate::drain::MOST_STREAMS;
use crate::plugin::Plugin;
use crate::ports::{SlotError, Stream as _};
use crate::postgres::connection::{Connector, Session};
use crate::postgres::table_states::table_states;
use crate::sent_tables::Sending;
use crate::table_name::TableName;

/// A sentence for each stream that a table needs and that cannot be used, and one if there are too many.
///
/// A drain stops at the first change of such a table, until the stream can be used.
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
    let (publications, patterns) = (&config.publications, &config.tables);
    let states = table_states(connector, session, plugin, publications, patterns).await?;
    let sent = states.into_iter().filter(|state| state.sending == Sending::Sent);
    // The first table of each stream.
    let mut streams: BTreeMap<String, TableName> = BTreeMap::new();
    for state in sent {
        streams
            .entry(pattern.stream_of(&state.table))
            .or_insert(state.table);
    }
    streams.remove(&config.stream);
    let mut problems = Vec::new();
    let count = streams.len() + 1;
    if count > MOST_STREAMS {
        problems.push(format!(
            "STREAM_NAME={pattern} and MESSAGE_STREAM_NAME make {count} streams, and a drain writes to at most \
             {MOST_STREAMS}: a STREAM_NAME with {{schema}} only has fewer"
        ));
    }
    for (stream, table) in streams.iter().take(MOST_STREAMS) {
        if let Err(error) = app.stream.open(stream).await {
            problems.push(crate::error::Error::from(error.of_table(table)).chain());
        }
    }
    Ok(problems)
}
