//! Backlog of a storm: inserts, updates and deletes whose keys follow Zipf's law.
//!
//! Transactions have from one to 8,000 changes.

use fastrand::Rng;
use tokio_postgres::Client;

use crate::postgres::query::{execute, row, value};
use crate::postgres::sql_text::create_slot_sql;
use crate::zipf::Zipf;

/// Seed of the backlog: all backlogs of one size are the same.
const SEED: u64 = 7;

/// Table, and a function that applies one change per key: a deletion when the key is negative.
///
/// Rows differ in length: one in 5,000 is large.
const SCHEMA: &str = "
    create table storm (id int primary key, n int not null, note text);
    create function write(keys int[], at int) returns void language plpgsql as $$
    declare key int;
    begin
        foreach key in array keys loop
            at := at + 1;
            if key < 0 then
                delete from storm where id = -key;
            else
                insert into storm values
                    (key, at, repeat('x', case when at % 5000 = 0 then 100000 else at % 200 end))
                on conflict (id) do update set n = excluded.n, note = excluded.note;
            end if;
        end loop;
    end $$;
    create publication spillway for all tables;";

/// Creates the slot, then writes changes; returns the end of the log.
///
/// There are `events` changes of `keys` keys.
pub(super) async fn write(client: &Client, slot: &str, events: usize, keys: usize) -> String {
    execute(client, SCHEMA).await;
    execute(client, &create_slot_sql(slot, "pgoutput")).await;
    let mut random = Rng::with_seed(SEED);
    let zipf = Zipf::of(keys);
    let mut exists = vec![false; keys];
    let mut written = 0;
    while written < events {
        let size = match random.u8(..100) {
            0 => random.usize(2_000..8_000),
            1..20 => random.usize(20..200),
            _ => random.usize(1..6),
        };
        let size = size.min(events - written);
        let mut transaction: Vec<i32> = Vec::with_capacity(size);
        for _ in 0..size {
            let key = zipf.draw(&mut random);
            let deletes = exists[key] && random.u8(..100) < 5;
            exists[key] = !deletes;
            let id = i32::try_from(key + 1).expect("a key is an int");
            transaction.push(if deletes { -id } else { id });
        }
        let at = i32::try_from(written).expect("the number of a change is an int");
        written += size;
        row(client, "select write($1, $2)", &[&transaction, &at]).await;
    }
    value(client, "select pg_current_wal_flush_lsn()::text").await
}
