"""Changes applied to a store, so that each row ends in the state of its last change.

Changes of one key come in the order of their positions, perhaps more than once. Changes of different keys come in any
order, because different shards are read at the same time. So each decision depends on positions only.
"""

from dataclasses import dataclass, replace

from changes import UNAVAILABLE, table_id


@dataclass(frozen=True)
class Row:
    """Last known state of a row."""

    position: str
    # A deleted row stays for its position: otherwise a late duplicate of an earlier change would revive it.
    deleted: bool
    data: dict
    # Key of the row that has the values which are unavailable in `data`: see `moved_row`.
    waits_for: str | None = None


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
    ids |= {moved_row(change) for change in changes if change.op == "c" and is_incomplete(change.row)}
    rows = store.load(ids) if ids else {}
    changed = {}
    for change in changes:
        old, truncate = rows.get(change.id), rows.get(table_of(change))
        if truncate and change.position < truncate.position:
            continue
        if old and change.position < old.position:
            continue
        if old and change.position == old.position:
            # A duplicate. During a backfill it may have a value that the first one had not.
            new = {change.id: with_values(old, change.row)} if is_incomplete(old.data) else {}
        else:
            new = next_rows(change, old, rows.get(moved_row(change)))
        rows |= new
        changed |= new
    if changed:
        store.save(changed)


def next_rows(change, old, moved):
    """The rows after a change, by their identity."""
    if change.op == "d":
        # A key change is a delete and a create. The created row may need values of the deleted one, and may
        # be read later, from another shard, when the old key has got a new row. So the deleted row is kept
        # twice.
        data, waits_for = (change.row | old.data, old.waits_for) if old else (change.row, None)
        row = Row(change.position, True, data, waits_for)
        return {change.id: row, moved_row(change): row}
    row = Row(change.position, False, change.row)
    if not is_incomplete(change.row):
        return {change.id: row}
    if change.op == "u" and old:
        return {change.id: with_values(replace(row, waits_for=old.waits_for), old.data)}
    if change.op == "c":
        row = replace(row, waits_for=moved_row(change).key)
        return {change.id: with_values(row, moved.data if moved else {})}
    return {change.id: row}


def table_of(change):
    """Identity under which the last truncate or repair of the table is kept."""
    return table_id(change.id.source, f"{change.id.schema}.{change.id.table}")


def moved_row(change):
    """Identity under which the deleted row of a key change is kept: the delete and the create have the same LSNs."""
    return change.id._replace(key=change.position.rpartition(".")[0])


def complete(store):
    """Complete rows whose large values have arrived with a row that was deleted under another key."""
    while waiting := store.waiting():
        store.save({id: replace(with_values(row, data), waits_for=None) for id, row, data in waiting})


def is_incomplete(data):
    return UNAVAILABLE in data.values()


def with_values(row, known):
    """The row with its unavailable values taken from `known`."""
    data = {column: known.get(column, value) if value == UNAVAILABLE else value for column, value in row.data.items()}
    return replace(row, data=data, waits_for=row.waits_for if is_incomplete(data) else None)
