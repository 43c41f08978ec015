"""Print the answer to {"action":"plan"} from standard input as tables."""

import json
import sys


def table(head: list[str], rows: list[list], indent: str = "  ") -> None:
    """Print a table. Text is aligned to the left, numbers to the right."""
    cells = [head] + [[shown(cell) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in cells) for at in range(len(head))]
    numbers = [all(isinstance(row[at], (int, float)) for row in rows) for at in range(len(head))]
    for row in cells:
        line = (
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numbers)
        )
        print((indent + "  ".join(line)).rstrip())
    print()


def shown(cell) -> str:
    if isinstance(cell, float):
        return f"{cell:,.4f}" if cell < 10 else f"{cell:,.1f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def parsed_plan(text: str) -> dict:
    """Answer of a plan; raises ValueError or AttributeError for any other input."""
    plan = json.loads(text)
    if plan.get("action") != "plan":
        raise ValueError(plan.get("errorMessage", "the input is not the answer of a plan"))
    return plan


def print_summary(plan: dict) -> None:
    """Print what is read, and the numbers of changes and events."""
    read = "the whole backlog" if plan["complete"] else "the first part of a larger backlog"
    print(f"A drain of slot {plan['slot']} ({plan['plugin']}) would now send to stream {plan['stream']}:")
    print(f"{plan['from']} to {plan['upto']}, {read}. Nothing was sent or confirmed.")
    changes = f"{plan['changes']:,} changes in {plan['transactions']:,} transactions"
    print(f"{changes}, {plan['events']:,} events.\n")


def print_tables_and_keys(plan: dict) -> None:
    """Print the events of each table, and the keys with the most events."""
    table(
        ["table", "events", "bytes", "keys", "largest", "oversize"],
        [
            [row[name] for name in ("table", "events", "bytes", "keys", "largest_bytes", "oversize")]
            for row in plan["tables"]
        ],
    )
    table(
        ["hottest keys", "of table", "events", "bytes", "% of all"],
        [
            [row["key"], row["table"], row["events"], row["bytes"], round(100 * row["share"], 2)]
            for row in plan["hottest_keys"]
        ],
    )


def print_packings(plan: dict) -> None:
    """Print the requests and the price of each AGGREGATION."""
    packings = {"none": plan["none"], "kpl": plan["kpl"]}
    label = {name: f"{name} (configured)" if name == plan["aggregation"] else name for name in packings}
    numbers = ("records", "requests", "bytes", "put_units", "seconds_at_capacity")
    table(
        ["AGGREGATION", "records", "requests", "bytes", "put units", "s at capacity"],
        [[label[name], *(packing[number] for number in numbers)] for name, packing in packings.items()],
    )
    table(
        ["per million changes", "put units", "USD provisioned", "USD on demand"],
        [
            [
                label[name],
                packing["put_units_per_million_changes"],
                packing["usd_per_million_changes_provisioned"],
                packing["usd_per_million_changes_on_demand"],
            ]
            for name, packing in packings.items()
        ],
    )


def print_busiest_shards(packing: dict) -> None:
    """Print the five busiest shards of one AGGREGATION."""
    several = len({row["stream"] for row in packing["shards"]}) > 1
    table(
        ["busiest shards", *["of stream"] * several, "records", "bytes", "s at capacity"],
        [
            [row["shard"], *[row["stream"]] * several, row["records"], row["bytes"], row["seconds"]]
            for row in packing["shards"][:5]
        ],
    )


def print_warnings(plan: dict, packing: dict) -> None:
    """Print whether events are too large, and whether shards throttle."""
    if plan["oversize"]:
        limit = f"{plan['record_limit_bytes']:,}"
        oversize = f"{plan['oversize']:,} events exceed the {limit} bytes of a record."
        print(f"Oversize: {oversize} OVERSIZE decides what happens.")
    seconds = packing["seconds_at_capacity"]
    if seconds > 1:
        print(f"Expect throttling: the busiest shard needs {seconds:,.1f} s for its records.")
    else:
        print("Expect no throttling by this drain.")


def main() -> int:
    text = sys.stdin.read()
    try:
        plan = parsed_plan(text)
    except (ValueError, AttributeError) as error:
        print(f"plan: {error}\n{text[:2000]}", file=sys.stderr)
        return 1
    print_summary(plan)
    if not plan["events"]:
        return 0
    print_tables_and_keys(plan)
    print_packings(plan)
    packing = plan[plan["aggregation"]]
    print_busiest_shards(packing)
    print_warnings(plan, packing)
    print("Prices are list prices of us-east-1 for PutRecords, without shard hours, retention and reads.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
