//! Settings and publications that do not fit the database.

use crate::actions::app::App;
use crate::plugin::Plugin;
use crate::ports::SlotError;
use crate::postgres::checks::column_rules::column_rule_problems;
use crate::postgres::checks::partition_keys::partition_key_problems;
use crate::postgres::checks::sent_columns::SentColumns;
use crate::postgres::checks::unmatched_patterns::unmatched_patterns;
use crate::postgres::checks::unpublished_roots::unpublished_roots;
use crate::postgres::connection::{Connector, Session};

/// Problems of `TABLES`, `COLUMN_RULES`, `PARTITION_KEYS` and published partitions.
///
/// There is one sentence for each part that does not fit the database, and for each partitioned table whose
/// new partitions are not sent.
///
/// # Errors
/// A query failed.
pub(in crate::actions) async fn rule_problems(
    app: &App,
    connector: &Connector,
    session: &Session,
    plugin: Plugin,
) -> Result<Vec<String>, SlotError> {
    let config = &app.config;
    let (publications, tables) = (&config.publications, &config.tables);
    let mut problems = unmatched_patterns(connector, session, plugin, publications, tables).await?;
    problems.extend(unpublished_roots(connector, session, plugin, publications, tables).await?);
    let sent = SentColumns {
        publications,
        tables,
        rules: &config.column_rules,
    };
    problems.extend(column_rule_problems(connector, session, plugin, &sent).await?);
    problems.extend(partition_key_problems(connector, session, plugin, &sent, &config.partition_keys).await?);
    Ok(problems)
}
