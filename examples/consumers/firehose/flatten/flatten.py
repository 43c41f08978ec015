"""Turns each event into a row of the Iceberg table: what every query needs as columns, and the event as text.

Firehose maps the fields of a record to the columns of one table. Events of different tables have different fields.
"""

import base64
import json


def handler(event, _context=None):
    return {"records": [transformed(record) for record in event["records"]]}


def transformed(record):
    data = base64.b64decode(record["data"])
    if not data:  # A tombstone (TOMBSTONES_ON_DELETE). The delete is the event before it.
        return {"recordId": record["recordId"], "result": "Dropped", "data": record["data"]}
    try:
        row = json.dumps(columns(data.decode()), ensure_ascii=False)
    except (ValueError, AttributeError):  # No event. Firehose writes the record below errors/.
        return {"recordId": record["recordId"], "result": "ProcessingFailed", "data": record["data"]}
    return {"recordId": record["recordId"], "result": "Ok", "data": base64.b64encode(row.encode()).decode()}


def columns(text):
    event = json.loads(text)
    source = event.get("source", {})
    return {
        "source_name": source.get("name"),
        "schema_name": source.get("schema"),
        "table_name": source.get("table"),
        "op": event.get("op"),
        "position": source.get("position"),
        "event": text,
    }
