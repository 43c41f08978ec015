//! From an event to an action, and from its outcome to an answer.

mod backfill;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use aws_config::SdkConfig;
use serde_json::{Value, json};

use crate::budget::Budget;
use crate::checkpoint::{Checkpoint, VERSION};
use crate::clock::now_micros;
use crate::config::Config;
use crate::connect::Connector;
use crate::continuity::{self, Server, Start};
use crate::decode::Plugin;
use crate::drain::parts::{CheckpointError, SlotError, StreamError};
use crate::drain::plan::{Plan, plan};
use crate::drain::report::{Report, Stopped};
use crate::drain::{AGGREGATE_BYTES, Beside, Parts, Settings, drain};
use crate::encode::Envelope;
use crate::error::Error;
use crate::event::Action;
use crate::lsn::Lsn;
use crate::pack::Aggregation;
use crate::parameter::Parameter;
use crate::position::Position;
use crate::server::{self, Look};
use crate::setup;
use crate::slot::PgSlot;
use crate::stream::{Facts, Kinesis};
use crate::window::Pace;

/// What lives as long as the sandbox: the AWS clients, and with the envelope the definitions of tables that were announced, and how large windows may be.
/// Connections to PostgreSQL do not survive a freeze, and are made anew.
pub struct App {
    /// What the environment says.
    pub config: Config,
    aws: SdkConfig,
    stream: Kinesis,
    parameter: Parameter,
    /// That of the backfill.
    backfill: Parameter,
    ssm: aws_sdk_ssm::Client,
    pace: Mutex<Pace>,
}

impl App {
    /// Builds the clients; connects to nothing yet.
    pub async fn new(config: Config) -> Self {
        let aws = crate::aws::config().await;
        let ssm = aws_sdk_ssm::Client::new(&aws);
        let stream = Kinesis::new(crate::aws::kinesis(&aws), config.stream.clone());
        let parameter = Parameter {
            client: ssm.clone(),
            name: config.checkpoint_parameter.clone(),
        };
        let backfill = Parameter {
            name: format!("{}.backfill", config.checkpoint_parameter),
            ..parameter.clone()
        };
        App {
            config,
            aws,
            stream,
            parameter,
            backfill,
            ssm,
            pace: Mutex::default(),
        }
    }

