//! Clients of a sandbox, and access to the slot under its lock.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_types::SdkConfig;
use serde_json::{Map, Value, json};
use tokio::sync::OnceCell;

use crate::aws::kinesis::{Kinesis, StreamRequirements};
use crate::aws::parameter_store::Parameter;
use crate::aws::secret;
use crate::aws::{client, rds_token};
use crate::base::lsn::Lsn;
use crate::config::{Auth, Config, Password, SaltSource, StandbyAck};
use crate::continuity::checkpoint::Checkpoint;
use crate::continuity::{self, ServerInfo, StartPosition};
use crate::decode::KeptBytes;
use crate::drain::window_sizing::WindowSizing;
use crate::drain::{AGGREGATE_BYTES, Settings};
use crate::error::Error;
use crate::pack::Aggregation;
use crate::plugin::Plugin;
use crate::ports::{LockHolder, SecretError, SlotError, SlotFigures, StateStoreError, StreamInfo};
use crate::postgres::connection::{Connector, Credentials, Session};
use crate::postgres::server::{self, Inspection};
use crate::postgres::slot::PgSlot;
use crate::postgres::tables::schema::SchemaSource;
use crate::rules::column_rules::{ColumnRules, Salt};
use crate::rules::projection::ProjectionRules;

/// Longest wait of a tick or a plan for the lock.
///
/// An invocation that just ended may still have the lock.
///
/// The server ends its session a little later.
pub(super) const LOCK_TIME: Duration = Duration::from_millis(500);

/// Configuration, AWS clients and measurements that the invocations of a sandbox share.
///
/// The envelope in the configuration caches table definitions and schemas between invocations. Connections
/// to PostgreSQL do not survive a freeze of the sandbox, so each invocation opens new ones.
pub struct App {
    /// The configuration, from the environment variables.
    pub config: Config,
    aws: SdkConfig,
    ssm: aws_sdk_ssm::Client,
    pub(super) stream: Kinesis,
    /// The parameter of the checkpoint.
    pub(super) checkpoint: Parameter,
    /// The parameter of the backfill's state.
    pub(super) backfill: Parameter,
    /// The parameter of the list of sent tables.
    pub(super) sent_tables: Parameter,
    /// Window sizing, with the measurements of earlier invocations.
    pub(super) sizing: Mutex<WindowSizing>,
    /// Fields of the summary line if this invocation fails.
    failure_fields: Mutex<Map<String, Value>>,
    /// Time of the last check of the sent tables, if any.
    tables_checked: Mutex<Option<Instant>>,
    /// The salt of hashed columns; empty before the first read.
    ///
    /// It is read once: with another salt, the same value would have another hash.
    salt: OnceCell<Salt>,
}

impl App {
    /// Builds the clients, without a connection.
    pub fn new(config: Config) -> Self {
        let aws = client::config();
        let ssm = aws_sdk_ssm::Client::new(&aws);
        let requirements = StreamRequirements {
            aggregates: config.aggregate,
            allows_auto_distribution: config.allows_auto_distribution,
        };
        let stream = Kinesis::new(client::kinesis(&aws), config.stream.clone(), requirements);
        let checkpoint = Parameter::plain(ssm.clone(), config.checkpoint_parameter.clone());
        // The state has values of rows: its cursor is a row's key, and its condition may contain values.
        let name = format!("{}.backfill", config.checkpoint_parameter);
        let backfill = Parameter::encrypted(ssm.clone(), name);
        let sent_tables = Parameter::plain(ssm.clone(), format!("{}.tables", config.checkpoint_parameter));
        App {
            config,
            aws,
            ssm,
            stream,
            checkpoint,
            backfill,
            sent_tables,
            sizing: Mutex::default(),
            failure_fields: Mutex::default(),
            tables_checked: Mutex::default(),
            salt: OnceCell::new(),
        }
    }

