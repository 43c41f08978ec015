//! Tables that were sent at the last check and are not now.

use std::time::{Duration, Instant};

use super::app::App;
use crate::drain::Settings;
use crate::error::Error;
use crate::plugin::Plugin;
use crate::ports::StateStore as _;
use crate::postgres::connection::{Connector, Session};
use crate::postgres::server;
use crate::postgres::tables::table_states::table_states;
use crate::rules::sent_tables::SentTables;

/// Time between two checks of one execution environment.
///
/// A database of 20,000 tables needs 0.1 s for one, and one of 20,000 partitions 0.4 s.
const CHECK_INTERVAL: Duration = Duration::from_secs(600);

/// Result of a check.
#[derive(Debug, Default)]
pub(super) struct TablesNoLongerSent {
    /// A sentence for each table that left.
    pub(super) sentences: Vec<String>,
    /// The document to store, if it differs from the stored one.
    changed: Option<SentTables>,
}

/// Compares the tables that are sent now with the stored ones. Changes nothing.
///
/// # Errors
/// PostgreSQL or SSM refused.
pub(super) async fn check(
    app: &App,
    connector: &Connector,
    session: &Session,
    plugin: Plugin,
) -> Result<TablesNoLongerSent, Error> {
    let (publications, patterns) = (&app.config.publications, &app.config.tables);
    // Each table of a missing publication would be reported. The publication itself is.
    if plugin.reads_publications()
        && !server::missing_publications(connector, session, publications)
            .await?
            .is_empty()
    {
        return Ok(TablesNoLongerSent::default());
    }
    let states = table_states(connector, session, plugin, publications, patterns).await?;
    let stored = app.sent_tables.text().await?;
    // An unreadable document is replaced, as a missing one is written: it only serves this comparison.
    let stored = stored.and_then(|text| SentTables::parse(&text).ok());
    let Some(now) = SentTables::of(&states) else {
        return Ok(TablesNoLongerSent::default());
    };
    Ok(TablesNoLongerSent {
        sentences: stored
            .as_ref()
            .map(|stored| stored.no_longer_sent(&states))
            .unwrap_or_default(),
        changed: Some(now).filter(|now| stored.as_ref() != Some(now)),
    })
}

/// Warns once of each table that left.
///
/// Stores the tables that are sent now. Returns the number of tables that left.
///
/// A failed check costs no drain: the next one tries again.
pub(super) async fn warn(app: &App, connector: &Connector, session: &Session, settings: &Settings) -> u64 {
    if !app.is_check_due(CHECK_INTERVAL, Instant::now()) {
        return 0;
    }
    let checked = async {
        let TablesNoLongerSent { sentences, changed } =
            check(app, connector, session, settings.plugin).await?;
        if let Some(changed) = changed {
            app.sent_tables.store(changed.to_text()).await?;
        }
        Ok::<_, Error>(sentences)
    };
    match checked.await {
        Ok(sentences) => {
            for sentence in &sentences {
                tracing::warn!(slot = settings.slot, "{sentence}");
            }
            sentences.len() as u64
        }
        Err(error) => {
            let error = error.chain();
            tracing::warn!(
                slot = settings.slot,
                error,
                "the tables that are sent were not checked"
            );
            0
        }
    }
}
