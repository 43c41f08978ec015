-- The present rows of public.orders of each source, kept in the state of the job. Insert them into a sink
-- that takes updates, with the primary key (source_name, id). A body that no change had is not null: its mark
-- says that it is not known.

create view orders as
select
    n.source_name,
    n.id,
    n.customer,
    n.amount,
    n.placed,
    case when b.body_at is null then '__debezium_unavailable_value' else b.body end as body
from (
    -- The newest change of each row. Duplicates have the same position.
    select *
    from (
        select c.*, row_number() over (partition by source_name, id order by `position` desc) as row_rank
        from orders_changes as c
    )
    where row_rank = 1
) as n
left join (
    -- The newest body that is known of each row.
    select *
    from (
        select c.*, row_number() over (partition by source_name, id order by body_at desc) as row_rank
        from orders_changes as c
        where body_at is not null
    )
    where row_rank = 1
) as b on b.source_name = n.source_name and b.id = n.id
left join (
    select source_name, max(`position`) as `position` from orders_truncates group by source_name
) as f on f.source_name = n.source_name
where n.op <> 'd' and (f.`position` is null or n.`position` >= f.`position`);
