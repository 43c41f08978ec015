-- The changes of public.orders of each source: id bigint primary key, customer text, amount numeric(12,2),
-- placed timestamptz, body text. body is large: an update that leaves it unchanged does not contain it. For
-- another table, replace the names and the columns. Repeat the expressions for body for each large column.

-- body_at is the position of a change that contains the body. A change of the key is a delete and a create,
-- and the create may lack the body. Its body_at is the first two parts of the position, 33 characters, so the
-- same create with the body sorts after it. If OVERSIZE=omit removed the body, the earlier body is no longer
-- valid.
create view orders_changes as
select
    e.`source`.name as source_name,
    case when e.op = 'd' then e.`before`.id else e.`after`.id end as id,
    e.op,
    e.`source`.`position` as `position`,
    e.`after`.customer as customer,
    e.`after`.amount as amount,
    e.`after`.placed as placed,
    e.`after`.body as body,
    case
        when e.op = 'd' then cast(null as string)
        when coalesce(e.`after`.body, '') <> '__debezium_unavailable_value' then e.`source`.`position`
        when e.op = 'c' or array_contains(e.`source`.omitted, 'body') then left(e.`source`.`position`, 33)
    end as body_at
from events as e
where e.op in ('c', 'u', 'r', 'd') and e.`source`.`schema` = 'public' and e.`source`.`table` = 'orders';

-- Positions of truncates and repairs. Rows of the source with a smaller position no longer exist.
create view orders_truncates as
select e.`source`.name as source_name, e.`source`.`position` as `position`
from events as e
where e.op = 't' and e.`source`.`schema` = 'public' and e.`source`.`table` = 'orders'
union all
select m.source_name, json_value(m.content, '$.since') as `position`
from (
    select e.`source`.name as source_name, from_base64(e.message.content) as content
    from events as e
    where e.op = 'm' and e.message.prefix = 'spillway.repaired'
) as m
where json_exists(m.content, '$.tables[?(@ == "public.orders")]');
