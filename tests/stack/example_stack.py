"""Deploys examples/cluster.yaml to an AWS endpoint, with a server of this machine in the place of the cluster.

    example_stack.py deploy STACK PROGRAM AUTHORITY HOST PORT USER   creates the stack, and prints its outcome
    example_stack.py invoke STACK write|drain EVENT                  prints the answer of a function

PROGRAM is the bootstrap of the drain function, AUTHORITY a PEM file that signed the server's certificate, USER the
server's administrator. An emulator has no database behind its cluster, so the template's references to the
cluster's endpoint and secret are replaced. The rest of the template is unchanged.
"""

import io
import json
import os
import sys
import zipfile
from pathlib import Path

import stack
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

EXAMPLES = stack.PROJECT / "examples"


def replaced(tree, values):
    """The tree with these values in the place of `!GetAtt NAME`."""
    if isinstance(tree, dict):
        attribute = tree.get("Fn::GetAtt")
        name = attribute if isinstance(attribute, str) else ".".join(attribute or [])
        return values[name] if name in values else {key: replaced(it, values) for key, it in tree.items()}
    if isinstance(tree, list):
        return [replaced(it, values) for it in tree]
    return tree


def upload_bootstrap(authority):
    """Uploads the function that prepares the database. Returns its URI."""
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        archive.write(EXAMPLES / "bootstrap" / "app.py", "app.py")
        archive.writestr("rds.pem", Path(authority).read_bytes())
    stack.upload("bootstrap.zip", package.getvalue())
    return f"s3://{stack.BUCKET}/bootstrap.zip"


def translated(values, spillway, bootstrap, port):
    """The template without SAM's own resource types. `spillway` is the URL of the nested template."""
    template = replaced(yaml_parse((EXAMPLES / "cluster.yaml").read_text()), values)
    stack.remove_unknown(template)
    resources = template["Resources"]
    function = resources["BootstrapFunction"]
    function["Properties"]["CodeUri"] = bootstrap
    function.pop("Metadata")
    nested = resources["Spillway"]["Properties"]
    nested["Location"] = spillway
    # RDS listens at 5432, and its authorities are built in.
    nested["Parameters"] |= {"DbPort": port, "SslMode": "require"}
    # The emulator has a schedule, too, and its tick would drain before the scenario does.
    nested["Parameters"]["ScheduleState"] = "DISABLED"
    return json.dumps(transform(template, {}, stack.NoManagedPolicies()))


def deploy(name, program, authority, host, port, user):
    login = json.dumps({"username": user, "password": "any"})
    secret = stack.client("secretsmanager").create_secret(Name="rds!cluster-1", SecretString=login)
    values = {
        "Cluster.Endpoint.Address": host,
        "Cluster.Endpoint.Port": port,
        "Cluster.MasterUserSecret.SecretArn": secret["ARN"],
    }
    bucket = f"{os.environ['AWS_ENDPOINT_URL']}/{stack.BUCKET}"
    stack.upload("spillway.json", stack.translated({}, stack.upload_function(program)))
    template = translated(values, f"{bucket}/spillway.json", upload_bootstrap(authority), port)
    return stack.create_or_update(name, template, {})


def invoke(name, function, event):
    cloudformation = stack.client("cloudformation")

    def resource(of, logical):
        found = cloudformation.describe_stack_resource(StackName=of, LogicalResourceId=logical)
        return found["StackResourceDetail"]["PhysicalResourceId"]

    if function == "write":
        target = resource(name, "BootstrapFunction")
    else:
        target = resource(resource(name, "Spillway"), "DrainFunction")
    answer = stack.client("lambda").invoke(FunctionName=target, Payload=event)
    return json.load(answer["Payload"])


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    print(json.dumps({"deploy": deploy, "invoke": invoke}[command](*arguments)))
