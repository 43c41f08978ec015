//! The queries of a slot: its rows, and its advance.

use postgres_protocol::escape::escape_literal;

use crate::base::window::{AcknowledgedPrefix, Window};
use crate::plugin::{ChangeTag, Plugin};

/// Maximum number of commit rows that the first pass sends.
///
/// The first pass stops after this number of commits. If the window has fewer commits, the first pass reads
/// the whole result, which costs about a twentieth of the decoding. If at least this number of commits
/// precedes that of a large transaction, the first pass does not send its commit row. Then [`LARGE_COMMITS`]
/// decodes the window a second time.
const FIRST_COMMITS: usize = 1_000;

/// The `COPY` statement for a window's rows, in the binary format.
///
/// Compared with a query, `COPY` saves the client an allocation and several look-ups for each row. It accepts
/// no parameters, so the values are literals. `options` are those of the plugin: a name, its value, the next
/// name, and so on.
///
/// Each row has four columns: `lsn`, `data`, `oversize_bytes`, and `commit_of`. A row of more than 4 MiB
/// arrives in slices of 1 MiB. In each slice, `oversize_bytes` is the length of the whole row; otherwise it
/// is null. The query joins the slices to their row. The join is lateral, so it can only be a nested loop,
/// which preserves the order of the rows and of their slices. Because of `offset 0`, the planner does not
/// merge the subquery into the query. So the server checks the length once for a row, and calls
/// `generate_series` only for a row of more than 4 MiB.
///
/// The reader sends a part of a transaction only if it knows the end of the commit record. With wal2json, the
/// begin row has it. With the other plugins, the server sends the first commit rows before all other rows.
/// There, `commit_of` is the transaction's id. Later it sends them again, in the order of the log. There, and
/// in all other rows, `commit_of` is null. So the server need not decode the window again to find a commit
/// row: see [`in_two_passes`].
///
/// The query omits the changes of the window's acknowledged prefix, but not the rows that describe tables.
pub(super) fn copy_peek<'o>(
    slot: &str,
    window: Window,
    options: impl Iterator<Item = &'o String>,
    plugin: Plugin,
) -> String {
    let options: Vec<String> = options.map(|option| escape_literal(option)).collect();
    let peek = format!(
        "pg_logical_slot_peek_binary_changes(
           {slot}, '{upto}'::pg_lsn, {rows}, variadic array[{options}]::text[])",
        slot = escape_literal(slot),
        upto = window.upto,
        rows = window.rows,
        options = options.join(", "),
    );
    let condition = window.acknowledged_prefix.map_or_else(
        || "true".to_owned(),
        |prefix| unacknowledged_condition(prefix, plugin.change_tag()),
    );
    let rows = match plugin.begins_with_commit_end() {
        true => format!("(select lsn, data, null::xid as commit_of from {peek} where {condition}) as peeked"),
        false => in_two_passes(&peek, &condition, plugin.commit_prefix()),
    };
    format!(
        "copy (
           select lsn,
                  case when slice is null then data
                       else substr(data, slice * 1048576 + 1, 1048576) end as data,
                  case when slice is not null then octet_length(data) end as oversize_bytes,
                  commit_of
           from {rows}
                left join lateral (select slice
                                   from generate_series(0, (octet_length(data) - 1) / 1048576) as slice
                                   where octet_length(data) > 4194304
                                   offset 0) as slices on true
         ) to stdout (format binary)",
    )
}

/// The first [`FIRST_COMMITS`] commit rows of a peek, then all its rows.
///
/// The subquery is lateral, so the server runs it once for each pass: a nested loop. The peek itself runs
/// only in the first pass. The server stores its result, and the second pass reads the stored result.
/// PostgreSQL runs such a function again only if its arguments change (`ExecReScanFunctionScan`), and these
/// are constant. In the second pass the limit is null, which means no limit.
fn in_two_passes(peek: &str, condition: &str, commit_prefix: &[u8]) -> String {
    format!(
        "(values (1), (2)) as pass(number),
         lateral (select lsn, data, case number when 1 then xid end as commit_of
                  from {peek}
                  where (number = 2 or substr(data, 1, {length}) = '\\x{prefix}'::bytea) and {condition}
                  limit case number when 1 then {FIRST_COMMITS} end) as peeked",
        length = commit_prefix.len(),
        prefix = hex::encode(commit_prefix),
    )
}

/// The condition that omits the acknowledged changes of a transaction.
fn unacknowledged_condition(AcknowledgedPrefix { xid, end }: AcknowledgedPrefix, tag: ChangeTag) -> String {
    let bytes = tag
        .bytes
        .iter()
        .map(|bytes| format!("'\\x{}'::bytea", hex::encode(bytes)));
    let bytes: Vec<String> = bytes.collect();
    format!(
        "not (lsn < '{end}'::pg_lsn and xid::text = '{xid}'
              and substr(data, {byte_number}, 1) = any(array[{bytes}]))",
        byte_number = tag.byte_number,
        bytes = bytes.join(", "),
    )
}

/// The commits of the transactions with more than $8 bytes of rows.
///
/// For each row, $7 bytes are added. The commit row has the greatest LSN of its transaction. Only this row
/// begins with the plugin's commit prefix $6, of $5 bytes.
pub(super) const LARGE_COMMITS: &str = "
    select xid::text::int8 as transaction_id,
           max(lsn) as commit_lsn,
           (array_agg(data) filter (where substr(data, 1, $5) = $6))[1] as commit_row
    from pg_logical_slot_peek_binary_changes($1, $2, $3, variadic $4::text[])
    group by xid
    having sum(octet_length(data) + $7::int8) > $8::int8";

/// The rows of at most one kilobyte that contain the text $5.
pub(super) const ROWS_WITH_TEXT: &str = "
    select lsn, data
    from pg_logical_slot_peek_binary_changes($1, $2, $3, variadic $4::text[])
    where octet_length(data) <= 1024 and position(convert_to($5::text, 'UTF8') in data) > 0";

/// Advances slot $2 to $1, if the log on disk reaches $1.
///
/// Without this condition, PostgreSQL would advance to the end of a log that does not reach $1. Such a server
/// lost the end of its log, for example in a failover. The log that it wrote since then may have changes that
/// were not read.
pub(super) const ADVANCE: &str = "
    select case when pg_current_wal_flush_lsn() >= $1 then
             (select end_lsn from pg_replication_slot_advance($2, $1)) end as end_lsn";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::lsn::Lsn;
    use crate::plugin::Plugin;

    #[test]
    fn the_values_of_a_copy_are_literals() {
        let window = Window {
            upto: Lsn(0x16_B374_D848),
            rows: 7,
            acknowledged_prefix: Some(AcknowledgedPrefix { xid: 42, end: Lsn(9) }),
        };
        let options = [
            "publication_names".to_owned(),
            r#""it's","back\slash""#.to_owned(),
        ];
        let sql = copy_peek("slot", window, options.iter(), Plugin::Pgoutput);
        for part in [
            r#"'slot', '16/B374D848'::pg_lsn, 7, variadic array['publication_names', "#,
            r#" E'"it''s","back\\slash"']::text[]"#,
            "lsn < '0/9'::pg_lsn and xid::text = '42'",
            r"substr(data, 1, 1) = any(array['\x49'::bytea, ",
            r"substr(data, 1, 1) = '\x43'::bytea) and not",
            "left join lateral (select slice",
            "offset 0) as slices on true",
        ] {
            assert!(sql.contains(part), "{part} in {sql}");
        }
    }
}
