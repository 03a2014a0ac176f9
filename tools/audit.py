"""`make audit`: what others' tools find in the template, its policies, the pins and the past.

A finding either goes away or is accepted in `tools/accepted.toml`; an entry whose finding is gone
fails too. What could not be looked at is not clean.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, cast

import boto3
from cfnlint.api import ManualArgs, lint
from rich.console import Console
from samcli.yamlhelper import yaml_parse
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

from tools.accepted import AcceptedFindings, Finding
from tools.secret_scan import TOOL, secrets_in

ROOT: Final = Path(__file__).resolve().parent.parent
UNREACHABLE: Final = (
    "its database of vulnerabilities cannot be reached from here. Where PyPI's can, run\n"
    "  for pins in requirements/*.txt; do .venv-audit/bin/pip-audit --disable-pip -r $pins; done"
)
TOOLS: Final = ROOT / ".venv-audit" / "bin"
CLOUDSPLAINING: Final = """
import json, sys
from cloudsplaining.command.scan_policy_file import scan_policy
print(json.dumps(scan_policy(json.load(sys.stdin), {})))
"""
"""Its command line prints prose, and leaves out some actions; {} leaves out none."""


class NotChecked(Exception):
    """A tool could not do its work; the message says why, and what to do."""


def transformed(template: str) -> dict[str, Any]:
    """A template as SAM hands it to CloudFormation, in Europe (Ireland)."""
    document = yaml_parse(template)
    for resource in document["Resources"].values():
        for uri in {"CodeUri", "ContentUri"} & set(resource.get("Properties", {})):
            resource["Properties"][uri] = "s3://bucket/key"
    translator = Translator({}, Parser(), boto_session=boto3.Session(region_name="eu-west-1"))
    return cast("dict[str, Any]", translator.translate(document, {}))


def cfn_lint(template: dict[str, Any]) -> Iterator[Finding]:
    """Errors, warnings and information, experimental rules included."""
    strict = ManualArgs(
        regions=["eu-west-1"], include_checks=["E", "W", "I"], include_experimental=True
    )
    for match in lint(json.dumps(template, indent=1), config=strict):
        path = [str(part) for part in match.path or []]
        yield Finding(
            tool="cfn-lint",
            rule=match.rule.id,
            where=path[1] if len(path) > 1 else "",
            text=match.message,
        )


def checkov(template: dict[str, Any]) -> Iterator[Finding]:
    """All of its rules for CloudFormation and for GitHub workflows."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "template.json").write_text(json.dumps(template, indent=1))
        yield from _checkov("--directory", folder, "--framework", "cloudformation")
    for workflow in sorted((ROOT / ".github" / "workflows").iterdir()):
        yield from _checkov("--file", str(workflow), "--framework", "github_actions")


def _checkov(*arguments: str) -> Iterator[Finding]:
    report = json.loads(
        _run("checkov", *arguments, "--skip-download", "--quiet", "--output", "json")
    )
    if report.get("parsing_errors"):
        raise NotChecked("checkov could not read it")
    if "summary" in report and not report["summary"]["passed"] + report["summary"]["failed"]:
        raise NotChecked("checkov looked at nothing")
    for check in report.get("results", {}).get("failed_checks", []):
        yield Finding(
            tool="checkov",
            rule=check["check_id"],
            where=check["resource"].rpartition(".")[2],
            text=check["check_name"],
        )


def cloudsplaining(template: dict[str, Any]) -> Iterator[Finding]:
    """Risky actions that a role may do to any resource, and chains of them."""
    for role, resource in template["Resources"].items():
        if resource["Type"] != "AWS::IAM::Role":
            continue
        for policy in every_policy(resource["Properties"]["Policies"]):
            document = json.dumps(_as_text(policy["PolicyDocument"]))
            found = json.loads(_run("python", "-c", CLOUDSPLAINING, stdin=document))
            for rule, report in found.items():
                if isinstance(report, dict):
                    for action in report["findings"]:
                        yield Finding(tool="cloudsplaining", rule=rule, where=f"{role} {action}")


