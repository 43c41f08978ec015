//! The queries of a slot: its rows, and its advance.

/// The rows of the slot $1 up to $2, about $3 of them, with the plugin's options $4.
///
/// With `condition`, only the rows for which it holds. A row of more than 4 MiB arrives in slices of 1 MiB. Each
/// slice is a row of the result, with the length of the whole row in `oversize_bytes`. `generate_series` in
/// the list of columns keeps their order. For a row of one slice it costs about a tenth of its decoding time.
fn peek_where(condition: &str) -> String {
    format!(
        "select lsn,
                case when octet_length(data) <= 4194304 then data
                     else substr(data, slice * 1048576 + 1, 1048576) end as data,
                case when octet_length(data) > 4194304 then octet_length(data) end as oversize_bytes
         from (select lsn, data,
                      generate_series(0, case when octet_length(data) > 4194304
                                              then (octet_length(data) - 1) / 1048576 else 0 end) as slice
               from pg_logical_slot_peek_binary_changes($1, $2, $3, variadic $4)
               {condition}) as sliced"
    )
}

/// Every row of a window.
pub(super) fn peek() -> String {
    peek_where("")
}

/// The rows without the changes of the transaction $6 before $5, which were sent already.
///
/// The rows that describe tables stay. $7 and $8 are the plugin's mark of a change.
pub(super) fn peek_without_sent() -> String {
    peek_where("where not (lsn < $5 and xid::text = $6 and substr(data, $7, 1) = any($8))")
}

/// The commits of the transactions whose rows take more than $8 bytes, with $7 bytes added for each row.
///
/// The commit row has the greatest LSN of its transaction. Only this row begins with the plugin's mark $6, of
/// $5 bytes.
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

/// Advances the slot $2 to $1, unless the log on disk ends before $1.
///
/// Without this guard, PostgreSQL would advance to the log's end instead. Where the log was set back, the
/// slot would then skip what is written up to $1 later.
pub(super) const ADVANCE: &str = "
    select case when pg_current_wal_flush_lsn() >= $1 then
             (select end_lsn from pg_replication_slot_advance($2, $1)) end as end_lsn";
