"""Sends an event to the deployed function, and prints its answer.

Usage: invoke.py EVENT SETTINGS [ENV]. EVENT is a file, or the JSON itself. `sam remote invoke` stops waiting after a
minute, and sends the event again. This script waits as long as the function may run, and sends the event once.
The stack, its region and its profile are those of SETTINGS, deploy/NAME.toml. The variable STACK names a stack without
a file. ENV is the NAME of SETTINGS, if the command line of make has it.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from stack import stack_settings

# Longer than any invocation: Lambda ends one after 900 s.
READ_SECONDS = 910


class Target(NamedTuple):
    """Stack of the function, with its region and the profile of its account.

    Without a region or profile, those of the environment and of the user's configuration of AWS apply.
    """

    stack: str
    region: str | None
    profile: str | None


def target(file: Path, given_env: str, environment: Mapping[str, str]) -> Target:
    """The stack that receives the event. Exits if no stack or two stacks are named."""
    stack = environment.get("STACK")
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    if stack and given_env:
        # A user easily forgets an exported STACK, and the event may be a teardown.
        sys.exit(f"two stacks: STACK is {stack}, and ENV={given_env} is that of {file}. Nothing was sent. Run "
                 "`unset STACK`, or leave out ENV")
    if stack:
        # The file is of another stack, which may be in another region and account.
        return Target(stack, region, None)
    settings = stack_settings(file)
    if "stack_name" not in settings:
        sys.exit(f"no stack: {file} does not exist. ENV=NAME reads deploy/NAME.toml, which `make deploy ENV=NAME` "
                 "uses, and STACK=… names a stack without a file")
    # As `make deploy` does: for SAM, the file's region and profile take precedence over those of the environment. The
    # stack of the same name in another region or account is another stack.
    return Target(settings["stack_name"], settings.get("region") or region, settings.get("profile"))


def read_event(argument: str) -> str:
    """The event's JSON. Exits if the text is not JSON."""
    try:
        event = argument if argument.lstrip().startswith("{") else Path(argument).read_text()
        json.loads(event)
    except OSError as error:
        sys.exit(f"no event {argument}: {error.strerror}. The folder events/ has one file for each action")
    except ValueError as error:
        sys.exit(f"the event {argument} is not JSON: {error}")
    return event


def main() -> None:
    event = read_event(sys.argv[1])
    stack, region, profile = target(Path(sys.argv[2]), "".join(sys.argv[3:]), os.environ)
    once = Config(read_timeout=READ_SECONDS, tcp_keepalive=True, retries={"total_max_attempts": 1})
    try:
        session = boto3.Session(region_name=region, profile_name=profile)
        # Standard output has the answer only.
        print(f"stack {stack}, region {session.region_name}{f', profile {profile}' if profile else ''}",
              file=sys.stderr)
        resource = session.client("cloudformation").describe_stack_resource(
            StackName=stack, LogicalResourceId="DrainFunction"
        )
        function = resource["StackResourceDetail"]["PhysicalResourceId"]
        answer = session.client("lambda", config=once).invoke(FunctionName=function, Payload=event)
    except ClientError as error:
        if error.response["Error"]["Code"] == "TooManyRequestsException":
            sys.exit(
                f"stack {stack}: Lambda refused the invocation, because all executions are in use: those of "
                "ReservedConcurrency, or with 0 those of the account. Nothing was sent. Wait for the running "
                "invocations, and try again"
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
