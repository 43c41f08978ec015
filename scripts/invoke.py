"""Invokes the deployed function with an event file, waits as long as it may run, and prints its answer.

`sam remote invoke` gives up after a minute, and sends the event again. This sends it once. The stack and the region are
those of samconfig.toml; STACK and AWS_REGION override them.
"""

import json
import os
import sys
import tomllib
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

# Longer than any invocation: Lambda ends one after 900 s.
READ_SECONDS = 910


def main():
    event = Path(sys.argv[1]).read_text()
    json.loads(event)
    settings = stack_settings()
    stack = os.environ.get("STACK") or settings.get("stack_name")
    region = os.environ.get("AWS_REGION") or settings.get("region")
    if not stack:
        sys.exit("no stack: `make deploy` writes its name into samconfig.toml, STACK=… sets another")
    once = Config(read_timeout=READ_SECONDS, tcp_keepalive=True, retries={"total_max_attempts": 1})
    try:
        resource = boto3.client("cloudformation", region_name=region).describe_stack_resource(
            StackName=stack, LogicalResourceId="DrainFunction"
        )
        function = resource["StackResourceDetail"]["PhysicalResourceId"]
        client = boto3.client("lambda", region_name=region, config=once)
        answer = client.invoke(FunctionName=function, Payload=event)
    except ClientError as error:
        if error.response["Error"]["Code"] == "TooManyRequestsException":
            sys.exit(
                f"stack {stack}: every reserved execution of the function is busy (ReservedConcurrency). Nothing is "
                "wrong: a drain runs. Try again, or deploy with a larger ReservedConcurrency"
            )
        sys.exit(f"stack {stack}: {error}")
    except BotoCoreError as error:
        sys.exit(f"stack {stack}: {error}")
    text = answer["Payload"].read().decode()
    print(text)
    if "FunctionError" in answer:
        sys.exit(1)


def stack_settings():
    """The parameters of `make deploy`, as samconfig.toml keeps them."""
    file = Path("samconfig.toml")
    if not file.exists():
        return {}
    default = tomllib.loads(file.read_text()).get("default", {})
    merged = {}
    for command in ("global", "deploy"):
        merged.update(default.get(command, {}).get("parameters", {}))
    return merged


main()
