//! A cluster of servers fails over as scenarios ask it to, and the proxy before it disturbs connections as they ask.

use std::time::Duration;

use scenarios::cluster::{Carried, Cluster};
use scenarios::fixture::{Fixture, Plugin};
use scenarios::postgres::REPLUSER;
use scenarios::proxy::{Fault, Proxy, Way};
use scenarios::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::cluster::{restart_slot_mid_transaction, start_cluster};
use crate::support::positions::parse_lsn;

crate::scenarios![
    a_pair_fails_over_again_and_again,
    a_commit_waits_for_the_standby,
    a_slot_that_is_synchronised_no_more_lags_after_a_promotion,
    a_slot_that_lost_its_snapshots_decodes_nothing_after_a_promotion,
    a_cut_resets_who_is_connected_and_nobody_else,
    a_cut_after_some_bytes_lets_exactly_these_through,
    a_stalled_way_holds_bytes_back_and_loses_none,
    a_half_closed_way_ends_and_the_other_goes_on,
    a_refusing_proxy_lets_nobody_in_until_it_is_calm,
    a_proxy_leads_new_connections_to_where_it_points,
];

const LIMIT: Duration = Duration::from_secs(30);

async fn a_pair_fails_over_again_and_again() {
    for version in [14, 17] {
        let cluster = start_cluster(version).await;
        cluster.primary().create_database("d").await;
        let admin = cluster.primary().admin("d").await;
        admin.batch_execute("create table t (id int)").await.unwrap();
        for round in 1..=3 {
            let writer = cluster.primary().port();
            let admin = cluster.primary().admin("d").await;
            let insert = format!("insert into t values ({round})");
            admin.batch_execute(&insert).await.unwrap();
            cluster.failover().await;
            assert_ne!(cluster.primary().port(), writer, "the other one writes");
            let admin = cluster.primary().admin("d").await;
            let row = admin.query_one("select count(*) from t", &[]).await.unwrap();
            assert_eq!(row.get::<_, i64>(0), round, "what was committed is there");
            assert_eq!(
                port_behind(&cluster).await,
                cluster.primary().port(),
                "the endpoint leads there"
            );
            cluster.rejoin().await;
        }
    }
}

/// Of the server that a function would speak to now.
async fn port_behind(cluster: &Cluster) -> u16 {
    let mut config = tokio_postgres::Config::new();
    let (user, password) = REPLUSER;
    config
        .host("127.0.0.1")
        .port(cluster.endpoint().port())
        .user(user)
        .password(password)
        .dbname("d");
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let row = client.query_one("show port", &[]).await.unwrap();
    row.get::<_, String>(0).parse().unwrap()
}

async fn a_commit_waits_for_the_standby() {
    let cluster = start_cluster(17).await;
    let admin = cluster.primary().admin("postgres").await;
    for way in [Way::ToServer, Way::ToClient] {
        cluster.wire().stall(way);
        let writer = cluster.primary().admin("postgres").await;
        let waits = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
        let committed = writer.batch_execute("create table t as select 1");
        let calmed = async {
            wait::until("the commit waits", LIMIT, || async {
                let row = admin.query_one(waits, &[]).await.unwrap();
                row.get::<_, i64>(0) == 1
            })
            .await;
            cluster.wire().calm();
        };
        let (committed, ()) = tokio::join!(committed, calmed);
        committed.unwrap();
        writer.batch_execute("drop table t").await.unwrap();
    }
}

async fn a_slot_that_is_synchronised_no_more_lags_after_a_promotion() {
    let fixture = Fixture::plan(Plugin::Pgoutput)
        .on_cluster(start_cluster(17).await)
        .build()
        .await;
    fixture
        .sql("create table t (id int primary key); insert into t values (1)")
        .await;
    fixture.drain().await;
    fixture.wait_until_synced().await;
    fixture.sql("insert into t values (2)").await;
    fixture.drain().await;
    fixture.wait_until_synced().await;
    let synced = fixture.confirmed_flush().await;
    fixture.cluster().stop_slot_sync().await;
    fixture.sql("insert into t values (3)").await;
    fixture.drain().await;
    let stands = fixture.confirmed_flush().await;
    fixture.cluster().failover().await;
    let after = fixture.confirmed_flush().await;
    assert!(
        parse_lsn(&synced) <= parse_lsn(&after) && parse_lsn(&after) < parse_lsn(&stands),
        "{synced} <= {after} < {stands}"
    );
}

async fn a_slot_that_lost_its_snapshots_decodes_nothing_after_a_promotion() {
    for (version, carried, left) in [
        (15, Carried::Whole, 2),
        (15, Carried::WithoutSnapshots, 0),
        (16, Carried::WithoutSnapshots, 0),
    ] {
        let fixture = Fixture::plan(Plugin::TestDecoding)
            .on_cluster(start_cluster(version).await)
            .build()
            .await;
        fixture.sql("create table t (id int primary key)").await;
        let slot = &fixture.slot;
        let advance = format!("select pg_replication_slot_advance('{slot}', pg_current_wal_flush_lsn())");
        let peek = format!(
            "select count(*) from pg_logical_slot_peek_changes('{slot}', null, null, 'include-xids', '0')
             where data like 'table public.t:%'"
        );
        let _open = restart_slot_mid_transaction(&fixture, || fixture.sql(&advance)).await;
        fixture.cluster().carry_slot(slot, carried).await;
        fixture
            .sql("insert into t values (1); insert into t values (2)")
            .await;
        assert_eq!(
            fixture.value(&peek).await.as_deref(),
            Some("2"),
            "before the failover"
        );
        fixture.cluster().failover().await;
        assert_eq!(
            fixture.value("select count(*) from t").await.as_deref(),
            Some("2")
        );
        let peeked = fixture.value(&peek).await.unwrap();
        assert_eq!(peeked, left.to_string(), "{version} {carried:?}");
    }
}

