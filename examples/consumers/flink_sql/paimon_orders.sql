-- The present rows of public.orders of each source. A batch query: each engine that reads Paimon can run it.
-- A body that no change had is not null: its mark says that it is not known.

create view orders as
select
    r.source_name,
    r.id,
    r.customer,
    r.amount,
    r.placed,
    case when r.body_at is null then '__debezium_unavailable_value' else r.body end as body
from lake.spillway.orders_rows as r
left join lake.spillway.orders_truncates as f on f.source_name = r.source_name
where r.op <> 'd' and (f.`position` is null or r.`position` >= f.`position`);
