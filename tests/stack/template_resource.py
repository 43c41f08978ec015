"""Prints the properties of a resource of template.yaml as JSON: RESOURCE, then NAME=VALUE for parameters."""

import json
import sys

from cloudformation import Stack, read_template

resource, *parameters = sys.argv[1:]
stack = Stack(read_template(), dict(parameter.split("=", 1) for parameter in parameters))
print(json.dumps(stack.properties(resource)))
