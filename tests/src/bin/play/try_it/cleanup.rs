//! Drop of the slot and the publication when this process ends.
//!
//! The cause of the end does not matter. A shell waits for the end of its standard input, a pipe from this
//! process. The kernel closes it in any case, also after SIGKILL. The shell leads its own process group, so
//! an interrupt at the terminal does not reach it.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use scenarios::postgres::sql_text::drop_slot_sql;

/// A shell that waits.
pub(super) struct Cleanup {
    slot: String,
    shell: Child,
}

/// Script of the shell. A line that it reads says that the slot exists.
///
/// The function is killed at the same moment, and a session of it may still run. It could create the slot
/// after this script dropped it. So the script first ends the sessions. It stops when it has found nothing
/// twice in a row.
const SCRIPT: &str = r#"
trap '' HUP INT TERM PIPE
slot=$1
drop=$2
exists=
while read -r line; do exists=1; done
clean=0
end=$(($(date +%s) + 30))
while [ "$clean" -lt 2 ] && [ "$(date +%s)" -lt "$end" ]; do
    left=$(PGCONNECT_TIMEOUT=${PGCONNECT_TIMEOUT:-5} psql -XAtqw 2>/dev/null <<SQL
\o /dev/null
set client_min_messages = error;
select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'spillway $slot';
select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '$slot' and not active;
select exists (select from pg_publication where pubname = '$slot') as has_publication \gset
\if :has_publication
drop publication "$slot";
\endif
\o
select (select count(*) from pg_replication_slots where slot_name = '$slot')
     + (select count(*) from pg_publication where pubname = '$slot')
     + (select count(*) from pg_stat_activity where application_name = 'spillway $slot');
SQL
    )
    if [ "$left" = 0 ]; then clean=$((clean + 1)); else clean=0; fi
    sleep 0.2
done
if [ "$clean" -lt 2 ]; then
    echo "slot $slot could not be dropped. Run in its database: $drop" >&2
    exit 1
fi
[ -z "$exists" ] || echo "slot $slot is dropped" >&2
"#;

/// The statement that drops the slot, for the user.
pub(super) fn statement(slot: &str) -> String {
    drop_slot_sql(slot) + ";"
}

impl Cleanup {
    /// Starts the shell. Start it before anything is created.
    ///
    /// # Errors
    /// There is no shell.
    pub(super) fn start(slot: &str) -> Result<Self, String> {
        let shell = Command::new("sh")
            .args(["-c", SCRIPT, "cleanup", slot, &statement(slot)])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|error| format!("sh does not start: {error}"))?;
        Ok(Self {
            slot: slot.to_owned(),
            shell,
        })
    }

    /// Makes the shell report that the slot is dropped.
    pub(super) fn slot_exists(&mut self) {
        if let Some(input) = &mut self.shell.stdin {
            let _ = writeln!(input, "exists");
        }
    }

    /// Waits until slot and publication are dropped. The shell reports it on standard error.
    ///
    /// # Errors
    /// They are not dropped: the server is not reachable, or another session has the slot.
    pub(super) fn finish(mut self) -> Result<(), String> {
        drop(self.shell.stdin.take());
        match self.shell.wait() {
            Ok(status) if status.success() => Ok(()),
            _ => Err(format!("slot {} may still exist", self.slot)),
        }
    }
}
