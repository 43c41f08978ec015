-- The present rows of public.orders of each source. A batch query: each engine that reads Paimon can run it.

create view orders as
select r.source_name, r.id, r.customer, r.amount, r.placed, r.body
from lake.spillway.orders_rows as r
left join lake.spillway.orders_truncates as f on f.source_name = r.source_name
where r.op <> 'd' and (f.`position` is null or r.`position` >= f.`position`);
