//! The user's server: its address, and missing requirements.

use std::path::PathBuf;

use scenarios::fixture::Plugin;
use scenarios::postgres::sql_text::quote_identifier;
use serde_json::Value;

use super::psql::Psql;
use super::variable;

/// Facts about the server and the role.
pub(super) struct Server {
    host: String,
    port: String,
    user: String,
    database: String,
    facts: Value,
}

/// `left_slots`: slots of runs whose psql is not connected any more.
const FACTS: &str = "
select json_build_object(
    'version', current_setting('server_version'),
    'number', current_setting('server_version_num')::int,
    'wal_level', current_setting('wal_level'),
    'max_slots', current_setting('max_replication_slots')::int,
    'slots', (select count(*) from pg_replication_slots),
    'is_standby', pg_is_in_recovery(),
    'is_rds', exists (select from pg_roles where rolname = 'rds_replication'),
    'may_replicate', (
        select r.rolsuper or r.rolreplication or exists (
            select from pg_roles m
            where m.rolname = 'rds_replication' and pg_has_role(current_user, m.oid, 'member'))
        from pg_roles r where r.rolname = current_user),
    'may_create', has_database_privilege(current_database(), 'create'),
    'has_tls', coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false),
    'left_slots', (
        select coalesce(json_agg(s.slot_name), '[]') from pg_replication_slots s
        where s.slot_name like 'spillway\\_try\\_%' and not s.active and s.database = current_database()
          and not exists (select from pg_stat_activity a where a.application_name = s.slot_name)));";

impl Server {
    /// Asks the server that libpq's variables name.
    ///
    /// # Errors
    /// It is not reachable by TCP, or refuses the login.
    pub(super) async fn inspect(psql: &mut Psql) -> Result<Self, String> {
        let asked = psql
            .ask("\\echo :HOST\n\\echo :PORT\n\\echo :USER\n\\echo :DBNAME")
            .await;
        let asked = asked.map_err(|error| {
            format!(
                "psql cannot connect: {error}\nSet PGHOST (the function connects by TCP only), PGPORT, \
                 PGDATABASE, PGUSER and PGPASSWORD, and PGSSLMODE if the server needs it, as for psql."
            )
        })?;
        let [host, port, user, database] = <[String; 4]>::try_from(asked)
            .map_err(|lines| format!("psql does not say where it is connected: {lines:?}"))?;
        if host.starts_with('/') || host == ":HOST" {
            return Err(
                "psql is connected by a local socket, and the function connects by TCP only. Set \
                        PGHOST=127.0.0.1, and PGPASSWORD if the server wants one there."
                    .to_owned(),
            );
        }
        let facts = psql.ask(&FACTS.replace('\n', " ")).await?.concat();
        let facts = serde_json::from_str(&facts).map_err(|error| format!("{facts}: {error}"))?;
        Ok(Self {
            host,
            port,
            user,
            database,
            facts,
        })
    }

    /// Checks the requirements of a slot.
    ///
    /// # Errors
    /// Names everything that is missing, and how to change it.
    pub(super) fn check(&self, plugin: Plugin) -> Result<(), String> {
        let (user, database) = (quote_identifier(&self.user), quote_identifier(&self.database));
        let is = |fact: &str| self.facts[fact] == true;
        let number = |fact: &str| self.facts[fact].as_u64().unwrap_or(0);
        let is_rds = is("is_rds");
        let mut missing = Vec::new();
        if number("number") < 140_000 {
            missing.push("The server is older than PostgreSQL 14, which Spillway needs.".to_owned());
        }
        if is("is_standby") {
            missing.push(
                "The server is a standby, where no slot can be drained. Set PGHOST to the primary."
                    .to_owned(),
            );
        }
        if self.facts["wal_level"] != "logical" {
            let change = match is_rds {
                true => {
                    "set rds.logical_replication = 1 in the parameter group of the cluster or the instance, \
                     and reboot the writer"
                }
                false => "as a superuser, run alter system set wal_level = logical; and restart the server",
            };
            let level = self.facts["wal_level"].as_str().unwrap_or_default();
            missing.push(format!("wal_level is {level}, and must be logical: {change}."));
        }
        if !is("may_replicate") {
            let change = match is_rds {
                true => format!("grant rds_replication to {user};"),
                false => format!("alter role {user} replication;"),
            };
            missing.push(format!(
                "Role {} may not use replication slots. As an administrator: {change}",
                self.user
            ));
        }
        if number("slots") >= number("max_slots") {
            let change = match is_rds {
                true => "raise max_replication_slots in the parameter group, and reboot the writer",
                false => "raise max_replication_slots, and restart the server",
            };
            missing.push(format!(
                "All {} replication slots are taken. Drop one that nobody needs (pg_replication_slots), \
                 or {change}.",
                number("max_slots")
            ));
        }
        if plugin == Plugin::Pgoutput && !is("may_create") {
            missing.push(format!(
                "PLUGIN=pgoutput needs a publication, and role {} may not create one. As an administrator: \
                 grant create on database {database} to {user}; or choose PLUGIN=test_decoding.",
                self.user
            ));
        }
        match missing.is_empty() {
            true => Ok(()),
            false => Err(format!("{}\n{}", self.place(), missing.join("\n"))),
        }
    }