def every_policy(policies: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A role's policies, with those of a condition whichever way it turns out."""
    for policy in policies:
        match policy:
            case {"Fn::If": [_, *branches]}:
                yield from every_policy(branches)
            case {"PolicyDocument": _}:
                yield policy


def _as_text(value: object) -> object:
    """With each of CloudFormation's functions as a text that is no wildcard."""
    match value:
        case {"Fn::Sub": str(text)}:
            return text
        case {"Fn::GetAtt": [name, _]}:
            return f"arn:aws:service:::{name}"
        case dict():
            return {key: _as_text(item) for key, item in value.items()}
        case list():
            return [_as_text(item) for item in value]
        case _:
            return value


def pip_audit() -> Iterator[Finding]:
    """Known vulnerabilities of every pinned package.

    A mirror of the index may know the packages and none of their faults. So what is known to be
    faulty is looked up first.
    """
    with tempfile.TemporaryDirectory() as folder:
        control = Path(folder) / "control.txt"
        control.write_text("requests==2.19.0\n")  # CVE-2018-18074
        if not any(_vulnerabilities(control, "--no-deps")):
            raise NotChecked(UNREACHABLE)
    for pins in sorted((ROOT / "requirements").glob("*.txt")):
        yield from _vulnerabilities(pins)


def _vulnerabilities(pins: Path, *options: str) -> Iterator[Finding]:
    command = ("pip-audit", "--disable-pip", "--requirement", str(pins), *options)
    quiet = ("--progress-spinner", "off", "--timeout", "10", "--format", "json")
    for package in json.loads(_run(*command, *quiet))["dependencies"]:
        if "skip_reason" in package:
            raise NotChecked(UNREACHABLE)
        for fault in package["vulns"]:
            fixed = ", ".join(fault["fix_versions"]) or "no version"
            yield Finding(
                tool="pip-audit",
                rule=fault["id"],
                where=package["name"],
                text=f"{package['version']}; fixed in {fixed}",
            )


def secrets_in_history() -> Iterator[Finding]:
    """What looks like a secret in any version of any file."""
    names: dict[Path, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for line in _git(
            "rev-list", "--objects", "--all", "--filter=object:type=blob"
        ).splitlines():
            blob, _, name = line.decode().partition(" ")
            if not name:
                continue
            copy = Path(folder) / blob / name
            copy.parent.mkdir(parents=True)
            copy.write_bytes(_git("cat-file", "blob", blob))
            names[copy] = name
        for copy, kind in secrets_in(names):
            blob = copy.relative_to(folder).parts[0][:12]
            yield Finding(tool=TOOL, rule=kind, where=names[copy], text=f"blob {blob}")


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout


def _run(tool: str, *arguments: str, stdin: str | None = None) -> str:
    run = subprocess.run(
        [TOOLS / tool, *arguments],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.stdout.lstrip().startswith(("{", "[")):  # each of them fails when it finds something
        return run.stdout
    last = (run.stderr.strip().splitlines() or ["it printed nothing"])[-1]
    raise NotChecked(f"{tool} failed: {last[:300]}")


def main() -> int:
    """Look at everything; 0 if all is clean, 1 if not, 2 if something could not be looked at."""
    console = Console(highlight=False)
    accepted = AcceptedFindings.read()
    template = transformed((ROOT / "template.yaml").read_text())
    looks: list[tuple[str, str, Callable[[], Iterable[Finding]]]] = [
        ("cfn-lint", "template, as deployed", lambda: cfn_lint(template)),
        ("checkov", "template, as deployed, and workflows", lambda: checkov(template)),
        ("cloudsplaining", "policies of the roles", lambda: cloudsplaining(template)),
        (TOOL, "every version of every file", secrets_in_history),
        ("pip-audit", "pinned packages", pip_audit),
    ]
    worst = 0
    for tool, what, look in looks:
        try:
            with console.status(f"{tool}: {what}"):
                findings = list(look())
        except NotChecked as error:
            console.print(f"? {tool}: {what}: not checked: {error}", style="yellow", soft_wrap=True)
            worst = worst or 2
            continue
        new, stale = accepted.not_accepted(findings), accepted.stale(tool, findings)
        for finding in new:
            line = f"✗ {tool}: {finding.where}: {finding.rule}: {finding.text}"
            console.print(line, style="red", soft_wrap=True)
        for key in stale:
            console.print(f"✗ accepted, but not found any more: {key}", style="red")
        if new or stale:
            worst = 1
        else:
            there = f", {len({finding.key for finding in findings})} accepted" if findings else ""
            console.print(f"✓ {tool}: {what}: clean{there}")
    return worst


if __name__ == "__main__":
    sys.exit(main())
