"""Prepares the database of examples/cluster.yaml, and writes sample changes into it.

CloudFormation calls it once as a custom resource. Called by hand with {"transactions": 100}, it writes that many
transactions of pgbench, 100 by default, 10,000 at most.
"""

import json
import os
import random
import ssl
import urllib.request

ACCOUNTS = 10_000
# Below the time that CloudFormation waits for the answer, and that the function may run.
CONNECT_SECONDS = 20

PREPARE = (
    # The administrator of RDS is no superuser. Roles whose names start with rds are of RDS.
    """do $$ begin
        if not exists (select from pg_roles where rolname = 'spillway') then create role spillway login; end if;
    end $$""",
    "grant rds_iam, rds_replication, pg_monitor to spillway",
    "create table if not exists pgbench_branches (bid int primary key, bbalance int not null)",
    "create table if not exists pgbench_tellers (tid int primary key, bid int not null, tbalance int not null)",
    "create table if not exists pgbench_accounts (aid int primary key, bid int not null, abalance int not null)",
    # Without a key: rows that are only inserted.
    """create table if not exists pgbench_history
        (tid int not null, bid int not null, aid int not null, delta int not null, mtime timestamptz not null)""",
    "insert into pgbench_branches values (1, 0) on conflict do nothing",
    "insert into pgbench_tellers select id, 1, 0 from generate_series(1, 10) id on conflict do nothing",
    f"insert into pgbench_accounts select id, 1, 0 from generate_series(1, {ACCOUNTS}) id on conflict do nothing",
    """do $$ begin
        if not exists (select from pg_publication where pubname = 'spillway') then
            create publication spillway for table
                pgbench_accounts, pgbench_branches, pgbench_tellers, pgbench_history;
        end if;
    end $$""",
    # For backfills only. The log is read without it.
    "grant select on pgbench_accounts, pgbench_branches, pgbench_tellers, pgbench_history to spillway",
)

TRANSACTION = (
    "update pgbench_accounts set abalance = abalance + :delta where aid = :aid",
    "update pgbench_tellers set tbalance = tbalance + :delta where tid = :tid",
    "update pgbench_branches set bbalance = bbalance + :delta where bid = 1",
    "insert into pgbench_history values (:tid, 1, :aid, :delta, now())",
)


def handler(event, context):
    """Answers CloudFormation, or returns how many transactions were written."""
    if "RequestType" not in event:
        return {"transactions": write(min(int(event.get("transactions", 100)), 10_000))}
    status, reason = "SUCCESS", "prepared"
    try:
        # The cluster is deleted with the stack, and all that was prepared with it.
        if event["RequestType"] != "Delete":
            prepare(connect())
    except Exception as error:  # Without an answer CloudFormation would wait until its timeout.
        status, reason = "FAILED", f"{type(error).__name__}: {error}, see log stream {context.log_stream_name}"
        print(reason)
    answer(event, status, reason)
    return None


def prepare(connection):
    """Creates role, tables, rows and publication, unless they exist."""
    for statement in PREPARE:
        connection.run(statement)


def write(transactions):
    """Writes so many transactions, and returns their number."""
    connection = connect()
    for _ in range(transactions):
        delta = random.randint(-5000, 5000)
        values = {"aid": random.randint(1, ACCOUNTS), "tid": random.randint(1, 10), "delta": delta}
        connection.run("begin")
        for statement in TRANSACTION:
            # A statement takes the parameters that it names, and no others.
            connection.run(statement, **{name: value for name, value in values.items() if f":{name}" in statement})
        connection.run("commit")
    return transactions


def connect():
    """A session of the administrator, whose password RDS keeps in Secrets Manager."""
    # Imported here, so that the tests of this file need neither.
    import boto3
    import pg8000.native

    secret = boto3.client("secretsmanager").get_secret_value(SecretId=os.environ["SECRET_ARN"])["SecretString"]
    login = json.loads(secret)
    authorities = ssl.create_default_context(cafile=os.path.join(os.path.dirname(__file__), "rds.pem"))
    # Chain and host name are checked. The strict checks of Python 3.13 refuse authorities without key
    # identifiers.
    authorities.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return pg8000.native.Connection(
        login["username"],
        password=login["password"],
        host=os.environ["PGHOST"],
        port=int(os.environ["PGPORT"]),
        database=os.environ["PGDATABASE"],
        timeout=CONNECT_SECONDS,
        ssl_context=authorities,
    )


def answer(event, status, reason):
    """Sends the result to the URL that CloudFormation waits at."""
    body = {
        "Status": status,
        "Reason": reason[:1000],
        "PhysicalResourceId": event.get("PhysicalResourceId", "database"),
        **{name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")},
    }
    content = json.dumps(body).encode()
    request = urllib.request.Request(event["ResponseURL"], content, {"Content-Type": ""}, method="PUT")
    with urllib.request.urlopen(request, timeout=CONNECT_SECONDS):
        pass
