-- The table public.orders of each source. Made by table_sql.py, which makes the file of any other table:
--   table_sql.py public.orders
--     --key 'id bigint'
--     --column 'customer varchar(65535)'
--     --column 'amount decimal(12, 2)'
--     --column 'placed timestamptz'
--     --large body

-- Rows, deleted ones included (op d): a delete that was forgotten could not stop an older change that arrives
-- again. body_at is the position of the change that has this value.
create table spillway.orders (
    source_name varchar(128) not null,
    id bigint not null,
    op varchar(1) not null,
    position varchar(64) not null,
    arrived timestamp not null,
    customer varchar(65535),
    amount decimal(12, 2),
    placed timestamptz,
    body varchar(65535),
    body_at varchar(64),
    primary key (source_name, id)
);

-- The body that each deleted row had. A change of the key is a delete and a create at one place of the
-- log. That place is moved_at, the position without its index. The create may lack the body.
create table spillway.orders_deleted_body (
    source_name varchar(128) not null,
    moved_at varchar(64) not null,
    arrived timestamp not null,
    body varchar(65535),
    body_at varchar(64)
);

-- View for queries. A large value that no change had is not null: its mark says that it is not known.
create or replace view public.orders as
select
    source_name,
    id,
    customer,
    amount,
    placed,
    case when body_at is null then '__debezium_unavailable_value' else body end as body
from spillway.orders
where op <> 'd';

-- The changes of the table. If a change does not contain a large value, its position (…_at) is null. A
-- create without it takes it from the old key's row. A value that was omitted for its size (OVERSIZE=omit)
-- did change: it has its own mark, and the former value is not valid.
create or replace view spillway.orders_changes as
select
    e.shard_id::varchar(128) as shard_id,
    lpad(e.sequence_number::varchar(128), 128, '0') as sequence_number,
    e.approximate_arrival_timestamp as arrived,
    e.event.source.name::varchar(128) as source_name,
    e.event.source.position::varchar(64) as position,
    e.event.op::varchar(1) as op,
    case
        when e.event.op::varchar(1) = 'd' then e.event.before.id::bigint
        else e.event.after.id::bigint
    end as id,
    e.event.after.customer::varchar(65535) as customer,
    e.event.after.amount::varchar(65535)::decimal(12, 2) as amount,
    e.event.after.placed::varchar(65535)::timestamptz as placed,
    case
        when strpos(json_serialize(e.event.source.omitted), '"body"') > 0 then '__omitted_because_of_its_size'
        else e.event.after.body::varchar(65535)
    end as body,
    case
        when e.event.op::varchar(1) not in ('c', 'u', 'r') then null
        when strpos(json_serialize(e.event.source.omitted), '"body"') > 0
            then e.event.source.position::varchar(64)
        when coalesce(e.event.after.body::varchar(65535), '') <> '__debezium_unavailable_value'
            then e.event.source.position::varchar(64)
        when e.event.op::varchar(1) = 'c' then e.event.source.position::varchar(64)
    end as body_at
from spillway.events as e
where e.event.source."schema"::varchar(128) = 'public'
    and e.event.source."table"::varchar(128) = 'orders'
    and e.event.op::varchar(1) in ('c', 'u', 'r', 'd', 't');