    fn place(&self) -> String {
        let version = self.facts["version"].as_str().unwrap_or_default();
        let Self {
            host,
            port,
            user,
            database,
            ..
        } = self;
        format!("PostgreSQL {version} at {host}:{port}, database {database}, role {user}")
    }

    /// A sentence about server, role and plugin.
    pub(super) fn describe(&self, plugin: Plugin) -> String {
        let tls = if self.has_tls() { "TLS" } else { "no TLS" };
        format!("{}, {tls}, plugin {}", self.place(), plugin.name())
    }

    /// Names of slots that earlier runs left.
    pub(super) fn left_slots(&self) -> impl Iterator<Item = &str> {
        self.facts["left_slots"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
    }

    fn has_tls(&self) -> bool {
        self.facts["has_tls"] == true
    }

    /// Variables by which the function connects as psql has.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        // The function has no mode that falls back. TLS that psql negotiated works for the function, too.
        let mode = variable("PGSSLMODE").filter(|mode| mode.starts_with("verify-"));
        let mode = match (self.has_tls(), mode) {
            (true, Some(mode)) => mode,
            (true, None) => "require".to_owned(),
            (false, _) => "disable".to_owned(),
        };
        let home = variable("HOME").map(PathBuf::from).unwrap_or_default();
        let authorities = variable("PGSSLROOTCERT").map(PathBuf::from);
        let authorities =
            authorities.or_else(|| Some(home.join(".postgresql/root.crt")).filter(|file| file.exists()));
        let mut variables = vec![
            ("PGHOST", self.host.clone()),
            ("PGPORT", self.port.clone()),
            ("PGUSER", self.user.clone()),
            ("PGDATABASE", self.database.clone()),
            ("DB_AUTH", "password".to_owned()),
            // The function wants one. A server that trusts the role does not ask for it.
            ("PGPASSWORD", self.password().unwrap_or_else(|| "none".to_owned())),
            ("PGSSLMODE", mode),
        ];
        variables.extend(authorities.map(|file| ("PGSSLROOTCERT", file.display().to_string())));
        variables
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// `PGPASSWORD`, or the password of libpq's password file.
    fn password(&self) -> Option<String> {
        variable("PGPASSWORD").or_else(|| {
            let file = variable("PGPASSFILE").or_else(|| Some(format!("{}/.pgpass", variable("HOME")?)));
            let login = [&self.host, &self.port, &self.database, &self.user].map(String::as_str);
            let text = std::fs::read_to_string(file?).ok()?;
            text.lines().find_map(|line| password_of_line(line, login))
        })
    }
}

/// Password of a line, if the line is for this login.
///
/// The line has the form `host:port:database:user:password`. `*` matches everything, and a backslash escapes
/// a colon or a backslash.
fn password_of_line(line: &str, login: [&str; 4]) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut fields = vec![String::new()];
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ':' if fields.len() < 5 => fields.push(String::new()),
            '\\' => fields.last_mut()?.extend(letters.next()),
            other => fields.last_mut()?.push(other),
        }
    }
    let password = fields.get(4)?.clone();
    let is_for = fields
        .iter()
        .zip(login)
        .all(|(field, expected)| field == "*" || field == expected);
    is_for.then_some(password)
}

/// Bytes of the log that the slot has not confirmed.
///
/// `None` when the server does not answer.
pub(super) async fn lag_bytes(psql: &mut Psql, slot: &str) -> Option<u64> {
    let query = format!(
        "select greatest(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), confirmed_flush_lsn), 0)::bigint \
         from pg_replication_slots where slot_name = '{slot}';"
    );
    psql.ask(&query).await.ok()?.first()?.parse().ok()
}
