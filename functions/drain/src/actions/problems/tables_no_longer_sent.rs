//! Tables that are no longer sent since the last check.

use std::time::{Duration, Instant};

use crate::actions::app::App;
use crate::drain::Settings;
use crate::error::Error;
use crate::plugin::Plugin;
use crate::ports::StateStore as _;
use crate::postgres::connection::{Connector, Session};
use crate::postgres::server;
use crate::postgres::tables::table_states::table_states;
use crate::rules::sent_tables::{SentTables, TablesNoLongerSent};

/// Least time between two checks of one sandbox.
///
/// One check takes 0.1 s with 20,000 tables, and 0.4 s with 20,000 partitions.
const CHECK_INTERVAL: Duration = Duration::from_secs(600);

/// Result of a check.
#[derive(Debug, Default)]
pub(in crate::actions) struct SentTablesCheck {
    pub(in crate::actions) no_longer_sent: TablesNoLongerSent,
    /// The document to store, if it differs from the stored one.
    changed: Option<SentTables>,
}

/// Compares the tables that are sent now with the stored ones. Stores nothing.
///
/// # Errors
/// A request to PostgreSQL or SSM failed.
pub(in crate::actions) async fn check(
    app: &App,
    connector: &Connector,
    session: &Session,
    plugin: Plugin,
) -> Result<SentTablesCheck, Error> {
    let (publications, patterns) = (&app.config.publications, &app.config.tables);
    // The missing publication is reported elsewhere. Otherwise each of its tables would be reported here.
    if plugin.reads_publications()
        && !server::missing_publications(connector, session, publications)
            .await?
            .is_empty()
    {
        return Ok(SentTablesCheck::default());
    }
    let states = table_states(connector, session, plugin, publications, patterns).await?;
    let stored = app.sent_tables.text().await?;
    // Only this comparison uses the document. So an unreadable one counts as missing, and is replaced.
    let stored = stored.and_then(|text| SentTables::parse(&text).ok());
    let Some(now) = SentTables::of(&states) else {
        return Ok(SentTablesCheck::default());
    };
    Ok(SentTablesCheck {
        no_longer_sent: stored
            .as_ref()
            .map(|stored| stored.no_longer_sent(&states))
            .unwrap_or_default(),
        changed: Some(now).filter(|now| stored.as_ref() != Some(now)),
    })
}

/// Warns of the tables that are no longer sent.
///
/// Stores the tables that are sent now. So a later check does not warn of the same tables again. Between two
/// checks, a sandbox waits for [`CHECK_INTERVAL`].
///
/// Returns the number of tables that are no longer sent. It is 0 without a check. A failed check is logged,
/// and the drain continues.
pub(in crate::actions) async fn check_and_store(
    app: &App,
    connector: &Connector,
    session: &Session,
    settings: &Settings,
) -> u64 {
    if !app.take_due_check(CHECK_INTERVAL, Instant::now()) {
        return 0;
    }
    let checked = async {
        let checked = check(app, connector, session, settings.plugin).await?;
        if let Some(changed) = checked.changed {
            app.sent_tables.store(changed.to_text()).await?;
        }
        Ok::<_, Error>(checked.no_longer_sent)
    };
    match checked.await {
        Ok(TablesNoLongerSent { count, sentences }) => {
            for sentence in sentences {
                tracing::warn!(slot = settings.slot, "{sentence}");
            }
            count as u64
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
