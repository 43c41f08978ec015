//! The backlog of the storm: inserts, updates and deletes of keys drawn by Zipf's law, in transactions of very different
//! size.

use tokio_postgres::Client;

use crate::zipf::Zipf;

/// Draws the backlog; every backlog of one size is the same.
const SEED: u64 = 7;

/// One change a key, a deletion when it is negative. Rows differ in length, one in 5,000 is large.
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

/// Writes `events` changes of `keys` keys, and returns the end of the log. They are all behind the slot `template`.
pub(super) async fn write(admin: &Client, template: &str, events: usize, keys: usize) -> String {
    super::run(admin, SCHEMA).await;
    let slot = format!("select pg_create_logical_replication_slot('{template}', 'pgoutput')");
    super::run(admin, &slot).await;
    let write = admin.prepare("select write($1, $2)").await;
    let write = write.unwrap_or_else(|error| panic!("the function was just made: {error:?}"));
    let mut random = fastrand::Rng::with_seed(SEED);
    let zipf = Zipf::of(keys);
    let mut there = vec![false; keys];
    let mut written = 0;
    while written < events {
        let size = match random.u8(..100) {
            0 => random.usize(2_000..8_000),
            1..20 => random.usize(20..200),
            _ => random.usize(1..6),
        };
        let mut transaction = Vec::new();
        for _ in 0..size.min(events - written) {
            let key = zipf.draw(&mut random);
            let deletes = there[key] && random.u8(..100) < 5;
            there[key] = !deletes;
            let id = i32::try_from(key + 1).expect("keys are numbered by int");
            transaction.push(if deletes { -id } else { id });
        }
        let at = i32::try_from(written).expect("changes are numbered by int");
        written += transaction.len();
        let done = admin.execute(&write, &[&transaction, &at]).await;
        done.unwrap_or_else(|error| panic!("the backlog cannot be written: {error:?}"));
    }
    let end = admin
        .query_one("select pg_current_wal_flush_lsn()::text", &[])
        .await;
    end.unwrap_or_else(|error| panic!("the server does not answer: {error:?}"))
        .get(0)
}
