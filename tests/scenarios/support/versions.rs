//! Scenarios on a server of a given version.

use scenarios::fixture::{Fixture, FixtureBuilder, Plugin};
use scenarios::postgres::Postgres;

/// A fixture of pgoutput on a server of this version.
pub(crate) fn pgoutput(version: u32) -> FixtureBuilder {
    Fixture::builder(Plugin::Pgoutput).version(version)
}

/// The plugins that are installed for this version; `None` is Debian's.
pub(crate) async fn plugins(version: Option<u32>) -> Vec<Plugin> {
    let wal2json = Postgres::shared_of(version).await.has_wal2json();
    let mut plugins = Plugin::ALL.to_vec();
    plugins.retain(|plugin| *plugin != Plugin::Wal2json || wal2json);
    plugins
}

/// Plays a scenario with each plugin that is installed for this version.
pub(crate) async fn with_each_plugin<F: Future<Output = ()> + Send + 'static>(
    version: u32,
    scenario: fn(FixtureBuilder) -> F,
) {
    Plugin::each_of(&plugins(Some(version)).await, |plugin| {
        scenario(Fixture::builder(plugin).version(version))
    })
    .await;
}
