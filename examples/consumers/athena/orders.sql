-- The present rows of public.orders of each source: id bigint primary key, customer text, amount
-- numeric(12,2), placed timestamptz, body text. body is large: an update that leaves it unchanged does not
-- contain it. For another table, replace the names and the columns. Repeat the expressions for body for
-- each large column.

create or replace view spillway.orders as
with recursive changes as (
    -- body_at is null where the change does not contain the body. A create without its body takes it from the
    -- old key's row. A body that was omitted for its size (OVERSIZE=omit) did change: it has its own mark,
    -- and the former body is not valid.
    select
        source_name,
        op,
        position,
        cast(
            json_extract_scalar(event, case when op = 'd' then '$.before.id' else '$.after.id' end) as bigint
        ) as id,
        json_extract_scalar(event, '$.after.customer') as customer,
        cast(json_extract_scalar(event, '$.after.amount') as decimal(12, 2)) as amount,
        -- In UTC, with six digits: from_iso8601_timestamp returns milliseconds. Views have no time zones. A
        -- value that Athena cannot cast, such as infinity, is null: it would stop each query of the view.
        try_cast(
            replace(replace(json_extract_scalar(event, '$.after.placed'), 'T', ' '), 'Z', '') as timestamp(6)
        ) as placed,
        case
            when json_array_contains(json_extract(event, '$.source.omitted'), 'body')
                then '__omitted_because_of_its_size'
            else json_extract_scalar(event, '$.after.body')
        end as body,
        case
            when op not in ('c', 'u', 'r') then null
            when json_array_contains(json_extract(event, '$.source.omitted'), 'body') then position
            when coalesce(json_extract_scalar(event, '$.after.body'), '') <> '__debezium_unavailable_value'
                then position
            when op = 'c' then position
        end as body_at
    from spillway.changes
    where schema_name = 'public' and table_name = 'orders' and op in ('c', 'u', 'r', 'd', 't')
),

-- Rows whose position is less do not exist: a truncate, or the end of a repair. Of this source only.
ends as (
    select source_name, position from changes where op = 't'
    union all
    select source_name, json_extract_scalar(content, '$.since')
    from (
        select source_name, from_utf8(from_base64(json_extract_scalar(event, '$.message.content'))) as content
        from spillway.changes
        where op = 'm' and json_extract_scalar(event, '$.message.prefix') = 'spillway.repaired'
    )
    where json_array_contains(json_extract(content, '$.tables'), 'public.orders')
),

floors as (
    select source_name, max(position) as position from ends group by source_name
),

living as (
    select c.*
    from changes as c
    left join floors as f on f.source_name = c.source_name
    where c.op <> 't' and c.id is not null and (f.position is null or c.position >= f.position)
),

-- The newest change of each row. Duplicates have the same position.
newest as (
    select *
    from (
        select l.*, row_number() over (partition by source_name, id order by position desc) as age
        from living as l
    )
    where age = 1
),

-- The newest body that is known of each row, and of each row at its deletion. A change of the key is a delete
-- and a create whose positions differ in the index only (the first 33 characters are equal).
known as (
    select source_name, id, body, body_at
    from (
        select
            l.*,
            row_number() over (
                partition by source_name, id
                order by body_at desc, case when body = '__debezium_unavailable_value' then 1 else 0 end
            ) as age
        from living as l
        where body_at is not null
    )
    where age = 1
),

deleted as (
    select source_name, moved_at, body, body_at
    from (
        select
            d.source_name,
            substr(d.position, 1, 33) as moved_at,
            l.body,
            l.body_at,
            row_number() over (
                partition by d.source_name, d.position
                order by l.body_at desc, case when l.body = '__debezium_unavailable_value' then 1 else 0 end
            ) as age
        from living as d
        join living as l on l.source_name = d.source_name and l.id = d.id and l.body_at < d.position
        where d.op = 'd'
    )
    where age = 1
),

-- Follows up to eight changes of a row's key to the body. Athena allows ten steps.
bodies (source_name, id, body, body_at, steps) as (
    select source_name, id, body, body_at, 0 from known
    union all
    select b.source_name, b.id, d.body, d.body_at, b.steps + 1
    from bodies as b
    join deleted as d on d.source_name = b.source_name and d.moved_at = substr(b.body_at, 1, 33)
    where b.body = '__debezium_unavailable_value' and b.steps < 8
)

-- A body that no change had is not null: its mark says that it is not known.
select
    n.source_name,
    n.id,
    n.customer,
    n.amount,
    n.placed,
    case when b.body_at is null then '__debezium_unavailable_value' else b.body end as body
from newest as n
left join (
    select *
    from (
        select s.*, row_number() over (partition by source_name, id order by steps desc) as age
        from bodies as s
    )
    where age = 1
) as b on b.source_name = n.source_name and b.id = n.id
where n.op <> 'd';
