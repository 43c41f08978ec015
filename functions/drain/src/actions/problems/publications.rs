//! Problems of the publications that pgoutput reads.

use crate::actions::app::App;
use crate::config::Config;
use crate::error::Error;
use crate::plugin::Plugin;
use crate::postgres::connection::{Connector, Session};
use crate::postgres::server;

/// Missing and empty publications, and tables whose changes lack the key.
pub(super) async fn publication_problems(
    app: &App,
    connector: &Connector,
    session: &Session,
    plugin: Plugin,
) -> Result<Vec<String>, Error> {
    if !plugin.reads_publications() {
        return Ok(Vec::new());
    }
    let missing = server::missing_publications(connector, session, &app.config.publications).await?;
    if missing.is_empty() {
        let empty = empty_publications(&app.config, connector, session).await?;
        let source = app.schema_source(connector, session, plugin);
        let mut schema = source.list().await?;
        let names: Vec<_> = schema.relations.iter().map(|info| info.table.clone()).collect();
        schema.add_details(source.describe(&names).await?);
        let identities = schema.identity_problems();
        return Ok(empty.into_iter().chain(identities).collect());
    }
    let problem = |name: &String| format!("publication {name} is missing: run {{\"action\":\"setup\"}}");
    Ok(missing.iter().map(problem).collect())
}

/// The problem of publications without any table; `None` if they have one.
async fn empty_publications(
    config: &Config,
    connector: &Connector,
    session: &Session,
) -> Result<Option<String>, Error> {
    if server::published_tables(connector, session, &config.publications).await? > 0 {
        return Ok(None);
    }
    let names = config.publications.join(", ");
    Ok(Some(format!(
        "the publications {names} hold no tables: let the tables' owner run alter publication … add \
         table …"
    )))
}
