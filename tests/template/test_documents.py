"""The documents say nothing that is not so: links, names, parameters, how examples were tried."""

import ast
import json
import re
import subprocess
import tomllib
from functools import cache

import pytest
from typer.main import get_command

from broker_cli.main import app
from tests.template.test_template import ROOT, template

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
RUN = {
    "README.md",
    "clients/node/README.md",
    "clients/python/README.md",
    "docs/callers.md",
    "docs/operate.md",
}
"""The pages whose examples tests/deployed/test_7_*.py run."""
HOW = re.compile(r"<!-- (runs|by hand: |needs a real account)[^\n]* -->\n\Z")


@cache
def pages() -> tuple[str, ...]:
    """The tracked Markdown files and those about to be added."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    names = listed.stdout.split() or [
        str(path.relative_to(ROOT))
        for folder in (".", "docs", "clients/python", "benchmarks")
        for path in (ROOT / folder).glob("*.md")
    ]
    return tuple(sorted(name for name in names if (ROOT / name).exists()))


@cache
def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def prose(page: str) -> str:
    return FENCE.sub("", text(page))


def anchors(page: str) -> set[str]:
    """The anchors that a Git host makes of headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.strip().lower())
        slug = words.replace(" ", "-")
        number = 1
        while slug in found:
            slug = f"{words.replace(' ', '-')}-{number}"
            number += 1
        found.add(slug)
    return found


@cache
def names_of_tests() -> frozenset[str]:
    return frozenset(
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    )


def test_pages_are_found():
    assert {"README.md", "docs/callers.md", "docs/architecture.md", "docs/deploy.md"} <= {*pages()}


@pytest.mark.parametrize("page", pages())
def test_relative_links_and_anchors_resolve(page: str):
    broken = []
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        is_there = target.exists() and target.is_relative_to(ROOT)
        if not is_there or (anchor and anchor not in anchors(str(target.relative_to(ROOT)))):
            broken.append(link)
    assert not broken


def test_dead_link_is_found():
    assert LINK.findall("see [a](b.md#c) and ![d](e.png)") == ["b.md#c"]
    assert "the-allow-list" in anchors("docs/callers.md")
    assert "the-three-locks" not in anchors("docs/callers.md")


def test_documented_parameters_are_those_of_the_template():
    table = text("docs/deploy.md").partition("## Parameters")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|", table, re.MULTILINE)
    defaults = {name: str(p["Default"]) for name, p in template()["Parameters"].items()}
    documented = {name: re.sub(r"^none$", "", default.strip().strip("`")) for name, default in rows}
    assert documented == defaults


@pytest.mark.parametrize("page", pages())
def test_make_targets_that_are_named_exist(page: str):
    targets = set(re.findall(r"^([\w-]+):", text("Makefile"), re.MULTILINE))
    code = "\n".join(re.findall(r"`([^`\n]+)`", prose(page)))
    code += "\n" + "\n".join(
        body for _, kind, body in FENCE.findall(text(page)) if kind in {"sh", "yaml"}
    )
    named = set(re.findall(r"\bmake ([a-z][\w-]*)", code))
    assert named <= targets


def test_tests_that_are_named_exist():
    named = {name for page in pages() for name in re.findall(r"`(test_\w+)`", text(page))}
    assert len(named) > 40
    assert named <= names_of_tests(), named - names_of_tests()


@pytest.mark.parametrize("page", pages())
def test_files_and_folders_that_are_named_exist(page: str):
    folders = "layers|functions|clients|cli|local|tests|benchmarks|events|docs|requirements"
    named = re.findall(rf"`((?:{folders})/(?:[\w./-]*(?:/|\.\w+))?)`", prose(page))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_folder_of_tests_is_explained():
    folders = {file.parent.name for file in (ROOT / "tests").glob("*/test_*.py")}
    rows = set(re.findall(r"^\| `tests/(\w+)` \|", text("docs/develop.md"), re.MULTILINE))
    assert folders <= rows


@cache
def commands() -> frozenset[str]:
    """Of `broker`, those of its groups with the group's name."""
    found = {}
    for name, command in get_command(app).commands.items():
        inner = getattr(command, "commands", {})
        found |= {f"{name} {i}": None for i in inner} if inner else {name: None}
    return frozenset(found)


@pytest.mark.parametrize("page", pages())
def test_operators_commands_that_are_named_exist(page: str):
    typed = re.findall(r"`([^`\n]+)`", prose(page))
    typed += [body for _, kind, body in FENCE.findall(text(page)) if kind == "sh"]
    groups = "|".join({name.split()[0] for name in commands() if " " in name})
    named = re.findall(rf"\bbroker ((?:(?:{groups}) )?[a-z]+)\b", "\n".join(typed))
    assert {*named} <= commands()


def test_operate_names_every_command():
    page = text("docs/operate.md")
    assert [name for name in commands() if f"broker {name}" not in page] == []


def test_every_threat_names_a_test():
    table = text("docs/architecture.md").partition("## Threat model")[2]
    rows = re.findall(r"^\| (?!asset|---).*$", table, re.MULTILINE)
    assert len(rows) > 20
    assert [row for row in rows if "`test_" not in row.split("|")[4]] == []


@pytest.mark.parametrize("page", pages())
def test_page_names_no_registry_host_and_no_machines_path(page: str):
    places = rf"index-url|registry\.|/home/\w|/Users/\w|/root\b|/tmp/|{re.escape(str(ROOT))}"
    assert re.findall(places, text(page)) == []


def test_no_file_names_the_host_of_a_package_registry():
    hosts = r"registry\.npmjs|files\.pythonhosted|pypi\.org"
    command = ["git", "grep", "--untracked", "-lIE", hosts]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (1, "")  # git grep: nothing found


@pytest.mark.parametrize("page", pages())
def test_every_example_says_how_it_was_tried(page: str):
    silent = [
        match[0].splitlines()[1]
        for match in FENCE.finditer(text(page))
        if match[2] in {"sh", "python", "js", "go", "java", "csharp"}
        and not HOW.search(text(page)[: match.start()])
    ]
    assert silent == []


def test_examples_marked_as_run_are_on_pages_that_are_run():
    marked = {page for page in pages() if re.search(r"^ *<!-- runs", text(page), re.MULTILINE)}
    assert marked == RUN


@pytest.mark.parametrize("page", pages())
def test_data_in_a_page_is_well_formed(page: str):
    for _, kind, body in FENCE.findall(text(page)):
        if kind == "json":
            json.loads(body)
        elif kind == "toml":
            tomllib.loads(body)
        elif kind == "python":
            ast.parse(body)


def test_readme_is_short():
    assert len(text("README.md").splitlines()) <= 120


def test_outputs_and_layer_that_are_named_exist():
    outputs = set(template()["Outputs"])
    named = {
        name
        for page in pages()
        for name in re.findall(r"\$\(output (\w+)\)|output `(\w+)`", text(page))
        for name in name
        if name
    }
    assert named <= outputs
    resources = {
        name for page in pages() for name in re.findall(r"\$\(resource (\w+)\)", text(page))
    }
    # SAM names what it makes of a function's event after both.
    assert {name.removesuffix("Schedule") for name in resources} <= set(template()["Resources"])
    layer = template()["Resources"]["EnableBrokerClientLayer"]["Properties"]
    assert layer["LayerName"] == {"Fn::Sub": "${AWS::StackName}-client"}
