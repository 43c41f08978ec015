"""Print the rows that Apache Paimon reads from the records with its format `aws-dms-json`.

Each printed line is a row: `kind` is +I or -D, `table` is the name with its schema, and `row` has the columns as text.
An update is a -D and a +I, each with the whole new row.
"""

import json

import jpype

import jvm
import records

jvm.start()
cdc = jpype.JPackage("org.apache.paimon.flink.action.cdc")
reader = cdc.serialization.CdcJsonDeserializationSchema()
# The default options: no type changed, no column computed.
no_columns = jpype.java.util.Collections.emptyList()
parser = cdc.format.dms.DMSRecordParser(cdc.TypeMapping.defaultMapping(), no_columns)


def print_row(record):
    row = record.toRichCdcRecord().toCdcRecord()
    print(
        json.dumps(
            {
                "kind": str(row.kind().shortString()),
                "table": f"{record.databaseName()}.{record.tableName()}",
                "row": {str(column): str(value) for column, value in row.data().items()},
            }
        )
    )


rows = jvm.collector(print_row)
for record in records.read():
    parser.flatMap(reader.deserialize(record["data"]), rows)
