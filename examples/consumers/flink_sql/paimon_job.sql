-- Keeps the rows of public.orders in tables of Paimon.

-- Deleted rows stay, with op d: an older change that arrives later must not revive them. A change replaces
-- the columns of a sequence group if its position is not less than that of the row, and none of them if its
-- position is null.
create table if not exists lake.spillway.orders_rows (
    source_name string,
    id bigint,
    op string,
    `position` string,
    customer string,
    amount decimal(12, 2),
    placed timestamp_ltz(6),
    body string,
    body_at string,
    primary key (source_name, id) not enforced
) with (
    'merge-engine' = 'partial-update',
    'fields.position.sequence-group' = 'op,customer,amount,placed',
    'fields.body_at.sequence-group' = 'body'
);

create table if not exists lake.spillway.orders_truncates (
    source_name string,
    `position` string,
    primary key (source_name) not enforced
) with ('sequence.field' = 'position');

-- Both inserts run in one job.
execute statement set begin
insert into lake.spillway.orders_rows
select source_name, id, op, `position`, customer, amount, placed, body, body_at from orders_changes;
insert into lake.spillway.orders_truncates select source_name, `position` from orders_truncates;
end;
