package spillway;

import static spillway.Change.UNAVAILABLE;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import spillway.Change.RowId;

/**
 * Changes applied to a store, so that each row ends in the state of its last change.
 *
 * <p>Changes of one key arrive in the order of their positions, perhaps more than once. Changes of different keys
 * arrive in any order, because several shards are read at the same time. So each decision depends on positions only.
 */
final class Rules {
    /**
     * Last known state of a row.
     *
     * @param deleted whether the row is deleted; its position stays, so that a late duplicate of an earlier change
     *     does not restore it
     * @param waitsFor key of the row that has the values which are unavailable in {@code data}, or null: see
     *     {@link Change#movedId}
     */
    record Row(String position, boolean deleted, String waitsFor, ObjectNode data) {
        boolean isIncomplete() {
            return Rules.isIncomplete(data);
        }

        /** The row with its unavailable values taken from {@code known}. */
        Row withValues(ObjectNode known) {
            ObjectNode filled = data.deepCopy();
            for (Map.Entry<String, JsonNode> column : data.properties()) {
                if (isUnavailable(column.getValue()) && known.has(column.getKey())) {
                    filled.set(column.getKey(), known.get(column.getKey()));
                }
            }
            return new Row(position, deleted, Rules.isIncomplete(filled) ? waitsFor : null, filled);
        }

        Row waitingFor(String key) {
            return new Row(position, deleted, key, data);
        }
    }

    private Rules() {}

    /** Applies the changes of a batch, in their order. The caller commits them in one transaction. */
    static void apply(Store store, List<Change> changes) throws SQLException {
        List<Change> pending = new ArrayList<>();
        for (Change change : changes) {
            if (!change.op().equals("t")) {
                pending.add(change);
                continue;
            }
            merge(store, pending);
            pending.clear();
            store.deleteBefore(change.id(), change.position());
            store.save(Map.of(change.id(), new Row(change.position(), true, null, change.row())));
        }
        merge(store, pending);
        complete(store);
    }

    private static void merge(Store store, List<Change> changes) throws SQLException {
        Set<RowId> ids = new HashSet<>();
        for (Change change : changes) {
            ids.add(change.id());
            ids.add(change.tableId());
            if (change.op().equals("c") && isIncomplete(change.row())) {
                ids.add(change.movedId());
            }
        }
        Map<RowId, Row> rows = store.load(ids);
        Map<RowId, Row> changed = new HashMap<>();
        for (Change change : changes) {
            Map<RowId, Row> next = nextRows(change, rows);
            rows.putAll(next);
            changed.putAll(next);
        }
        store.save(changed);
    }

    /** Rows to store for a change; empty if the change is older than its row. */
    private static Map<RowId, Row> nextRows(Change change, Map<RowId, Row> rows) {
        Row old = rows.get(change.id());
        Row truncate = rows.get(change.tableId());
        boolean isTruncated = truncate != null && change.position().compareTo(truncate.position()) < 0;
        int order = old == null ? 1 : change.position().compareTo(old.position());
        if (isTruncated || order < 0) {
            return Map.of();
        }
        if (order == 0) {
            // A duplicate. During a backfill it may have a value that the first event did not have.
            return old.isIncomplete() ? Map.of(change.id(), old.withValues(change.row())) : Map.of();
        }
        if (change.op().equals("d")) {
            return deleted(change, old);
        }
        ObjectNode data = change.row();
        if (change.op().equals("r") && old != null && !old.deleted()) {
            // A backfill may send some columns only. The others stay as they are.
            data = old.data().deepCopy();
            data.setAll(change.row());
        }
        Row row = new Row(change.position(), false, null, data);
        if (row.isIncomplete() && !change.op().equals("c") && old != null) {
            row = row.waitingFor(old.waitsFor()).withValues(old.data());
        } else if (row.isIncomplete() && change.op().equals("c")) {
            Row moved = rows.get(change.movedId());
            row = row.waitingFor(change.movedId().key());
            row = moved == null ? row : row.withValues(moved.data());
        }
        return Map.of(change.id(), row);
    }

    /**
     * Rows after a delete.
     *
     * <p>The create of a key change may need the values of the deleted row, and may be read later, from another shard,
     * when the old key has a new row. So the deleted row is stored twice.
     */
    private static Map<RowId, Row> deleted(Change change, Row old) {
        ObjectNode data = change.row().deepCopy();
        if (old != null) {
            data.setAll(old.data());
        }
        Row row = new Row(change.position(), true, old == null ? null : old.waitsFor(), data);
        return Map.of(change.id(), row, change.movedId(), row);
    }

    /** Completes rows whose large values have arrived with a row that was deleted under another key. */
    private static void complete(Store store) throws SQLException {
        for (Map<RowId, Row> rows = store.completed(); !rows.isEmpty(); rows = store.completed()) {
            store.save(rows);
        }
    }

    private static boolean isIncomplete(ObjectNode data) {
        for (JsonNode value : data) {
            if (isUnavailable(value)) {
                return true;
            }
        }
        return false;
    }

    private static boolean isUnavailable(JsonNode value) {
        return value.isTextual() && value.textValue().equals(UNAVAILABLE);
    }
}
