"""Prints the answer to {"action":"plan"}, read from standard input, as a table for people."""

import json
import sys


def table(head: list[str], rows: list[list], indent: str = "  ") -> None:
    """Columns as wide as what is in them; text to the left, numbers to the right."""
    cells = [head] + [[shown(cell) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in cells) for at in range(len(head))]
    numbers = [all(isinstance(row[at], (int, float)) for row in rows) for at in range(len(head))]
    for row in cells:
        line = (cell.rjust(width) if number else cell.ljust(width) for cell, width, number in zip(row, widths, numbers))
        print((indent + "  ".join(line)).rstrip())
    print()


def shown(cell) -> str:
    if isinstance(cell, float):
        return f"{cell:,.4f}" if cell < 10 else f"{cell:,.1f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def main() -> int:
    text = sys.stdin.read()
    try:
        plan = json.loads(text)
        if plan.get("action") != "plan":
            raise ValueError(plan.get("errorMessage", "it is not the answer to a plan"))
    except (ValueError, AttributeError) as error:
        print(f"plan: {error}\n{text[:2000]}", file=sys.stderr)
        return 1

    read = "all of it" if plan["complete"] else "its beginning: there is more than one peek should hold"
    print(f"What a drain of slot {plan['slot']} ({plan['plugin']}) would send to stream {plan['stream']} now. Nothing was sent or confirmed.")
    print(f"From {plan['from']} to {plan['upto']}, {read}.")
    print(f"{plan['changes']:,} changes in {plan['transactions']:,} transactions, {plan['events']:,} events.\n")
    if not plan["events"]:
        return 0

    table(
        ["table", "events", "bytes", "keys", "largest", "oversize"],
        [[row[name] for name in ("table", "events", "bytes", "keys", "largest_bytes", "oversize")] for row in plan["tables"]],
    )
    table(
        ["hottest keys", "of table", "events", "bytes", "% of all"],
        [[row["key"], row["table"], row["events"], row["bytes"], round(100 * row["share"], 2)] for row in plan["hottest_keys"]],
    )
    ways = {"none": plan["none"], "kpl": plan["kpl"]}
    label = {name: f"{name} (configured)" if name == plan["aggregation"] else name for name in ways}
    table(
        ["AGGREGATION", "records", "requests", "bytes", "put units", "s at capacity"],
        [[label[name], way["records"], way["requests"], way["bytes"], way["put_units"], way["seconds_at_capacity"]] for name, way in ways.items()],
    )
    table(
        ["per million changes", "put units", "USD provisioned", "USD on demand"],
        [
            [
                label[name],
                way["put_units_per_million_changes"],
                way["usd_per_million_changes_provisioned"],
                way["usd_per_million_changes_on_demand"],
            ]
            for name, way in ways.items()
        ],
    )
    way = ways[plan["aggregation"]]
    table(
        ["busiest shards", "records", "bytes", "s at capacity"],
        [[row["shard"], row["records"], row["bytes"], row["seconds"]] for row in way["shards"][:5]],
    )
    if plan["oversize"]:
        print(f"Oversize: {plan['oversize']:,} events exceed the {plan['record_limit_bytes']:,} bytes of a record of this stream. OVERSIZE says what happens to them.")
    if way["seconds_at_capacity"] > 1:
        print(f"Throttling is to be expected: the busiest shard needs {way['seconds_at_capacity']:,.1f} s to take its share.")
    else:
        print("No throttling is to be expected from this alone.")
    print("Prices are list prices of us-east-1, for what is put in: not for shard hours, retention or reading.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
