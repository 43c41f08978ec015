"""What Apache Paimon's format `aws-dms-json` makes of the records.

Each line that is printed is a row: `kind` is +I or -D, `table` is the schema's and the table's name, and `row` holds
the columns as text. An update is a -D and a +I, each with the whole new row.
"""

import json

import jpype

import jvm
import records

jvm.start()
cdc = jpype.JPackage("org.apache.paimon.flink.action.cdc")
reader = cdc.serialization.CdcJsonDeserializationSchema()
# As its options are by default: no type changed, no column computed.
parser = cdc.format.dms.DMSRecordParser(cdc.TypeMapping.defaultMapping(), jpype.java.util.Collections.emptyList())


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
