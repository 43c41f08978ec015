"""What Apache Flink's format `debezium-json` makes of the records.

The argument is the row type that a user of Flink declares for the table, such as `ROW<id INT, name STRING>`. Each line
that is printed is a row of Flink's changelog: `kind` is +I, -U, +U or -D, and `row` is written by Flink's format `json`.
"""

import sys

import jpype

import jvm
import records

jvm.start()
flink = jpype.JPackage("org.apache.flink")
types, json = flink.table.types, flink.formats.json

row_type = types.logical.utils.LogicalTypeParser.parse(sys.argv[1], jpype.java.lang.ClassLoader.getSystemClassLoader())
timestamps = flink.formats.common.TimestampFormat.ISO_8601
# As its options are by default: no metadata, no schema inside of a message, no error ignored.
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
    # As text: numbers keep all their digits.
    print(f'{{"kind":"{kind}","row":{bytes(writer.serialize(row)).decode()}}}')


rows = jvm.collector(print_row)
for record in records.read():
    reader.deserialize(record["data"], rows)
