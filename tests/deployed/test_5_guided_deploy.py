"""What the SAM CLI makes of the template for a person who installs or publishes it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from local.broker_stack import ROOT, STACK_NAME
from tests.deployed.conftest import Deployed
from tests.template.test_template import template

ACCOUNT = "555566667777"
OVERRIDES = r"parameter_overrides = \[[^\]]*\]"


def _sam(deployed: Deployed, folder: Path, *arguments: str, replies: str = "") -> str:
    """What `sam` printed, in a folder of the test's own."""
    built = str(deployed.stack.build_folder / "template.yaml")
    run = subprocess.run(
        [Path(sys.executable).parent / "sam", *arguments, "--template-file", built],
        cwd=folder,
        env=deployed.stack.aws.environ(ACCOUNT) | {"TMPDIR": str(folder)},
        input=replies,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr
    return run.stdout


def test_guided_deployment_asks_for_each_parameter_in_order_and_deploys(
    deployed: Deployed, tmp_path: Path
):
    shutil.copy(deployed.stack.source / "samconfig.toml", tmp_path)
    defaults = {name: str(p["Default"]) for name, p in template()["Parameters"].items()}
    given = ["1200" if name == "RefreshAheadSeconds" else "" for name in defaults]
    replies = "\n".join(["", "", *given, *[""] * 10])  # stack and Region before, the rest after
    config = str(tmp_path / "samconfig.toml")
    output = _sam(
        deployed, tmp_path, "deploy", "--guided", "--config-file", config, replies=replies
    )
    assert re.findall(r"Parameter (\w+) \[", output) == list(defaults)
    cloudformation = deployed.stack.aws.administrator(ACCOUNT).client("cloudformation")
    try:
        (stack,) = cloudformation.describe_stacks(StackName=STACK_NAME)["Stacks"]
    finally:
        cloudformation.delete_stack(StackName=STACK_NAME)
    values = {p["ParameterKey"]: p["ParameterValue"] for p in stack["Parameters"]}
    assert values == defaults | {"RefreshAheadSeconds": "1200"}


def test_documented_overrides_arrive_whole(deployed: Deployed, tmp_path: Path):
    (example,) = re.findall(OVERRIDES, (ROOT / "docs/deploy.md").read_text("utf-8"))
    config = tmp_path / "samconfig.toml"
    stages = (deployed.stack.source / "samconfig.toml").read_text("utf-8")
    section = "[default.deploy.parameters]\n"
    assert stages.count(section) == 1
    config.write_text(stages.replace(section, section + example + "\n"), "utf-8")
    _sam(deployed, tmp_path, "deploy", "--config-file", str(config))
    administrator = deployed.stack.aws.administrator(ACCOUNT)
    cloudformation = administrator.client("cloudformation")
    try:
        (stack,) = cloudformation.describe_stacks(StackName=STACK_NAME)["Stacks"]
        (schedule,) = administrator.client("scheduler").list_schedules()["Schedules"]
        found = administrator.client("scheduler").get_schedule(Name=schedule["Name"])
    finally:
        cloudformation.delete_stack(StackName=STACK_NAME)
    values = {p["ParameterKey"]: p["ParameterValue"] for p in stack["Parameters"]}
    assert (values["RefreshSchedule"], values["RefreshIntervalSeconds"]) == (
        "rate(2 minutes)",
        "120",
    )
    assert found["ScheduleExpression"] == "rate(2 minutes)"


def test_application_to_be_published_carries_licence_and_readme(deployed: Deployed, tmp_path: Path):
    output = _sam(deployed, tmp_path, "package", "--resolve-s3", "--use-json")
    packaged = json.loads(output[output.index("{") : output.rindex("}") + 1])
    application = packaged["Metadata"]["AWS::ServerlessRepo::Application"]
    s3 = deployed.stack.aws.administrator(ACCOUNT).client("s3")
    for name, file in (("LicenseUrl", "LICENSE"), ("ReadmeUrl", "README.md")):
        bucket, key = re.fullmatch(r"s3://([^/]+)/(.+)", application[name]).groups()
        stored = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        assert stored == (deployed.stack.source / file).read_bytes()
