"""Print the rows that Apache Flink reads from the records with its format `debezium-json`.

The argument is the row type that a user of Flink declares for the table, such as `ROW<id INT, name STRING>`. Each
printed line is a row of Flink's changelog: `kind` is +I, -U, +U or -D, and `row` has the form of Flink's `json`.
"""

import sys

import jpype

import jvm
import records

jvm.start()
flink = jpype.JPackage("org.apache.flink")
types, json = flink.table.types, flink.formats.json

class_loader = jpype.java.lang.ClassLoader.getSystemClassLoader()
row_type = types.logical.utils.LogicalTypeParser.parse(sys.argv[1], class_loader)
timestamps = flink.formats.common.TimestampFormat.ISO_8601
# The default options: no metadata, no schema inside of a message, no error ignored.
reader = json.debezium.DebeziumJsonDeserializationSchema(
    types.utils.TypeConversions.fromLogicalToDataType(row_type),
    jpype.java.util.Collections.emptyList(),
    flink.api.common.typeinfo.TypeInformation.of(flink.table.data.RowData.class_),
    False,
    False,
    timestamps,
)
writer = json.JsonRowDataSerializationSchema(
    row_type, timestamps, json.JsonFormatOptions.MapNullKeyMode.FAIL, "null", True, False
)
reader.open(None)
writer.open(None)


def print_row(row):
    kind = row.getRowKind().shortString()
    # Not parsed in Python: numbers keep all their digits.
    print(f'{{"kind":"{kind}","row":{bytes(writer.serialize(row)).decode()}}}')


rows = jvm.collector(print_row)
for record in records.read():
    reader.deserialize(record["data"], rows)
