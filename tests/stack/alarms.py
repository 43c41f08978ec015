"""Prints the alarms that template.yaml creates as JSON.

Arguments are NAME=VALUE for parameters. The others have their defaults.
"""

import json
import sys

from cloudformation import Stack, read_template


def main():
    template = read_template()
    given = dict(argument.split("=") for argument in sys.argv[1:])
    for name, value in given.items():
        parameter = template["Parameters"][name]
        if parameter["Type"] == "Number":
            given[name] = float(value) if "." in value else int(value)
            least = parameter.get("MinValue", 0)
            if given[name] < least:
                sys.exit(f"{name} is at least {least}")
    stack = Stack(template, given)

    def resolved(value):
        return stack.values[value["Ref"]] if isinstance(value, dict) and "Ref" in value else value

    alarms = {}
    for name, resource in template["Resources"].items():
        if resource["Type"] != "AWS::CloudWatch::Alarm":
            continue
        if "Condition" in resource and not stack.holds(resource["Condition"]):
            continue
        properties = {key: resolved(value) for key, value in resource["Properties"].items()}
        namespace = properties["Namespace"]
        alarms[name] = {
            "is_own": isinstance(namespace, dict) and namespace.get("Sub", "").startswith("Spillway/"),
            "metric": properties["MetricName"],
            "statistic": properties["Statistic"],
            "period": properties["Period"],
            "periods": properties["EvaluationPeriods"],
            "datapoints": properties.get("DatapointsToAlarm", properties["EvaluationPeriods"]),
            "comparison": properties["ComparisonOperator"],
            "threshold": properties["Threshold"],
            "missing": properties["TreatMissingData"],
        }
    print(json.dumps(alarms))


main()
