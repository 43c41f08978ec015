"""Parameters that the template accepts, the security groups of the function, and alarms that could not fire."""

import sys
import unittest
from pathlib import Path

try:
    import yaml  # noqa: F401
except ImportError:  # `make check` runs these tests with the Python of SAM, which has it
    raise unittest.SkipTest("PyYAML is not installed") from None

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "stack"))

import cloudformation  # noqa: E402
from cloudformation import read_template  # noqa: E402

TEMPLATE = read_template()
WALK_THROUGH = read_template("examples/cluster.yaml")

NEEDED = {"DbHost": "h", "DbName": "d", "DbResourceId": "cluster-A", "SubnetIds": "subnet-1"}
REGION = {"AWS::Region": "eu-central-1"}
GROUP, CLUSTER, VPC = {"SecurityGroupIds": "sg-1,sg-2"}, {"DbSecurityGroupId": "sg-3"}, {"VpcId": "vpc-1"}


class Stack(cloudformation.Stack):
    """A stack with these parameters, and with those that every stack needs."""

    def __init__(self, *given: dict):
        parameters = NEEDED | REGION
        for more in given:
            parameters |= more
        super().__init__(TEMPLATE, parameters)

    def refusals(self) -> list[str]:
        return [
            assertion["AssertDescription"]
            for rule in TEMPLATE["Rules"].values() if "RuleCondition" not in rule or self.holds(rule["RuleCondition"])
            for assertion in rule["Assertions"] if not self.holds(assertion["Assert"])
        ]

    def groups(self) -> list:
        return self.properties("DrainFunction")["VpcConfig"]["SecurityGroupIds"]

    def creates(self, resource: str) -> bool:
        return self.holds(TEMPLATE["Resources"][resource]["Condition"])


class Network(unittest.TestCase):
    def test_groups_that_exist_are_used_as_they_are(self):
        stack = Stack(GROUP)
        self.assertEqual(stack.refusals(), [])
        self.assertEqual(stack.groups(), ["sg-1", "sg-2"])
        self.assertFalse(stack.creates("FunctionSecurityGroup") or stack.creates("FunctionToCluster"))

    def test_with_the_cluster_s_group_the_function_gets_one_that_the_cluster_admits(self):
        stack = Stack(CLUSTER, VPC)
        self.assertEqual(stack.refusals(), [])
        self.assertEqual(stack.groups(), [{"GetAtt": "FunctionSecurityGroup.GroupId"}])
        self.assertTrue(stack.creates("FunctionSecurityGroup") and stack.creates("FunctionToCluster"))
        ingress = stack.properties("FunctionToCluster")
        self.assertEqual((ingress["GroupId"], ingress["FromPort"], ingress["ToPort"]), ("sg-3", 5432, 5432))
        self.assertEqual(ingress["SourceSecurityGroupId"], {"GetAtt": "FunctionSecurityGroup.GroupId"})
        egress = stack.properties("FunctionSecurityGroup")["SecurityGroupEgress"]
        self.assertEqual([rule["ToPort"] for rule in egress], [443, 5432])

    def test_no_group_or_both_kinds_or_no_vpc_is_refused(self):
        for given in ([], [GROUP, CLUSTER, VPC], [CLUSTER]):
            self.assertEqual(len(Stack(*given).refusals()), 1, given)

    def test_other_rules_refuse_what_they_describe(self):
        self.assertIn("VpcId", Stack(GROUP, {"CreateVpcEndpoints": "true"}).refusals()[0])
        self.assertIn("DbResourceId", Stack(GROUP, {"DbResourceId": ""}).refusals()[0])
        self.assertIn("DbSecret", Stack(GROUP, {"DbAuth": "secret"}).refusals()[0])
        self.assertIn("SslRootCertificates", Stack(GROUP, {"AWS::Region": "il-central-1"}).refusals()[0])

    def test_the_walk_through_gives_known_parameters_that_fit_together(self):
        given = WALK_THROUGH["Resources"]["Spillway"]["Properties"]["Parameters"]
        self.assertEqual(set(given) - set(TEMPLATE["Parameters"]), set())
        self.assertEqual(Stack(given).refusals(), [])


class LateConsumers(unittest.TestCase):
    def refusals(self, hours, **given) -> list[str]:
        return Stack(GROUP, {"StreamRetentionHours": hours, **given}).refusals()

    def test_a_retention_that_ends_before_the_default_of_the_alarm_is_refused(self):
        for hours in range(24, 85):
            [refusal] = self.refusals(hours)
            self.assertIn("AlarmConsumerMilliseconds", refusal)
        for hours in (85, 168, 8760):
            self.assertEqual(self.refusals(hours), [])

    def test_the_rule_has_the_default_of_the_alarm(self):
        milliseconds = TEMPLATE["Parameters"]["AlarmConsumerMilliseconds"]["Default"]
        self.assertEqual(milliseconds, 84 * 3_600_000)

    def test_half_of_the_retention_is_accepted(self):
        self.assertEqual(self.refusals(24, AlarmConsumerMilliseconds=43_200_000), [])

    def test_the_retention_of_another_stream_is_not_compared(self):
        self.assertEqual(self.refusals(24, CreateStream="false"), [])


class Storage(unittest.TestCase):
    ALARM = TEMPLATE["Resources"]["StorageAlarm"]["Properties"]

    def test_a_wrong_identifier_of_the_cluster_is_not_silent(self):
        self.assertEqual(self.ALARM["TreatMissingData"], "breaching")
        self.assertIn("check that DbClusterIdentifier", self.ALARM["AlarmDescription"]["Sub"])

    def test_without_the_identifier_there_is_no_alarm(self):
        self.assertFalse(Stack(GROUP).creates("StorageAlarm"))
        self.assertTrue(Stack(GROUP, {"DbClusterIdentifier": "orders"}).creates("StorageAlarm"))


if __name__ == "__main__":
    unittest.main()
