-- Objects that the merges of all tables share. Run it once, as the owner of everything here. Replace the ARN
-- of the role and the name of the stream, spillway.

create external schema kinesis from kinesis iam_role 'arn:aws:iam::111111111111:role/redshift-reads-spillway';

create schema spillway;

-- One row for each record of the stream. A record that is no JSON is kept beside the events: a view that
-- leaves it out would hide a loss.
create materialized view spillway.events auto refresh yes as
select
    approximate_arrival_timestamp,
    shard_id,
    sequence_number,
    case when can_json_parse(kinesis_data) then json_parse(kinesis_data) end as event,
    case when not can_json_parse(kinesis_data) then kinesis_data end as unparsed
from kinesis."spillway";

-- The last record of each shard that was merged into a table. Sequence numbers have 128 digits, so that they
-- compare as strings.
create table spillway.progress (
    target varchar(128) not null,
    shard_id varchar(128) not null,
    sequence_number varchar(128) not null
);

-- Rows of a table and a source whose position is less than this one do not exist: a truncate, or the end of a
-- repair.
create table spillway.floors (
    target varchar(128) not null,
    source_name varchar(128) not null,
    position varchar(64) not null
);

-- Spillway's own messages. The content is JSON.
create view spillway.control_messages as
select
    e.approximate_arrival_timestamp as arrived,
    e.event.source.name::varchar(128) as source_name,
    e.event.source.position::varchar(64) as position,
    e.event.message.prefix::varchar(256) as prefix,
    case when e.event.message.prefix::varchar(256) in ('spillway.repaired', 'spillway.gap_accepted')
        then from_varbyte(to_varbyte(e.event.message.content::varchar(65535), 'base64'), 'utf8')
    end as content
from spillway.events as e
where e.event.op::varchar(1) = 'm'
    and e.event.message.prefix::varchar(256) in ('spillway.repaired', 'spillway.gap_accepted');