    /// Does what an event asks for, before `deadline`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn handle(&self, event: &Value, deadline: Instant) -> Result<Value, Error> {
        let action = Action::parse(event)?;
        let lifetime = deadline.saturating_duration_since(Instant::now());
        // On the heap: what a drain holds over its awaits is large.
        let act = Box::pin(self.act(action, deadline, lifetime));
        let done = tokio::time::timeout(lifetime - lifetime / 100, act);
        done.await.unwrap_or(Err(Error::OutOfTime))
    }

    async fn act(&self, action: Action, deadline: Instant, lifetime: Duration) -> Result<Value, Error> {
        let budget = Budget::new(Instant::now(), deadline);
        let connector = Connector::new(&self.config, &self.aws, &self.ssm, lifetime).await?;
        match action {
            Action::Drain { accept_gap } => {
                let report = Box::pin(self.drain(&connector, accept_gap, budget)).await?;
                Ok(serde_json::to_value(report).unwrap_or_default())
            }
            Action::Backfill(asked) => Box::pin(self.backfill(&connector, asked, budget)).await,
            Action::Setup { plugin } => setup::setup(&self.context(&connector), plugin).await,
            Action::Plan => {
                let plan = self.plan(&connector, budget).await?;
                Ok(serde_json::to_value(plan).unwrap_or_default())
            }
            Action::Status => setup::status(&self.context(&connector)).await,
            Action::Teardown => setup::teardown(&self.context(&connector)).await,
        }
    }

    fn context<'a>(&'a self, connector: &'a Connector) -> setup::Context<'a> {
        setup::Context {
            config: &self.config,
            connector,
            parameter: &self.parameter,
            backfill: &self.backfill,
            stream: &self.stream,
        }
    }

    async fn drain(
        &self,
        connector: &Connector,
        accept_gap: Option<Lsn>,
        budget: Budget,
    ) -> Result<Report, Error> {
        let name = &self.config.slot;
        let opened = match self.open(connector, accept_gap).await? {
            Access::Ours(opened) => *opened,
            Access::Busy(plugin) => {
                return Ok(Report {
                    action: "drain",
                    slot: name.clone(),
                    plugin: plugin.unwrap_or("unknown"),
                    stopped: Stopped::Busy,
                    elapsed_ms: budget.elapsed_ms(),
                    ..Report::default()
                });
            }
        };
        let carried = self.carried(&opened, accept_gap.is_some()).await?;
        Box::pin(self.run(connector, opened, accept_gap, carried, budget)).await
    }

    /// Drains what was opened, and carries a backfill on.
    async fn run(
        &self,
        connector: &Connector,
        opened: Opened<'_>,
        accept_gap: Option<Lsn>,
        carried: Option<Beside<Parameter>>,
        budget: Budget,
    ) -> Result<Report, Error> {
        let name = &self.config.slot;
        let Opened {
            server,
            known,
            start,
            settings,
            slot,
        } = opened;
        if !start.stored {
            tracing::info!(slot = name, lsn = %start.confirmed, "no checkpoint: starting from the slot's own position");
        }
        let envelope = &self.config.envelope;
        let opening = accept_gap.map(|_| gap_accepted(envelope, &start, known.as_ref()));
        let document = document(name, &server, &start, known, accept_gap.is_some());
        let parts = Parts {
            slot,
            stream: self.stream.clone(),
            checkpoints: self.parameter.clone(),
            pace: &self.pace,
            backfill: carried,
        };
        let (mut report, slot, outcome) =
            drain(parts, &settings, envelope, &start, document, opening, budget).await;
        report.notices = connector.notices.count();
        report.elapsed_ms = budget.elapsed_ms();
        match outcome {
            Ok(()) => {}
            // Somebody reads the slot without taking our lock: a person with psql, or a drainer that is just dying.
            Err(Error::Slot(SlotError::Busy { .. })) => report.stopped = Stopped::Busy,
            Err(error) => {
                tracing::info!(report = %serde_json::to_string(&report).unwrap_or_default(), "until it failed");
                return Err(error);
            }
        }
        let oldest = server::oldest_transaction(connector, slot.control());
        if let Ok(Ok(oldest)) = tokio::time::timeout(Duration::from_secs(1), oldest).await {
            report.oldest_transaction = oldest;
        }
        report.elapsed_ms = budget.elapsed_ms();
        Ok(report)
    }

    /// Tells what a drain would send; reads half of the time that there is.
    async fn plan(&self, connector: &Connector, budget: Budget) -> Result<Plan, Error> {
        let mut opened = self.opened(connector).await?;
        // About 1 KiB for each row: what is known of its key, and the row itself where it waits for its commit.
        let rows = i32::try_from(self.config.memory_mib.saturating_mul(500)).unwrap_or(i32::MAX);
        let time = budget.for_reading(Instant::now()) / 2;
        let Opened {
            slot,
            settings,
            start,
            ..
        } = &mut opened;
        let envelope = self.config.envelope.afresh();
        plan(slot, &self.config.stream, settings, &envelope, start, rows, time).await
    }

    /// What cannot be done while another one drains.
    async fn opened<'c>(&self, connector: &'c Connector) -> Result<Opened<'c>, Error> {
        match self.open(connector, None).await? {
            Access::Ours(opened) => Ok(*opened),
            Access::Busy(_) => Err(SlotError::Busy {
                slot: self.config.slot.clone(),
            }
            .into()),
        }
    }

    /// Looks at everything that a drain needs, under the lock.
    async fn open<'c>(&self, connector: &'c Connector, accept_gap: Option<Lsn>) -> Result<Access<'c>, Error> {
        let name = &self.config.slot;
        let control = connector.connect().await?;
        // Looked at under the lock: whatever another drainer does ends before.
        let locked = server::lock(connector, &control, name).await?;
        let Look { server, slot: state } = server::look(connector, &control, name).await?;
        if !locked {
            let plugin = state.and_then(|state| state.plugin?.parse::<Plugin>().ok());
            return Ok(Access::Busy(plugin.map(Plugin::name)));
        }
        let known = match self.parameter.load().await {
            Err(CheckpointError::Invalid { .. }) if accept_gap.is_some() => None,
            known => known?,
        };
        let start = continuity::check(name, &server, state.as_ref(), known.as_ref(), accept_gap)?;
        let Facts {
            record_bytes,
            keyed,
            shards,
        } = self.usable_stream().await?;
        let settings = Settings {
            slot: name.clone(),
            plugin: start.plugin,
            tables: self.config.tables.clone(),
            record_bytes,
            aggregation: match self.config.aggregate {
                true => Aggregation::Kpl {
                    bytes: AGGREGATE_BYTES.min(record_bytes),
                },
                false => Aggregation::None,
            },
            shards,
            keyed,
            bytes_in_flight: self.config.bytes_in_flight(),
            linger: self.config.linger,
            markers: self.config.markers && start.plugin.tells_messages(server.version),
        };
        let slot = PgSlot::open(connector, control, &self.config, start.plugin, &server).await?;
        Ok(Access::Ours(Box::new(Opened {
            server,
            known,
            start,
            settings,
            slot,
        })))
    }

    /// What the stream says of itself, if a drain may fill it as it is configured.
    async fn usable_stream(&self) -> Result<Facts, StreamError> {
        let facts = self.stream.facts().await?;
        let stream = || self.config.stream.clone();
        if !facts.keyed && self.config.aggregate {
            return Err(StreamError::Scattering { stream: stream() });
        }
        if !facts.keyed && !self.config.accept_auto_distribution {
            return Err(StreamError::Unordered { stream: stream() });
        }
        Ok(facts)
    }
}

