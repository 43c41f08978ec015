//! `make try` prints a server's changes. At its end it drops what it created, if it can log in.

use std::collections::BTreeMap;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use scenarios::built_program;
use scenarios::fixture::{Fixture, Plugin};
use scenarios::postgres::sql_text::create_slot_sql;
use scenarios::postgres::{Postgres, PostgresSettings, REPLUSER};
use scenarios::wait;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};

crate::version_scenarios![each_change_is_one_line];

crate::scenarios![
    a_failed_backfill_is_named_with_its_reason,
    with_an_envelope_standard_output_has_events_only,
    twenty_ends_at_random_moments_leave_nothing,
    a_slot_that_is_left_is_named,
    a_reader_that_stops_ends_the_run,
    missing_requirements_of_the_server_are_named_with_the_remedy,
    the_login_is_that_of_psql,
];

/// Limit for what happens within a second on an idle machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A running `play try`.
struct TryItRun {
    child: Child,
    printed: OutputLines,
    messages: OutputLines,
}

/// Lines that a run has written to one of its outputs.
#[derive(Clone, Default)]
struct OutputLines(Arc<Mutex<Vec<String>>>);

impl OutputLines {
    fn collect(&self, from: impl AsyncRead + Unpin + Send + 'static) {
        let lines = self.clone();
        tokio::spawn(async move {
            let mut from = BufReader::new(from).lines();
            while let Ok(Some(line)) = from.next_line().await {
                lines.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn wait_for(&self, text: &str) {
        let is_printed = || async { self.all().iter().any(|line| line.contains(text)) };
        wait::until(&format!("{text:?} is printed"), LIMIT, is_printed).await;
    }
}

impl TryItRun {
    /// Starts a run with these variables, and no others of libpq.
    fn start<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut run = Self::of(command(variables).stdout(Stdio::piped()));
        run.printed.collect(run.child.stdout.take().unwrap());
        run
    }

    fn of(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let messages = OutputLines::default();
        messages.collect(child.stderr.take().unwrap());
        Self {
            child,
            printed: OutputLines::default(),
            messages,
        }
    }

    async fn until_it_drains(&self) {
        self.messages.wait_for("changes are printed").await;
    }

    /// Sends a signal to the whole process group, as a terminal does.
    ///
    /// SIGKILL is sent to the process only.
    fn signal(&self, name: &str) {
        // It may have ended by itself.
        let Some(pid) = self.child.id() else { return };
        let to = if name == "KILL" {
            pid.to_string()
        } else {
            format!("-{pid}")
        };
        let kill = ["-c", "kill -s \"$0\" -- \"$1\"", name, &to];
        let sent = std::process::Command::new("sh").args(kill).status();
        assert!(sent.is_ok_and(|status| status.success()), "{name} was not sent");
    }

    /// Status at the end, and standard error.
    async fn ended(mut self) -> (ExitStatus, String) {
        let status = tokio::time::timeout(LIMIT, self.child.wait()).await;
        let status =
            status.unwrap_or_else(|_| panic!("it does not end:\n{}", self.messages.all().join("\n")));
        // The last lines are read a moment after the end.
        wait::until("standard error is read", LIMIT, || async {
            Arc::strong_count(&self.messages.0) == 1
        })
        .await;
        (status.unwrap(), self.messages.all().join("\n"))
    }
}

fn command<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Command {
    let mut command = Command::new(built_program("play"));
    let inherited = std::env::vars().map(|(name, _)| name);
    for name in inherited.filter(|name| name.starts_with("PG") && name != "PG_BIN") {
        command.env_remove(name);
    }
    command
        .arg("try")
        .env("HOME", "/nonexistent")
        .envs(variables)
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    command
}

/// A database without slot and publication, whose table the role owns.
async fn database(version: impl Into<Option<u32>>) -> (Fixture, BTreeMap<String, String>) {
    let builder = Fixture::builder(Plugin::TestDecoding).version(version);
    let fixture = builder.without_slot().build().await;
    let (role, name) = (REPLUSER.0, &fixture.database);
    fixture
        .sql(&format!(
            "create table orders (id int primary key, customer text, amount numeric);
             alter table orders owner to {role};
             grant create on database {name} to {role};
             insert into orders values (1, 'Ada', 12.50)"
        ))
        .await;
    let variables = BTreeMap::from(fixture.postgres.environment(name));
    (fixture, variables)
}

/// The variables, and some more.
fn with<'a>(
    variables: &'a BTreeMap<String, String>,
    more: &[(&'a str, &'a str)],
) -> BTreeMap<&'a str, &'a str> {
    let variables = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    variables.chain(more.iter().copied()).collect()
}

/// Waits until the slot, publication and sessions of a run are gone.
async fn assert_nothing_is_left(fixture: &Fixture, after: &str) {
    let left = "select count(*)::text from (
                    select slot_name::text from pg_replication_slots where database = current_database()
                    union all select pubname::text from pg_publication
                    union all select application_name from pg_stat_activity
                    where datname = current_database() and application_name like 'spillway%') s";
    let limit = Duration::from_secs(30);
    let gone = format!("slot, publication and sessions are gone, after:\n{after}");
    wait::until(&gone, limit, || async {
        fixture.value(left).await.as_deref() == Some("0")
    })
    .await;
}

async fn each_change_is_one_line(version: u32) {
    let (fixture, variables) = database(version).await;
    let run = TryItRun::start(with(&variables, &[("BACKFILL", "public.orders")]));
    run.until_it_drains().await;
    // Otherwise the truncate below might precede the watermark, and the existing row would not be sent.
    run.printed.wait_for("read").await;
    for sql in [
        "insert into orders values (2, 'Grace', null)",
        "update orders set amount = 3 where id = 2",
        "update orders set id = 3 where id = 2",
        "delete from orders where id = 3",
        "select pg_logical_emit_message(true, 'note', 'by hand')",
        "truncate orders",
    ] {
        fixture.sql(sql).await;
    }
    run.printed.wait_for("truncate").await;
    let expected = [
        r#"read     public.orders {"id":1} customer="Ada" amount=12.50"#,
        r#"insert   public.orders {"id":2} customer="Grace" amount=null"#,
        r#"update   public.orders {"id":2} customer="Grace" amount=3"#,
        r#"update   public.orders {"id":2} -> {"id":3} customer="Grace" amount=3"#,
        r#"delete   public.orders {"id":3}"#,
        r#"message  note "by hand""#,
        "truncate public.orders",
    ];
    assert_eq!(run.printed.all(), expected);
    run.signal("INT");
    let (status, messages) = run.ended().await;
    assert!(status.success(), "{status}: {messages}");
    assert!(
        messages.contains("select pg_drop_replication_slot('spillway_try_"),
        "{messages}"
    );
    assert!(messages.ends_with(" is dropped"), "{messages}");
    assert_nothing_is_left(&fixture, &messages).await;
}

async fn a_failed_backfill_is_named_with_its_reason() {
    let (fixture, variables) = database(None).await;
    fixture
        .sql("insert into orders values (2, repeat('x', 2000000), 1)")
        .await;
    let run = TryItRun::start(with(&variables, &[("BACKFILL", "public.orders")]));
    run.messages.wait_for("backfill of public.orders: ").await;
    run.signal("INT");
    let (status, messages) = run.ended().await;
    assert!(status.success(), "{status}: {messages}");
    assert!(messages.contains("some tables failed: 1"), "{messages}");
}

async fn with_an_envelope_standard_output_has_events_only() {
    let (fixture, variables) = database(None).await;
    for (plugin, envelope, operation) in [
        ("pgoutput", "debezium", "/op"),
        ("wal2json", "wal2json", "/action"),
        ("test_decoding", "dms", "/metadata/operation"),
    ] {
        let asked = [
            ("PLUGIN", plugin),
            ("ENVELOPE", envelope),
            ("TABLES", "public.orders"),
        ];
        let run = TryItRun::start(with(&variables, &asked));
        run.until_it_drains().await;
        fixture
            .sql("truncate orders; insert into orders values (1, 'Ada', 1)")
            .await;
        run.printed.wait_for("Ada").await;
        for line in run.printed.all() {
            let event: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert!(event.pointer(operation).is_some(), "{envelope}: {line}");
        }
        run.signal("TERM");
        let (status, messages) = run.ended().await;
        assert!(status.success(), "{status}: {messages}");
        assert!(messages.ends_with(" is dropped"), "{messages}");
        assert_nothing_is_left(&fixture, &messages).await;
    }
}

async fn twenty_ends_at_random_moments_leave_nothing() {
    let (fixture, variables) = database(None).await;
    fixture
        .sql("insert into orders select i, 'x', 1 from generate_series(2, 50000) i")
        .await;
    for round in 0..5 {
        // Four at once. Most moments are early, while the slot is made.
        let runs = ["INT", "KILL", "TERM", "HUP"].map(|signal| {
            let plugin = if fastrand::bool() {
                "pgoutput"
            } else {
                "test_decoding"
            };
            let variables = with(&variables, &[("PLUGIN", plugin), ("BACKFILL", "public.orders")]);
            let moment = Duration::from_millis((2_500.0 * fastrand::f64().powi(2)) as u64);
            let run = TryItRun::start(variables);
            async move {
                // The program has signal handlers before it prints this line. An earlier signal would test
                // nothing, because the server has nothing of the run yet.
                run.messages.wait_for("PostgreSQL ").await;
                // Not a wait for an event: the signal must arrive at a random moment.
                tokio::time::sleep(moment).await;
                run.signal(signal);
                let messages = run.ended().await.1;
                format!("round {round}: {signal} after {moment:?} with {plugin}:\n{messages}")
            }
        });
        let [one, two, three, four] = runs;
        let (one, two, three, four) = tokio::join!(one, two, three, four);
        assert_nothing_is_left(&fixture, &[one, two, three, four].join("\n")).await;
    }
}

async fn a_slot_that_is_left_is_named() {
    let (fixture, variables) = database(None).await;
    let left = scenarios::unique("spillway_try_0");
    fixture.sql(&create_slot_sql(&left, "test_decoding")).await;
    let first = TryItRun::start(with(&variables, &[]));
    first.until_it_drains().await;
    let second = TryItRun::start(with(&variables, &[]));
    second.until_it_drains().await;
    let messages = second.messages.all();
    let lines: Vec<&String> = messages
        .iter()
        .filter(|line| line.contains("is left from an earlier run"))
        .collect();
    assert_eq!(
        lines.len(),
        1,
        "the slot of the first run is in use: {messages:?}"
    );
    let drop = format!("select pg_drop_replication_slot('{left}');");
    assert!(lines[0].contains(&drop), "{messages:?}");
    for run in [first, second] {
        run.signal("INT");
        assert!(run.ended().await.0.success());
    }
    fixture.sql(&drop).await;
    assert_nothing_is_left(&fixture, "two runs").await;
}

async fn a_reader_that_stops_ends_the_run() {
    let (fixture, variables) = database(None).await;
    let mut run = TryItRun::of(command(with(&variables, &[])).stdout(Stdio::piped()));
    run.until_it_drains().await;
    // As `head` does.
    drop(run.child.stdout.take());
    fixture.sql("insert into orders values (2, 'Grace', 1)").await;
    let (status, messages) = run.ended().await;
    assert!(status.success(), "{status}: {messages}");
    assert!(messages.ends_with(" is dropped"), "{messages}");
    assert_nothing_is_left(&fixture, &messages).await;
}

async fn missing_requirements_of_the_server_are_named_with_the_remedy() {
    let conf = "wal_level = replica\nmax_replication_slots = 0\n";
    let server = Postgres::start(PostgresSettings::with_conf(conf)).await;
    let admin = server.admin("postgres").await;
    let role = "create role reader login password 'secret'";
    admin.batch_execute(role).await.unwrap();
    let mut variables = BTreeMap::from(server.environment("postgres"));
    variables.insert("PGUSER".to_owned(), "reader".to_owned());
    variables.insert("PGPASSWORD".to_owned(), "secret".to_owned());
    let failed = async |variables: BTreeMap<&str, &str>| {
        let (status, messages) = TryItRun::start(variables).ended().await;
        assert_eq!(status.code(), Some(1), "{messages}");
        messages
    };
    let pgoutput = [("PLUGIN", "pgoutput")];
    let messages = failed(with(&variables, &pgoutput)).await;
    for remedy in [
        "alter system set wal_level = logical; and restart",
        "alter role \"reader\" replication;",
        "All 0 replication slots are taken",
        "grant create on database \"postgres\" to \"reader\";",
    ] {
        assert!(messages.contains(remedy), "{remedy} is not in:\n{messages}");
    }
    admin.batch_execute("create role rds_replication").await.unwrap();
    let messages = failed(with(&variables, &[])).await;
    for remedy in [
        "rds.logical_replication = 1",
        "grant rds_replication to \"reader\";",
    ] {
        assert!(messages.contains(remedy), "{remedy} is not in:\n{messages}");
    }
    let messages = failed(with(&variables, &[("PGPASSWORD", "wrong")])).await;
    assert!(
        messages.contains("\"reader\"") && messages.contains("Set PGHOST"),
        "{messages}"
    );
}

async fn the_login_is_that_of_psql() {
    let server = Postgres::start(PostgresSettings {
        tls: true,
        ..PostgresSettings::default()
    })
    .await;
    let admin = server.admin("postgres").await;
    admin
        .batch_execute("create table t (id int primary key)")
        .await
        .unwrap();
    let file = std::env::temp_dir().join(scenarios::unique("pgpass"));
    let line = format!("*:*:postgres:{}:{}\n", REPLUSER.0, REPLUSER.1);
    std::fs::write(&file, line).unwrap();
    let only_owner = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
    std::fs::set_permissions(&file, only_owner).unwrap();
    let port = server.port().to_string();
    let run = TryItRun::start([
        ("PGHOST", "127.0.0.1"),
        ("PGPORT", &port),
        ("PGUSER", REPLUSER.0),
        ("PGDATABASE", "postgres"),
        ("PGPASSFILE", file.to_str().unwrap()),
    ]);
    run.until_it_drains().await;
    std::fs::remove_file(&file).unwrap();
    admin.batch_execute("insert into t values (7)").await.unwrap();
    run.printed.wait_for(r#"insert   public.t {"id":7}"#).await;
    assert!(
        run.messages.all()[0].contains(", TLS, "),
        "{:?}",
        run.messages.all()
    );
    run.signal("INT");
    // The clean-up starts psql again. It cannot log in, because the password file was removed.
    let (status, messages) = run.ended().await;
    assert!(!status.success(), "{messages}");
    assert!(messages.contains("could not be dropped"), "{messages}");
}