    /// Resets the fields that the summary line has if this invocation fails.
    ///
    /// `action` is `None` if the event is not valid.
    pub fn reset_failure_fields(&self, action: Option<&str>) {
        let fields = [
            ("action", action.map(Value::from)),
            ("slot", Some(Value::from(&*self.config.slot))),
        ];
        let fields = fields
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)));
        *self.lock_failure_fields() = fields.collect();
    }

    /// Adds the figures of a drain to these fields.
    ///
    /// The action stays: a plan and a backfill open the slot as a drain does.
    pub(super) fn add_failure_fields(&self, figures: Value) {
        if let Value::Object(mut figures) = figures {
            figures.remove("action");
            self.lock_failure_fields().extend(figures);
        }
    }

    /// The fields of the summary line if this invocation fails, an object.
    pub fn failure_fields(&self) -> Value {
        Value::Object(self.lock_failure_fields().clone())
    }

    fn lock_failure_fields(&self) -> MutexGuard<'_, Map<String, Value>> {
        self.failure_fields.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the sent tables were last checked `interval` ago or earlier.
    ///
    /// If so, records `now` as the time of the last check.
    pub(super) fn take_due_check(&self, interval: Duration, now: Instant) -> bool {
        let mut checked = self.tables_checked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = checked.is_none_or(|checked| now.duration_since(checked) >= interval);
        if is_due {
            *checked = Some(now);
        }
        is_due
    }

    /// A connector whose sessions end soon after `lifetime`.
    ///
    /// # Errors
    /// The root certificates, the secret or the AWS credentials cannot be read.
    pub(crate) async fn connector(&self, lifetime: Duration) -> Result<Connector, Error> {
        Ok(Connector::new(&self.config, self.credentials().await?, lifetime)?)
    }

    /// The role and its password.
    async fn credentials(&self) -> Result<Credentials, Error> {
        let database = &self.config.database;
        let (user, password) = match &database.auth {
            Auth::Password(Password(password)) => (database.user.clone(), password.clone()),
            Auth::Iam => {
                let token = rds_token::iam_token(database, &self.aws).await?;
                (database.user.clone(), token)
            }
            Auth::Secret(name) => {
                let login = secret::fetch_login(&self.aws, &self.ssm, name).await?;
                let user = database.user.clone().or(login.username);
                if user.is_none() {
                    return Err(Error::Secret(SecretError::Password {
                        secret: name.clone(),
                        source: "the secret has no \"username\", and PGUSER is not set".into(),
                    }));
                }
                (user, login.password)
            }
        };
        Ok(Credentials {
            user: user.unwrap_or_default(),
            password: Password(password),
        })
    }

    /// The rules for columns, with the salt of their hashes.
    ///
    /// # Errors
    /// The salt cannot be read.
    pub(super) async fn column_rules(&self) -> Result<ColumnRules, SecretError> {
        let salt = match &self.config.salt {
            None => Salt::default(),
            Some(SaltSource::Value(salt)) => salt.clone(),
            Some(SaltSource::Secret(name)) => {
                let fetch = || secret::fetch_salt(&self.aws, &self.ssm, name);
                self.salt.get_or_try_init(fetch).await?.clone()
            }
        };
        Ok(ColumnRules::new(self.config.column_rules.clone(), salt))
    }

    /// Source of the database's relations and publications.
    pub(super) fn schema_source<'a>(
        &'a self,
        connector: &'a Connector,
        session: &'a Session,
        plugin: Plugin,
    ) -> SchemaSource<'a> {
        SchemaSource {
            connector,
            session,
            plugin,
            publications: &self.config.publications,
            tables: &self.config.tables,
            column_rules: &self.config.column_rules,
        }
    }

    /// Opens a session, and inspects the server and the slot through it.
    ///
    /// # Errors
    /// The server cannot be reached, or is a standby.
    pub(super) async fn inspect(&self, connector: &Connector) -> Result<(Session, Inspection), SlotError> {
        let session = connector.connect().await?;
        let inspection = server::inspect(connector, &session, &self.config.slot).await?;
        Ok((session, inspection))
    }

    /// Opens the slot for an action that needs the slot's lock.
    ///
    /// Such an action must not run beside another drainer.
    ///
    /// # Errors
    /// Those of [`App::open`], and [`SlotError::Busy`] if another drainer still has the lock at `deadline`.
    pub(super) async fn open_or_busy<'c>(
        &self,
        connector: &'c Connector,
        deadline: Instant,
    ) -> Result<OpenedSlot<'c>, Error> {
        match self.open(connector, None, deadline).await? {
            SlotAccess::Locked(opened) => Ok(*opened),
            SlotAccess::Busy(BusySlot { drainer, .. }) => Err(Error::Slot(SlotError::Busy {
                slot: self.config.slot.clone(),
                holder: drainer,
            })),
        }
    }

    /// Waits for the slot's lock, at most until `lock_deadline`.
    ///
    /// With the lock, checks the server, the slot, the checkpoint and the stream.
    ///
    /// # Errors
    /// A check failed, so no drain is possible. The error states the reason.
    pub(super) async fn open<'c>(
        &self,
        connector: &'c Connector,
        accept_gap: Option<Lsn>,
        lock_deadline: Instant,
    ) -> Result<SlotAccess<'c>, Error> {
        let name = &self.config.slot;
        // A cold start connects to PostgreSQL and to AWS at the same time.
        let (locked, stream) = tokio::join!(self.lock(connector, lock_deadline), self.stream.usable_info());
        let LockAttempt {
            lock_session,
            inspection,
            stored,
        } = locked?;
        let figures = inspection.figures();
        // The log may fill the disk while the slot cannot be opened. So the summary line of a failure has
        // these figures.
        self.add_failure_fields(figures_report(&figures));
        let Inspection { server, slot: state } = inspection;
        let Some(stored) = stored else {
            let plugin = state.and_then(|state| state.plugin?.parse::<Plugin>().ok());
            return Ok(SlotAccess::Busy(BusySlot {
                plugin: plugin.map(Plugin::name),
                drainer: server::lock_holder(connector, &lock_session, name).await?,
                figures,
            }));
        };
        let stored = match stored {
            Err(StateStoreError::Invalid { .. }) if accept_gap.is_some() => None,
            loaded => loaded?,
        };
        let checked = continuity::start_position(name, &server, state.as_ref(), stored.as_ref(), accept_gap);
        if checked.is_err() {
            // If this session lost the lock, another drainer may have stored a checkpoint after this
            // inspection. Slot and checkpoint then differ without a discontinuity.
            server::check_lock(connector, &lock_session).await?;
        }
        let start = checked?;
        // A drain that accepts a gap sends a control event before its first peek. The peek would fail now,
        // because another session reads the slot. So neither happens.
        let is_read = state.as_ref().is_some_and(|state| state.active_pid.is_some());
        if is_read && accept_gap.is_some() {
            return Ok(SlotAccess::Busy(BusySlot {
                plugin: Some(start.plugin.name()),
                drainer: None,
                figures,
            }));
        }
        let settings = self.settings(&server, &start, stream?, self.column_rules().await?);
        let kept = KeptBytes::for_record(settings.record_bytes, settings.projection.has_column_rules());
        let slot = PgSlot::open(connector, lock_session, &self.config, start.plugin, kept, &server).await?;
        Ok(SlotAccess::Locked(Box::new(OpenedSlot {
            server,
            stored,
            start,
            settings,
            slot,
        })))
    }

    /// Opens a session, and tries to acquire the slot's lock with it.
    ///
    /// The server, the slot and the checkpoint are read after the lock is acquired. So they include
    /// everything that an earlier drainer stored or advanced.
    async fn lock(&self, connector: &Connector, deadline: Instant) -> Result<LockAttempt, SlotError> {
        let name = &self.config.slot;
        let lock_session = connector.connect().await?;
        let locked = server::lock(connector, &lock_session, name, deadline).await?;
        let load = async {
            match locked {
                true => Some(self.checkpoint.load().await),
                false => None,
            }
        };
        let (inspection, stored) = tokio::join!(server::inspect(connector, &lock_session, name), load);
        Ok(LockAttempt {
            inspection: inspection?,
            stored,
            lock_session,
        })
    }

    fn settings(
        &self,
        server: &ServerInfo,
        start: &StartPosition,
        stream: StreamInfo,
        column_rules: ColumnRules,
    ) -> Settings {
        let config = &self.config;
        Settings {
            slot: config.slot.clone(),
            source_name: config.source_name.clone(),
            plugin: start.plugin,
            tables: config.tables.clone(),
            projection: ProjectionRules {
                column_rules,
                partition_keys: config.partition_keys.clone(),
            },
            skipped: config.skipped,
            stream_pattern: config.stream_pattern.clone(),
            record_bytes: stream.record_bytes,
            passes_oversize: false,
            aggregation: match config.aggregate {
                true => Aggregation::Kpl {
                    bytes: AGGREGATE_BYTES.min(stream.record_bytes),
                },
                false => Aggregation::None,
            },
            shards: stream.shards,
            key_decides_shard: stream.key_decides_shard,
            max_unacknowledged_bytes: config.max_unacknowledged_bytes(),
            linger: config.linger,
            poll_share: f64::from(config.poll_cpu_percent) / 100.0,
            waits_for_standbys: config.standby_ack != StandbyAck::Off,
            markers: config.markers && start.plugin.sends_messages(server.version),
        }
    }
}

