"""Print the body of one CloudWatch dashboard for all stacks of deploy/*.toml, except the example.

fleet_dashboard.py [FILE …] reads these files instead. Each stack is a line in each graph.
"""

import json
import sys
from pathlib import Path

from stack import stack_settings

# Title, metric, statistic. The metrics are described in docs/operating.md.
GRAPHS = (
    ("Behind, seconds", "BehindSeconds", "Maximum"),
    ("Changes", "Changes", "Sum"),
    ("Log that the cluster keeps, bytes", "RetainedBytes", "Maximum"),
    ("Oldest transaction, seconds", "OldestTransactionSeconds", "Maximum"),
    ("Throttled records", "Throttled", "Sum"),
    ("Failures", "Failures", "Sum"),
)
WIDTH, HEIGHT = 12, 6  # of a graph; a dashboard is 24 wide


def dashboard(stacks: list[dict]) -> dict:
    """The body of the dashboard. Each stack has a `stack_name` and a `region`."""
    widgets = []
    for at, (title, metric, statistic) in enumerate(GRAPHS):
        lines = [
            [f"Spillway/{stack['stack_name']}", metric, {"label": stack["stack_name"], "region": stack["region"]}]
            for stack in stacks
        ]
        widgets.append({
            "type": "metric", "x": at % 2 * WIDTH, "y": at // 2 * HEIGHT, "width": WIDTH, "height": HEIGHT,
            "properties": {"title": title, "stat": statistic, "period": 60, "region": stacks[0]["region"],
                           "metrics": lines},
        })
    return {"widgets": widgets}


def main() -> None:
    given = [Path(argument) for argument in sys.argv[1:]]
    files = given or sorted(path for path in Path("deploy").glob("*.toml") if path.name != "example.toml")
    stacks = []
    for file in files:
        settings = stack_settings(file)
        for name in ("stack_name", "region"):
            if not settings.get(name):
                sys.exit(f"{file} has no {name}, which [default.deploy.parameters] of deploy/example.toml has")
        stacks.append(settings)
    if not stacks:
        sys.exit("no stacks: deploy/ has no file but the example")
    print(json.dumps(dashboard(stacks)))


if __name__ == "__main__":
    main()
