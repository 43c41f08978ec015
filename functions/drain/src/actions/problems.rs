//! Settings that do not fit the database or the streams.
//!
//! The answers of `setup` and `status` have them.

pub(super) mod tables_no_longer_sent;

mod publications;
mod rules;
mod table_streams;

use super::app::App;
use crate::error::Error;
use crate::plugin::Plugin;
use crate::postgres::connection::{Connector, Session};

use publications::publication_problems;
pub(super) use rules::rule_problems;
use table_streams::stream_problems;

/// One sentence for each setting that does not fit.
///
/// A check that fails is a sentence, too. So `setup` answers with the objects that it created.
pub(super) async fn setting_problems(
    app: &App,
    connector: &Connector,
    session: &Session,
    plugin: Plugin,
) -> Vec<String> {
    let found = [
        publication_problems(app, connector, session, plugin).await,
        rule_problems(app, connector, session, plugin)
            .await
            .map_err(Error::from),
        stream_problems(app, connector, session, plugin)
            .await
            .map_err(Error::from),
    ];
    let sentences = found
        .into_iter()
        .flat_map(|found| found.unwrap_or_else(|error| vec![error.chain()]));
    sentences.collect()
}
