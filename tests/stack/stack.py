"""Deploys template.yaml to an AWS endpoint, as `sam deploy` does, and works with the stack.

    stack.py deploy STACK BOOTSTRAP NAME=VALUE…   creates or updates the stack; BOOTSTRAP is the function's program
    stack.py invoke STACK EVENT                   prints the answer of the drain function
    stack.py delete STACK
    stack.py resources                            prints the resources of the account, by kind

Each command prints JSON.
"""

import io
import json
import os
import sys
import zipfile
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import WaiterError
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

BUCKET = "artefacts"
# The emulator does not know them: texts of queries, and rules of a firewall that it does not have.
UNKNOWN = {"AWS::Logs::QueryDefinition", "AWS::EC2::SecurityGroupIngress"}
PROJECT = Path(__file__).parents[2]


class NoManagedPolicies:
    """The template names its policies by ARN."""

    def load(self):
        return {}


def client(service):
    return boto3.client(service, config=Config(read_timeout=900, retries={"max_attempts": 0}))


def upload(key, body):
    """Stores an object in the bucket."""
    s3 = client("s3")
    if not s3.list_buckets()["Buckets"]:
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": s3.meta.region_name})
    s3.put_object(Bucket=BUCKET, Key=key, Body=body)


def upload_function(bootstrap):
    """Uploads the program as the function's package. Returns its URI."""
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        entry = zipfile.ZipInfo("bootstrap")
        entry.external_attr = 0o100755 << 16
        archive.writestr(entry, Path(bootstrap).read_bytes())
    upload("drain.zip", package.getvalue())
    return f"s3://{BUCKET}/drain.zip"


def remove_unknown(template):
    """Removes the resources that the emulator does not know."""
    resources = {name: it for name, it in template["Resources"].items() if it["Type"] not in UNKNOWN}
    for resource in resources.values():
        if isinstance(resource.get("DependsOn"), list):
            resource["DependsOn"] = [name for name in resource["DependsOn"] if name in resources]
    template["Resources"] = resources


def translated(parameters, package):
    """The template without SAM's own resource types, with this package, and with less patience."""
    template = yaml_parse((PROJECT / "template.yaml").read_text())
    function = template["Resources"]["DrainFunction"]
    function["Properties"]["CodeUri"] = package
    function.pop("Metadata")
    setup = template["Resources"]["SetupFunction"]["Properties"]
    setup["Environment"]["Variables"]["PATIENCE_SECONDS"] = "2"
    remove_unknown(template)
    return json.dumps(transform(template, parameters, NoManagedPolicies()))


def outcome(stack):
    """Status, outputs and failures of a stack."""
    cloudformation = client("cloudformation")
    found = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
    events = cloudformation.describe_stack_events(StackName=found["StackId"])["StackEvents"]
    failures = [
        f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason', '')}"
        for event in events
        if event["ResourceStatus"].endswith("FAILED")
    ]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}
    return {"status": found["StackStatus"], "outputs": outputs, "failures": failures}


def deploy(stack, bootstrap, *settings):
    parameters = dict(setting.split("=", 1) for setting in settings)
    return create_or_update(stack, translated(parameters, upload_function(bootstrap)), parameters)


def create_or_update(stack, template, parameters):
    """Creates or updates a stack, and waits for it. Returns its outcome."""
    # The template is too large for the request itself, so SAM uploads it, too.
    upload("template.json", template)
    arguments = {
        "StackName": stack,
        "TemplateURL": f"{os.environ['AWS_ENDPOINT_URL']}/{BUCKET}/template.json",
        "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        "Capabilities": ["CAPABILITY_IAM"],
    }
    cloudformation = client("cloudformation")
    names = [it["StackName"] for it in cloudformation.describe_stacks()["Stacks"]]
    kind = "update" if stack in names else "create"
    getattr(cloudformation, f"{kind}_stack")(**arguments)
    waiter = cloudformation.get_waiter(f"stack_{kind}_complete")
    try:
        waiter.wait(StackName=stack, WaiterConfig={"Delay": 1, "MaxAttempts": 900})
    except WaiterError:
        pass
    return outcome(stack)


def invoke(stack, event):
    resource = client("cloudformation").describe_stack_resource(StackName=stack, LogicalResourceId="DrainFunction")
    function = resource["StackResourceDetail"]["PhysicalResourceId"]
    answer = client("lambda").invoke(FunctionName=function, Payload=event)
    return json.load(answer["Payload"])


def delete(stack):
    cloudformation = client("cloudformation")
    name = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]["StackId"]
    cloudformation.delete_stack(StackName=stack)
    try:
        cloudformation.get_waiter("stack_delete_complete").wait(
            StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 900}
        )
    except WaiterError:
        pass
    return outcome(name)


def resources():
    return {
        "parameters": [it["Name"] for it in client("ssm").describe_parameters()["Parameters"]],
        "functions": [it["FunctionName"] for it in client("lambda").list_functions()["Functions"]],
        "schedules": [it["Name"] for it in client("scheduler").list_schedules()["Schedules"]],
        "alarms": [it["AlarmName"] for it in client("cloudwatch").describe_alarms()["MetricAlarms"]],
        "logs": [it["logGroupName"] for it in client("logs").describe_log_groups()["logGroups"]],
        "roles": [it["RoleName"] for it in client("iam").list_roles()["Roles"]],
        "streams": client("kinesis").list_streams()["StreamNames"],
        "clusters": [it["DBClusterIdentifier"] for it in client("rds").describe_db_clusters()["DBClusters"]],
        "networks": [it["VpcId"] for it in client("ec2").describe_vpcs()["Vpcs"] if not it["IsDefault"]],
    }


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    print(json.dumps(globals()[command](*arguments)))