-- Merges changes that the view has and the table lacks. One transaction: it may fail, and run again, at any
-- time.
create or replace procedure spillway.merge_orders() as $$
begin
    -- One merge at a time. Queries do not read this table.
    lock table spillway.progress;

    -- Temporary tables have names that no other table has: the first drop of a session would find it.
    drop table if exists spillway_orders_batch;
    create temp table spillway_orders_batch as
    select c.*
    from spillway.orders_changes as c
    left join spillway.progress as p on p.target = 'orders' and p.shard_id = c.shard_id
    where p.shard_id is null or c.sequence_number > p.sequence_number;

    drop table if exists spillway_orders_read;
    create temp table spillway_orders_read as
    select shard_id, max(sequence_number) as sequence_number from spillway_orders_batch group by shard_id;
    delete from spillway.progress using spillway_orders_read as r
    where spillway.progress.target = 'orders' and spillway.progress.shard_id = r.shard_id;
    insert into spillway.progress (target, shard_id, sequence_number)
    select 'orders', shard_id, sequence_number from spillway_orders_read;

    -- Truncates and repairs.
    insert into spillway.floors (target, source_name, position)
    select 'orders', source_name, max(position) from spillway_orders_batch where op = 't'
    group by source_name;
    delete from spillway_orders_batch using spillway.floors as f
    where f.target = 'orders' and f.source_name = spillway_orders_batch.source_name
        and spillway_orders_batch.position < f.position;
    delete from spillway.orders using spillway.floors as f
    where f.target = 'orders' and f.source_name = spillway.orders.source_name
        and spillway.orders.position < f.position;
    delete from spillway_orders_batch where op = 't' or id is null;

    -- The changes, and the rows that they change.
    drop table if exists spillway_orders_known;
    create temp table spillway_orders_known as
    select source_name, id, op, position, arrived, customer, amount, placed, body, body_at
    from spillway_orders_batch
    union all
    select o.source_name, o.id, o.op, o.position, o.arrived, o.customer, o.amount, o.placed, o.body, o.body_at
    from spillway.orders as o
    join (select distinct source_name, id from spillway_orders_batch) as b
        on b.source_name = o.source_name and b.id = o.id;

    -- The newest change of each row.
    drop table if exists spillway_orders_newest;
    create temp table spillway_orders_newest as
    select k.* from spillway_orders_known as k
    qualify row_number() over (partition by k.source_name, k.id order by k.position desc) = 1;

    -- The newest body that is known of each row. A change that is sent twice may have its body only
    -- once. Then that one counts.
    drop table if exists spillway_orders_newest_body;
    create temp table spillway_orders_newest_body as
    select k.source_name, k.id, k.body, k.body_at from spillway_orders_known as k
    where k.body_at is not null
    qualify row_number() over (
        partition by k.source_name, k.id
        order by k.body_at desc, case when k.body = '__debezium_unavailable_value' then 1 else 0 end
    ) = 1;

    -- The body that each deleted row had.
    insert into spillway.orders_deleted_body (source_name, moved_at, arrived, body, body_at)
    select d.source_name, left(d.position, 33), d.arrived, k.body, k.body_at
    from spillway_orders_batch as d
    join spillway_orders_known as k
        on k.source_name = d.source_name and k.id = d.id and k.body_at < d.position
    left join spillway.orders_deleted_body as o
        on o.source_name = d.source_name and o.moved_at = left(d.position, 33)
    where d.op = 'd' and o.moved_at is null
    qualify row_number() over (
        partition by d.source_name, d.position
        order by k.body_at desc, case when k.body = '__debezium_unavailable_value' then 1 else 0 end
    ) = 1;

    drop table if exists spillway_orders_merge;
    create temp table spillway_orders_merge as
    select
        n.source_name, n.id, n.op, n.position, n.arrived, n.customer, n.amount, n.placed,
        l0.body, l0.body_at
    from spillway_orders_newest as n
    left join spillway_orders_newest_body as l0 on l0.source_name = n.source_name and l0.id = n.id;

    merge into spillway.orders using spillway_orders_merge as m
        on spillway.orders.source_name = m.source_name and spillway.orders.id = m.id
    when matched then update set
        op = m.op,
        position = m.position,
        arrived = m.arrived,
        customer = m.customer,
        amount = m.amount,
        placed = m.placed,
        body = m.body,
        body_at = m.body_at
    when not matched then insert
        (source_name, id, op, position, arrived, customer, amount, placed, body, body_at)
    values
        (m.source_name, m.id, m.op, m.position, m.arrived, m.customer, m.amount, m.placed, m.body, m.body_at);

    -- A changed key: the body is that of the old key's row, which may arrive later, from another shard.
    -- A row whose key changed n times since the last merge has its body after n merges.
    update spillway.orders_deleted_body set body = d.body
    from spillway.orders_deleted_body as d
    where spillway.orders_deleted_body.source_name = d.source_name
        and left(spillway.orders_deleted_body.body_at, 33) = d.moved_at
        and spillway.orders_deleted_body.body = '__debezium_unavailable_value'
        and coalesce(d.body, '') <> '__debezium_unavailable_value';
    update spillway.orders set body = d.body
    from spillway.orders_deleted_body as d
    where spillway.orders.source_name = d.source_name and left(spillway.orders.body_at, 33) = d.moved_at
        and spillway.orders.body = '__debezium_unavailable_value'
        and coalesce(d.body, '') <> '__debezium_unavailable_value';

    -- Older than every record of the stream: no change of these rows can arrive again.
    delete from spillway.orders_deleted_body where arrived < dateadd(day, -8, getdate());
    delete from spillway.orders where op = 'd' and arrived < dateadd(day, -8, getdate());
end;
$$ language plpgsql;
