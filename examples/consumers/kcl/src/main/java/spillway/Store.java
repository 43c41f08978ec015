package spillway;

import java.sql.Array;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import spillway.Change.RowId;
import spillway.Rules.Row;

/**
 * The store: tables {@code rows} and {@code refused} in PostgreSQL, and one open transaction on them.
 *
 * <p>Tables of the sources are views on {@code rows}: see the README. So a new column at a source needs no migration.
 */
final class Store implements AutoCloseable {
    // "C": positions compare as strings of bytes. The type json keeps a number as it was written.
    private static final String CREATE = """
            create table if not exists rows (
                source_name text, schema_name text, table_name text, row_key text,
                position text collate "C" not null, deleted boolean not null, waits_for text, data json not null,
                primary key (source_name, schema_name, table_name, row_key));
            create index if not exists waiting on rows (waits_for) where waits_for is not null;
            create table if not exists refused (
                shard text, sequence_number text, sub_sequence_number bigint, partition_key text not null,
                data bytea not null, error text not null, refused_at timestamptz not null default now(),
                primary key (shard, sequence_number, sub_sequence_number))""";
    private static final String LOAD = """
            select source_name, schema_name, table_name, row_key, position, deleted, waits_for, data
            from rows join unnest(?::text[], ?::text[], ?::text[], ?::text[])
                as wanted (source_name, schema_name, table_name, row_key)
                using (source_name, schema_name, table_name, row_key)""";
    private static final String SAVE = """
            insert into rows (source_name, schema_name, table_name, row_key, position, deleted, waits_for, data)
            select source_name, schema_name, table_name, row_key, position, deleted, waits_for, data::json
            from unnest(?::text[], ?::text[], ?::text[], ?::text[], ?::text[], ?::boolean[], ?::text[], ?::text[])
                as new (source_name, schema_name, table_name, row_key, position, deleted, waits_for, data)
            on conflict (source_name, schema_name, table_name, row_key) do update
            set position = excluded.position, deleted = excluded.deleted, waits_for = excluded.waits_for,
                data = excluded.data
            where excluded.position >= rows.position""";
    private static final String DELETE_BEFORE = """
            update rows set deleted = true
            where source_name = ? and schema_name || '.' || table_name = ? and position < ?""";
    // Incomplete rows whose deleted row is stored, with the data of that row.
    private static final String COMPLETED = """
            select r.source_name, r.schema_name, r.table_name, r.row_key, r.position, r.deleted, r.waits_for, r.data,
                d.data
            from rows as r join rows as d on d.source_name = r.source_name and d.schema_name = r.schema_name
                and d.table_name = r.table_name and d.row_key = r.waits_for
            where r.waits_for is not null and d.waits_for is null""";
    private static final String REFUSE = """
            insert into refused (shard, sequence_number, sub_sequence_number, partition_key, data, error)
            values (?, ?, ?, ?, ?, ?) on conflict do nothing""";

    private final Connection connection;

    private Store(Connection connection) {
        this.connection = connection;
    }

    /** Creates the tables if they do not exist. */
    static void create(String url) throws SQLException {
        try (Connection connection = DriverManager.getConnection(url);
                Statement statement = connection.createStatement()) {
            statement.execute(CREATE);
        }
    }

    /**
     * Begins a transaction. Closing without a commit rolls it back.
     *
     * <p>One transaction at a time writes. A truncate or a changed key in one shard concerns rows of other shards, and
     * must see them.
     */
    static Store begin(String url) throws SQLException {
        Connection connection = DriverManager.getConnection(url);
        try (Statement statement = connection.createStatement()) {
            connection.setAutoCommit(false);
            statement.execute("lock table rows in share row exclusive mode");
            return new Store(connection);
        } catch (SQLException error) {
            connection.close();
            throw error;
        }
    }

    void commit() throws SQLException {
        connection.commit();
    }

    @Override
    public void close() throws SQLException {
        connection.close();
    }

    /** The stored rows of these identities. */
    Map<RowId, Row> load(Collection<RowId> ids) throws SQLException {
        try (PreparedStatement load = connection.prepareStatement(LOAD)) {
            setIds(load, ids);
            return read(load);
        }
    }

    /** Inserts or updates these rows. */
    void save(Map<RowId, Row> rows) throws SQLException {
        List<Row> values = new ArrayList<>(rows.values());
        try (PreparedStatement save = connection.prepareStatement(SAVE)) {
            setIds(save, rows.keySet());
            save.setArray(5, array("text", values, Row::position));
            save.setArray(6, array("boolean", values, Row::deleted));
            save.setArray(7, array("text", values, Row::waitsFor));
            save.setArray(8, array("text", values, row -> row.data().toString()));
            save.executeUpdate();
        }
    }

    /** Marks the rows of a table that are older than a position as deleted. They keep their positions. */
    void deleteBefore(RowId table, String position) throws SQLException {
        try (PreparedStatement update = connection.prepareStatement(DELETE_BEFORE)) {
            update.setString(1, table.source());
            update.setString(2, table.schema());
            update.setString(3, position);
            update.executeUpdate();
        }
    }

    /** Incomplete rows, completed by the values of their deleted row. */
    Map<RowId, Row> completed() throws SQLException {
        try (PreparedStatement completed = connection.prepareStatement(COMPLETED)) {
            return read(completed);
        }
    }

    /** Stores a record that cannot be applied, for an operator. */
    void refuse(String shard, String sequenceNumber, long subSequenceNumber, String partitionKey, byte[] data,
            String error) throws SQLException {
        try (PreparedStatement refuse = connection.prepareStatement(REFUSE)) {
            refuse.setString(1, shard);
            refuse.setString(2, sequenceNumber);
            refuse.setLong(3, subSequenceNumber);
            refuse.setString(4, partitionKey);
            refuse.setBytes(5, data);
            refuse.setString(6, error);
            refuse.executeUpdate();
        }
    }

    private void setIds(PreparedStatement statement, Collection<RowId> ids) throws SQLException {
        statement.setArray(1, array("text", ids, RowId::source));
        statement.setArray(2, array("text", ids, RowId::schema));
        statement.setArray(3, array("text", ids, RowId::table));
        statement.setArray(4, array("text", ids, RowId::key));
    }

    private <T> Array array(String type, Collection<T> items, Function<T, Object> value) throws SQLException {
        return connection.createArrayOf(type, items.stream().map(value).toArray());
    }

    /** Rows of a query. A ninth column has the data of the deleted row, which completes the row. */
    private static Map<RowId, Row> read(PreparedStatement query) throws SQLException {
        Map<RowId, Row> rows = new HashMap<>();
        try (ResultSet found = query.executeQuery()) {
            boolean hasValues = found.getMetaData().getColumnCount() > 8;
            while (found.next()) {
                RowId id = new RowId(found.getString(1), found.getString(2), found.getString(3), found.getString(4));
                Row row = new Row(found.getString(5), found.getBoolean(6), found.getString(7),
                        Change.parse(found.getString(8)));
                rows.put(id, hasValues ? row.withValues(Change.parse(found.getString(9))).waitingFor(null) : row);
            }
        }
        return rows;
    }
}
