-- The rows of the batch replace :rows, one for each key. A position is compared only with that of the same
-- source. A server that does not know the types of parameters needs the cast.
merge into rows as t
using (values (:rows)) as s
    (source_name, schema_name, table_name, row_key, position, deleted, waits_for, values_at, data)
on t.source_name = s.source_name
    and t.schema_name = s.schema_name
    and t.table_name = s.table_name
    and t.row_key = s.row_key
when matched and s.position >= t.position then
    update set position = s.position, deleted = cast(s.deleted as boolean),
               waits_for = s.waits_for, values_at = s.values_at, data = s.data
when not matched then
    insert (source_name, schema_name, table_name, row_key, position, deleted, waits_for, values_at, data)
    values (s.source_name, s.schema_name, s.table_name, s.row_key, s.position, cast(s.deleted as boolean),
            s.waits_for, s.values_at, s.data)
