-- The events of the stream. Replace REGION and ACCOUNT. Each view reads the fields that this table declares:
-- add the columns of your tables to before (the key) and after.

create table events (
    op string,
    `before` row<id bigint>,
    `after` row<id bigint, customer string, amount decimal(12, 2), placed timestamp_ltz(6), body string>,
    `source` row<name string, `schema` string, `table` string, `position` string, omitted array<string>>,
    message row<prefix string, content string>
) with (
    'connector' = 'kinesis',
    'stream.arn' = 'arn:aws:kinesis:REGION:ACCOUNT:stream/spillway',
    'aws.region' = 'REGION',
    'source.init.position' = 'TRIM_HORIZON',
    'format' = 'json',
    'json.timestamp-format.standard' = 'ISO-8601'
);
