"""Print the rows of a query in a file of DuckDB, a JSON array a line.

The first argument is the file. The others are SQL: the last is the query, those before prepare it.
"""

import json
import sys

import duckdb

connection = duckdb.connect(sys.argv[1])
for sql in sys.argv[2:]:
    answer = connection.execute(sql)
for row in answer.fetchall():
    print(json.dumps(row))
