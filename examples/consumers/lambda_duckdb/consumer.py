"""Changes applied to a store, so that each row ends in the state of its last change.

Changes of one partition key arrive in the order of their positions, perhaps more than once. Others arrive in any
order, because different shards are read at the same time. With PARTITION_KEYS, these may be changes of one row. So each
decision depends on positions only.
"""

from dataclasses import dataclass, field, replace

from changes import UNAVAILABLE, table_id

# Key of `Row.values_at` for the columns that the row lacks. No column of PostgreSQL has an empty name.
LACKING = ""


@dataclass(frozen=True)
class Row:
    """Last known state of a row."""

    position: str
    # A deleted row stays for its position: otherwise a late duplicate of an earlier change would revive it.
    deleted: bool
    data: dict
    # Key of the row that has the values which are unavailable in `data`: see `moved_row`.
    waits_for: str | None = None
    # Positions of the values that are older than the row, because its last change did not contain them. An older
    # change that is read later may have a newer value. `LACKING` has the position of the newest change that had all
    # columns, if that is not the last one: a backfill may read some columns only, and a delete may have the key only.
    values_at: dict = field(default_factory=dict)

    @property
    def lacking_at(self):
        """Position before which no change adds a column: the change at this position had all columns."""
        return self.values_at.get(LACKING, self.position)

    def recency(self, column):
        """Order of the values of a column: that of a later change is greater."""
        if column not in self.data:
            return "", False
        return self.values_at.get(column, self.position), self.data[column] != UNAVAILABLE


def apply(store, changes):
    """Apply the changes of a batch, in their order, in one transaction of the store."""
    with store.transaction():
        pending = []
        for change in changes:
            if change.op != "t":
                pending.append(change)
                continue
            merge(store, pending)
            pending = []
            store.delete_before(change.id, change.position)
            store.save({change.id: Row(change.position, True, {})})
        merge(store, pending)
        complete(store)


def merge(store, changes):
    """Merge changes of rows into the store."""
    ids = {change.id for change in changes} | {table_of(change) for change in changes}
    ids |= {moved_row(change) for change in changes if change.op == "d"}
    rows = store.load(ids) if ids else {}
    changed = {}
    for change in changes:
        truncate = rows.get(table_of(change))
        if truncate and change.position < truncate.position:
            continue
        new = {id: row for id, row in next_rows(change, rows).items() if row != rows.get(id)}
        rows |= new
        changed |= new
    if changed:
        store.save(changed)


def next_rows(change, rows):
    """The rows after a change, by their identity."""
    old, new = rows.get(change.id), row_of(change)
    if not old:
        row = new
    elif change.position <= old.position:
        # Older, or a duplicate: only values that the row lacks may count. During a backfill a duplicate may have more.
        row = with_values(old, new)
    else:
        row = with_values(new, old)
    if change.op != "d" or moved_row(change) in rows:
        return {change.id: row}
    # A key change is a delete and a create. The created row may need values of the deleted one, and may be read later,
    # from another shard, when the old key has got a new row. So the deleted row is kept twice.
    return {change.id: row, moved_row(change): row if row.position == change.position else new}


def row_of(change):
    """The row as the change alone describes it."""
    row = Row(change.position, change.op == "d", change.row)
    values_at = {LACKING: ""} if change.op in "rd" else {}
    if is_incomplete(change.row):
        if change.op == "c":
            return replace(row, waits_for=moved_row(change).key)
        values_at |= {column: "" for column, value in change.row.items() if value == UNAVAILABLE}
    return replace(row, values_at=values_at)


def with_values(row, other):
    """The row with the values of the other row that are newer, and with the columns that it lacks."""
    # An existing row has no values of the row that was deleted before.
    is_former = other.deleted and not row.deleted
    newer = [column for column in other.data if column in row.data and row.recency(column) < other.recency(column)]
    if not is_former and row.lacking_at <= other.position:
        newer += [column for column in other.data if column not in row.data]
    values = {column: other.data[column] for column in newer}
    values_at = row.values_at | {column: other.recency(column)[0] for column in newer}
    lacking_at = max(row.lacking_at, other.position if is_former else other.lacking_at)
    if lacking_at < row.position:
        values_at[LACKING] = lacking_at
    else:
        values_at.pop(LACKING, None)
    data = row.data | values
    waits_for = other.waits_for if is_incomplete(values) else row.waits_for
    return replace(row, data=data, values_at=values_at, waits_for=waits_for if is_incomplete(data) else None)


def table_of(change):
    """Identity under which the last truncate or repair of the table is kept."""
    return table_id(change.id.source, f"{change.id.schema}.{change.id.table}")


def moved_row(change):
    """Identity under which the deleted row of a key change is kept: the delete and the create have the same LSNs."""
    return change.id._replace(key=change.position.rpartition(".")[0])


def complete(store):
    """Complete rows whose large values have arrived with a row that was deleted under another key."""
    while waiting := store.waiting():
        store.save({id: completed(row, deleted) for id, row, deleted in waiting})


def completed(row, deleted):
    """The row with its unavailable values taken from the data of the deleted row."""
    known = {column: deleted.get(column, value) for column, value in row.data.items() if value == UNAVAILABLE}
    return replace(row, data=row.data | known, waits_for=None)


def is_incomplete(data):
    return UNAVAILABLE in data.values()