/// Whether this invocation may work on the slot.
enum Access<'c> {
    /// It has the lock.
    Ours(Box<Opened<'c>>),
    /// Another one has it. With the name of the slot's plugin, if there is one that is known.
    Busy(Option<&'static str>),
}

/// What a drain works on, looked at and found fit.
struct Opened<'c> {
    server: Server,
    known: Option<Checkpoint>,
    start: Start,
    settings: Settings,
    slot: PgSlot<'c>,
}

/// The checkpoint that this invocation will store, but for the position.
fn document(
    slot: &str,
    server: &Server,
    start: &Start,
    known: Option<Checkpoint>,
    afresh: bool,
) -> Checkpoint {
    Checkpoint {
        version: VERSION,
        system_identifier: server.system_identifier.clone(),
        timeline: server.timeline,
        database: server.database.clone(),
        slot: slot.to_owned(),
        plugin: start.plugin.name().to_owned(),
        commit_end: start.acknowledged,
        progress: None,
        // Behind an accepted gap the last one need not come.
        marker: known
            .as_ref()
            .filter(|_| !afresh)
            .and_then(|known| known.marker.clone()),
        updated_at: String::new(),
        others: known.map(|known| known.others).unwrap_or_default(),
    }
}

/// The control event that tells consumers that the stream is not whole before it: a logical message with the prefix
/// `spillway.gap_accepted`, whose content is JSON.
fn gap_accepted(envelope: &Envelope, start: &Start, known: Option<&Checkpoint>) -> crate::encode::Event {
    let content = json!({
        "control": "gap_accepted",
        "checkpoint": known.map(|known| known.commit_end.to_string()),
        "checkpoint_system_identifier": known.map(|known| known.system_identifier.clone()),
        "accepted": start.confirmed.to_string(),
    })
    .to_string();
    let message = crate::change::Message {
        prefix: "spillway.gap_accepted".into(),
        content: content.as_bytes().into(),
    };
    let position = Position {
        commit_end: start.confirmed,
        lsn: start.confirmed,
        index: 0,
    };
    envelope.message(position, &message, now_micros())
}