/// A session that tried to lock the slot, and what it read.
///
/// The session has the slot's lock, unless `stored` is `None`.
struct LockAttempt {
    lock_session: Session,
    inspection: Inspection,
    /// The stored checkpoint, if there is one.
    ///
    /// The outer `None` means that another session has the lock.
    stored: Option<Result<Option<Checkpoint>, StateStoreError>>,
}

/// Result of the attempt to lock the slot.
pub(super) enum SlotAccess<'c> {
    /// This invocation has the lock.
    Locked(Box<OpenedSlot<'c>>),
    /// Another session has the lock.
    ///
    /// Or it reads the slot, and a gap is to be accepted.
    Busy(BusySlot),
}

/// A slot that cannot be drained now, because another session uses it.
pub(super) struct BusySlot {
    /// The name of the slot's plugin, if Spillway supports it.
    pub(super) plugin: Option<&'static str>,
    /// The session that has the lock.
    ///
    /// `None` if it has ended since, or if this invocation has the lock.
    pub(super) drainer: Option<LockHolder>,
    pub(super) figures: SlotFigures,
}

/// The figures of the slot, with the names of a drain's report.
fn figures_report(figures: &SlotFigures) -> Value {
    json!({
        "lag_bytes": figures.lag_bytes,
        "retained_bytes": figures.retention.retained_bytes,
        "wal_status": figures.retention.wal_status,
        "safe_wal_size": figures.retention.safe_wal_size,
    })
}

/// A locked slot that passed all checks of a drain.
pub(super) struct OpenedSlot<'c> {
    pub(super) server: ServerInfo,
    /// The checkpoint that was stored before this invocation.
    pub(super) stored: Option<Checkpoint>,
    pub(super) start: StartPosition,
    pub(super) settings: Settings,
    pub(super) slot: PgSlot<'c>,
}
