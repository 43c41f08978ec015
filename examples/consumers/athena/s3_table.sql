-- The files that Firehose writes to S3, as the table that the template's Iceberg table is: one row for each
-- event. Replace the bucket. Each statement is run alone: Athena takes one at a time.

create database if not exists spillway;

-- One line, one event. Not a JSON table: each table of the database has other columns.
create external table spillway.lines (line string)
row format serde 'org.apache.hadoop.hive.serde2.RegexSerDe'
with serdeproperties ('input.regex' = '(.*)')
location 's3://spillway-changes-111111111111/changes/';

create or replace view spillway.changes as
select
    json_extract_scalar(line, '$.source.name') as source_name,
    json_extract_scalar(line, '$.source.schema') as schema_name,
    json_extract_scalar(line, '$.source.table') as table_name,
    json_extract_scalar(line, '$.op') as op,
    json_extract_scalar(line, '$.source.position') as position,
    line as event
from spillway.lines;
