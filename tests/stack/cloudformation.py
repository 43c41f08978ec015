"""Reads templates of CloudFormation, and evaluates their functions."""

import re
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parents[2]
NO_VALUE = "AWS::NoValue"


class Loader(yaml.SafeLoader):
    """Reads CloudFormation's short functions as {name: argument}."""


def function(loader, suffix, node):
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    return {suffix: value}


Loader.add_multi_constructor("!", function)


def read_template(path="template.yaml"):
    """A template of the project."""
    return yaml.load((PROJECT / path).read_text(), Loader)


class Stack:
    """The template with values of its parameters. The others have their defaults.

    A parameter may be one of CloudFormation's own, such as AWS::Region.
    """

    def __init__(self, template, parameters):
        known = template["Parameters"]
        for name, value in parameters.items():
            allowed = [] if name.startswith("AWS::") else known[name].get("AllowedValues")
            if allowed and value not in allowed:
                raise SystemExit(f"{name}={value} is not one of {allowed}")
        self.template = template
        self.values = {name: it.get("Default", "") for name, it in known.items()} | parameters

    def properties(self, resource):
        return self.evaluated(self.template["Resources"][resource]["Properties"])

    def evaluated(self, value):
        """The value without functions. Names that only AWS knows stay as they are."""
        if isinstance(value, list):
            items = [self.evaluated(item) for item in value]
            return [item for item in items if item != NO_VALUE]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            [(name, argument)] = value.items()
            match name:
                case "Ref":
                    return self.values.get(argument, argument)
                case "If":
                    condition, *branches = argument
                    return self.evaluated(branches[0 if self.holds(condition) else 1])
                case "Sub":
                    text, names = (argument, {}) if isinstance(argument, str) else argument
                    values = self.values | self.evaluated(names)
                    return re.sub(r"\$\{(\w+)\}", lambda it: str(values.get(it[1], it[0])), text)
                case "Join":
                    separator, parts = argument
                    return separator.join(str(part) for part in self.evaluated(parts))
                case "Split":
                    separator, text = argument
                    return self.evaluated(text).split(separator)
        items = {key: self.evaluated(item) for key, item in value.items()}
        return {key: item for key, item in items.items() if item != NO_VALUE}

    def holds(self, condition):
        if isinstance(condition, str):
            return self.holds(self.template["Conditions"][condition])
        [(name, arguments)] = condition.items()
        # Rules use the long name of Contains, which has no short one.
        match name.removeprefix("Fn::"):
            case "Equals":
                first, second = (str(self.evaluated(argument)) for argument in arguments)
                return first == second
            case "Not":
                return not self.holds(arguments[0])
            case "And":
                return all(self.holds(argument) for argument in arguments)
            case "Or":
                return any(self.holds(argument) for argument in arguments)
            case "Condition":
                return self.holds(arguments)
            case "Contains":
                texts, text = self.evaluated(arguments)
                return str(text) in texts
        raise SystemExit(f"the function {name} is not known as a condition")
