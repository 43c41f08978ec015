"""Prints the alarms of template.yaml as JSON, with the defaults of the parameters or NAME=VALUE arguments."""

import json
import sys

from cloudformation import read_template


def main():
    template = read_template()
    values = {name: it.get("Default") for name, it in template["Parameters"].items()}
    for argument in sys.argv[1:]:
        name, value = argument.split("=")
        least = template["Parameters"][name].get("MinValue", 0)
        if float(value) < least:
            sys.exit(f"{name} is at least {least}")
        values[name] = float(value)

    def resolved(value):
        if isinstance(value, dict) and "Ref" in value:
            return values[value["Ref"]]
        return value

    alarms = {}
    for name, resource in template["Resources"].items():
        if resource["Type"] != "AWS::CloudWatch::Alarm":
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
