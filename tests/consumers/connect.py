"""Print the values that Kafka Connect's JSON converter reads from the records with `schemas.enable`.

Each printed line is a value as the same converter writes it without schemas: fields that the record lacks are null.
Records without data are left out.
"""

import jpype

import jvm
import records

jvm.start()
json = jpype.JPackage("org.apache.kafka.connect.json")


def converter(has_schemas):
    """A converter of values."""
    made = json.JsonConverter()
    made.configure(jpype.java.util.Map.of("schemas.enable", str(has_schemas).lower()), False)
    return made


reader, writer = converter(True), converter(False)
for record in records.read():
    if record["data"]:
        read = reader.toConnectData("topic", record["data"])
        print(bytes(writer.fromConnectData("topic", read.schema(), read.value())).decode())
