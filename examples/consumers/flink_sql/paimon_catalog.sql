-- The tables of Apache Paimon. Replace BUCKET.

create catalog lake with ('type' = 'paimon', 'warehouse' = 's3://BUCKET/lake');

create database if not exists lake.spillway;
