package spillway;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.cfg.JsonNodeFeature;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;

/**
 * Change of one row, or of a whole table.
 *
 * @param position positions of one source compare as strings; those of two sources must never be compared
 * @param id the row; of op t, the table
 * @param op c (create), u (update), d (delete), r (row of a backfill), t (truncate or repair of a table): its rows
 *     with a smaller position no longer exist
 * @param row the new row, or the old row of a delete, which may have the key only
 */
record Change(RowId id, String position, String op, ObjectNode row) {
    /** Identity of a row. {@code {"id":1}} alone names neither the database nor the table. */
    record RowId(String source, String schema, String table, String key) {
        /** Identity of a table. Control events have its name as one text, without quotes: public.orders. */
        static RowId ofTable(String source, String name) {
            return new RowId(source, name, "", "");
        }
    }

    /** Debezium's mark of a large value that an update left unchanged. The event does not contain the value. */
    static final String UNAVAILABLE = "__debezium_unavailable_value";

    /** Our mark of a value that OVERSIZE=omit left out. It did change, so the stored value is no longer valid. */
    static final String OMITTED = "__omitted_because_of_its_size";

    /**
     * Tables without a key that have inserts only: public.log,public.audit.
     *
     * <p>Their rows may have the bare name of the table as partition key: with KEYLESS=table, with test_decoding, or if
     * the table was altered, dropped or truncated before the rows were drained.
     */
    private static final List<String> KEYLESS_TABLES =
            List.of(System.getenv().getOrDefault("KEYLESS_TABLES", "").split(","));

    /** Numbers keep all their digits. */
    static final ObjectMapper JSON = JsonMapper.builder()
            .enable(DeserializationFeature.USE_BIG_DECIMAL_FOR_FLOATS)
            .disable(JsonNodeFeature.STRIP_TRAILING_BIGDECIMAL_ZEROES)
            .build();

    /**
     * Changes of one event: one as a rule, none for a message of an application.
     *
     * @throws IOException Spillway did not write this event, or the key of its row is not known
     */
    static List<Change> of(String partitionKey, byte[] data) throws IOException {
        if (data.length == 0) { // a tombstone of TOMBSTONES_ON_DELETE
            return List.of();
        }
        JsonNode event = JSON.readTree(data);
        JsonNode source = event.path("source");
        String op = event.path("op").asText();
        String name = text(source, "name");
        if (op.equals("m")) {
            return ofMessage(name, event.path("message"));
        }
        String position = text(source, "position");
        if (!List.of("c", "u", "d", "r", "t").contains(op) || !position.contains(".")) {
            throw new IOException("the event has another form than Spillway's");
        }
        String schema = text(source, "schema");
        String table = text(source, "table");
        String tableName = schema + "." + table;
        if (op.equals("t")) {
            return List.of(new Change(RowId.ofTable(name, tableName), position, op, JSON.createObjectNode()));
        }
        String key = partitionKey;
        boolean isBareName = key.equals(tableName);
        if (isBareName || key.startsWith(tableName + "#")) {
            // With the bare name, the row may have an unknown key. So an insert is refused, too: no later change
            // would find the appended row.
            if (op.equals("u") || op.equals("d") || (isBareName && !KEYLESS_TABLES.contains(tableName))) {
                throw new IOException(tableName + ": the key of this row is not known. Give the table a key if it has"
                        + " none, and repair it. If it has inserts only, add it to KEYLESS_TABLES");
            }
            // Only its position distinguishes such a row from its duplicate.
            key = position;
        }
        return List.of(new Change(new RowId(name, schema, table, key), position, op, rowOf(event, source)));
    }

    private static ObjectNode rowOf(JsonNode event, JsonNode source) throws IOException {
        JsonNode image = event.path("after").isObject() ? event.path("after") : event.path("before");
        if (!(image instanceof ObjectNode row)) {
            throw new IOException("the event has no row");
        }
        for (JsonNode column : source.path("omitted")) {
            if (row.has(column.asText())) {
                row.put(column.asText(), OMITTED);
            }
        }
        return row;
    }

    /** Changes by the end of a repair. Its prefix is reserved, so no application can forge it. */
    private static List<Change> ofMessage(String source, JsonNode message) throws IOException {
        List<Change> changes = new ArrayList<>();
        if (text(message, "prefix").equals("spillway.repaired")) {
            JsonNode content = JSON.readTree(Base64.getDecoder().decode(text(message, "content")));
            for (JsonNode table : content.path("tables")) {
                RowId id = RowId.ofTable(source, table.asText());
                changes.add(new Change(id, text(content, "since"), "t", JSON.createObjectNode()));
            }
        }
        return changes;
    }

    private static String text(JsonNode object, String field) throws IOException {
        JsonNode value = object.path(field);
        if (!value.isTextual()) {
            throw new IOException("the event has no " + field);
        }
        return value.textValue();
    }

    /** Identity under which the last truncate or repair of the table is stored. */
    RowId tableId() {
        return RowId.ofTable(id.source(), id.schema() + "." + id.table());
    }

    /**
     * Second identity of a deleted row: its position without the last part.
     *
     * <p>A key change is a delete and a create, whose positions differ in the last part only. So the create finds the
     * values of the deleted row.
     */
    RowId movedId() {
        return new RowId(id.source(), id.schema(), id.table(), position.substring(0, position.lastIndexOf('.')));
    }

    static ObjectNode parse(String json) {
        try {
            return (ObjectNode) JSON.readTree(json);
        } catch (JsonProcessingException error) {
            throw new IllegalStateException("a stored row is not JSON", error);
        }
    }
}