/// A server of its own behind a proxy: hands out what was connected.
async fn behind() -> (Proxy, TcpListener) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let proxy = Proxy::before(listener.local_addr().unwrap().port()).await;
    (proxy, listener)
}

/// Both ends of a new connection, which works.
async fn connect(proxy: &Proxy, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
    let mut both = (client, listener.accept().await.unwrap().0);
    passes(&mut both.0, &mut both.1, b"hello").await;
    passes(&mut both.1, &mut both.0, b"welcome").await;
    both
}

async fn passes(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    from.write_all(bytes).await.unwrap();
    let mut read = vec![0; bytes.len()];
    tokio::time::timeout(LIMIT, to.read_exact(&mut read))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(read, bytes);
}

/// What still arrives before the end, and whether it ends in order.
async fn rest(from: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut read = Vec::new();
    let ended = tokio::time::timeout(LIMIT, from.read_to_end(&mut read))
        .await
        .unwrap();
    (read, ended.is_ok())
}

/// A new connection is reset, at once or a moment later.
async fn assert_refused(proxy: &Proxy) {
    if let Ok(mut client) = TcpStream::connect(("127.0.0.1", proxy.port())).await {
        assert_eq!(rest(&mut client).await, (vec![], false));
    }
}

async fn a_cut_resets_who_is_connected_and_nobody_else() {
    let (proxy, listener) = behind().await;
    let mut cut = connect(&proxy, &listener).await;
    proxy.suffer(Fault::Cut).await;
    assert_eq!(rest(&mut cut.0).await, (vec![], false));
    assert_eq!(rest(&mut cut.1).await, (vec![], false));
    connect(&proxy, &listener).await;
}

async fn a_cut_after_some_bytes_lets_exactly_these_through() {
    for way in [Way::ToServer, Way::ToClient] {
        let (proxy, listener) = behind().await;
        let (mut client, mut server) = connect(&proxy, &listener).await;
        let (mut other, _server) = connect(&proxy, &listener).await;
        proxy.suffer(Fault::CutAfter(way, 7)).await;
        let (from, to) = match way {
            Way::ToServer => (&mut client, &mut server),
            Way::ToClient => (&mut server, &mut client),
        };
        passes(from, to, b"four").await;
        let mut read = [0; 3];
        from.write_all(b"more than three").await.unwrap();
        to.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"mor");
        assert_eq!(rest(to).await, (vec![], false));
        assert_eq!(rest(&mut other).await, (vec![], false), "all of them are");
        connect(&proxy, &listener).await;
    }
}

async fn a_stalled_way_holds_bytes_back_and_loses_none() {
    let (proxy, listener) = behind().await;
    let (mut client, mut server) = connect(&proxy, &listener).await;
    proxy.stall(Way::ToServer);
    client.write_all(b"held").await.unwrap();
    passes(&mut server, &mut client, b"the other way goes on").await;
    client.shutdown().await.unwrap();
    assert!(server.try_read(&mut [0; 8]).is_err(), "neither bytes nor the end");
    proxy.calm();
    assert_eq!(rest(&mut server).await, (b"held".to_vec(), true));
    proxy
        .suffer(Fault::Stall(Way::ToClient, Duration::from_millis(50)))
        .await;
    passes(&mut server, &mut client, b"again").await;
}

async fn a_half_closed_way_ends_and_the_other_goes_on() {
    let (proxy, listener) = behind().await;
    let (mut client, mut server) = connect(&proxy, &listener).await;
    proxy.suffer(Fault::HalfClose(Way::ToClient)).await;
    assert_eq!(rest(&mut client).await, (vec![], true));
    passes(&mut client, &mut server, b"still heard").await;
    drop(client);
    assert_eq!(rest(&mut server).await, (vec![], true));
}

async fn a_refusing_proxy_lets_nobody_in_until_it_is_calm() {
    let (proxy, listener) = behind().await;
    let mut before = connect(&proxy, &listener).await;
    proxy.refuse();
    assert_eq!(rest(&mut before.0).await, (vec![], false));
    assert_refused(&proxy).await;
    proxy.calm();
    connect(&proxy, &listener).await;
}

async fn a_proxy_leads_new_connections_to_where_it_points() {
    let (proxy, listener) = behind().await;
    let (mut client, mut server) = connect(&proxy, &listener).await;
    let moved = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    proxy.point_at(moved.local_addr().unwrap().port());
    connect(&proxy, &moved).await;
    passes(&mut client, &mut server, b"as before").await;
    drop(moved);
    assert_refused(&proxy).await;
}
