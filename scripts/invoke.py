"""Invoke the deployed function with an event, wait as long as it may run, and print its answer.

invoke.py EVENT SETTINGS. EVENT is a file, or the JSON itself. `sam remote invoke` gives up after a minute, and sends
the event again. This sends it once.
The stack and the region are those of SETTINGS, deploy/NAME.toml; STACK and AWS_REGION name one without a file.
"""

import json
import os
import sys
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from stack import stack_settings

# Longer than any invocation: Lambda ends one after 900 s.
READ_SECONDS = 910


def read_event(argument: str) -> str:
    """The event's JSON. Exits if it is none."""
    try:
        event = argument if argument.lstrip().startswith("{") else Path(argument).read_text()
        json.loads(event)
    except OSError as error:
        sys.exit(f"no event {argument}: {error.strerror}. The folder events/ has one file for each action")
    except ValueError as error:
        sys.exit(f"the event {argument} is not JSON: {error}")
    return event


def main():
    event = read_event(sys.argv[1])
    file = Path(sys.argv[2])
    settings = stack_settings(file)
    stack = os.environ.get("STACK") or settings.get("stack_name")
    # As `make deploy` does: the stack of the same name in another region is another stack.
    region = settings.get("region") or os.environ.get("AWS_REGION")
    if not stack:
        sys.exit(f"no stack: {file} {'has no stack_name' if file.exists() else 'does not exist'}. ENV=NAME reads "
                 "deploy/NAME.toml, which `make deploy ENV=NAME` uses, and STACK=… names a stack without a file")
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
    # One line for a pipe, and indented for a person.
    print(json.dumps(json.loads(text), indent=2, ensure_ascii=False) if sys.stdout.isatty() else text)
    if "FunctionError" in answer:
        sys.exit(1)


if __name__ == "__main__":
    main()
