//! Backlogs of changes, for scenarios about delivery rather than content.
//!
//! There is one table with many keys, and a second slot that is never confirmed. With it PostgreSQL itself
//! counts the expected events.

use scenarios::consumer::Delivery;
use scenarios::fixture::{Fixture, Plugin};
use scenarios::postgres::sql_text::create_slot_sql;

/// Table of the backlog, as the oracle and the consumer write it.
pub(crate) const TABLE: &str = "public.t";

/// Creates the empty table and the slot that counts events.
pub(crate) async fn create(fixture: &Fixture) {
    fixture
        .sql("create table t (id int primary key, n int not null, note text)")
        .await;
    let count = format!("{}_count", fixture.slot);
    fixture.sql(&create_slot_sql(&count, "pgoutput")).await;
}

/// Writes about this number of changes over this number of keys.
///
/// The transactions have about five changes each. One change in ten is a delete, one in ten changes the key;
/// the others are inserts and updates. The same seed on the same rows writes the same changes.
pub(crate) async fn write(fixture: &Fixture, seed: u32, changes: u32, keys: u32) {
    let seed = f64::from(seed % 1000) / 1000.0;
    let sql = format!(
        "do $$
        declare k int;
        begin
            perform setseed({seed});
            for i in 1..{changes} loop
                k := 1 + floor(random() * {keys});
                case floor(random() * 10)
                when 0 then delete from t where id = k;
                when 1 then update t set id = -k, n = i
                     where id = k and not exists (select from t where id = -k);
                else insert into t values (k, i, repeat('x', i % 50))
                     on conflict (id) do update set n = excluded.n, note = excluded.note;
                end case;
                if random() < 0.2 then commit; end if;
            end loop;
        end $$"
    );
    fixture.sql(&sql).await;
}

/// Asserts that the stream has the events of the log.
///
/// They result in the rows of the table. Returns the content of the stream.
pub(crate) async fn compare(fixture: &Fixture) -> Delivery {
    let delivery = fixture.compare(&[TABLE]).await;
    assert_eq!(
        delivery.changes().len(),
        events(fixture).await,
        "the stream has other events than the log"
    );
    delivery
}

/// Number of events that the stream must have since [`create`].
///
/// PostgreSQL counts all changes since then. A change of the key counts twice.
pub(crate) async fn events(fixture: &Fixture) -> usize {
    let sql = format!(
        r"select count(*) filter (where substr(data, 1, 1) in ('I', 'U', 'D'))
               + count(*) filter (where substr(data, 1, 1) = 'U' and substr(data, 6, 1) = 'K')
          from pg_logical_slot_peek_binary_changes('{}_count', null, null,
              'proto_version', '1', 'publication_names', 'spillway')",
        fixture.slot
    );
    let count = fixture.value(&sql).await.expect("a count is never null");
    count.parse().unwrap_or_else(|error| panic!("{count}: {error}"))
}

/// Fixture whose slot was drained once and has a backlog.
pub(crate) async fn fixture_with_backlog() -> Fixture {
    drain_and_refill(Fixture::new(Plugin::Pgoutput).await).await
}

/// Drains a first backlog, and writes a second one.
pub(crate) async fn drain_and_refill(fixture: Fixture) -> Fixture {
    create(&fixture).await;
    write(&fixture, 1, 40, 20).await;
    fixture.drain().await;
    write(&fixture, 2, 40, 20).await;
    fixture
}
