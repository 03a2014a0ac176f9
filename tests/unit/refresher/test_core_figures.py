"""The renewal core stays readable in one sitting: its figures, from the syntax trees.

`python -m tests.unit.refresher.test_core_figures` prints them.
"""

import ast
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[3] / "functions/token_refresher/token_refresher"
CORE = {
    "refresh.py",
    "renewal.py",
    "policy.py",
    "backoff.py",
    "connection_state.py",
    "enable/acceptance.py",
}
ALL = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")}
BESIDE_IT = {name for name in ALL - CORE if not name.startswith("enable/")}
"""`enable/` passes through what urllib3 and pydantic type as Any."""


def lines(name: str) -> int:
    return len((PACKAGE / name).read_text(encoding="utf-8").splitlines())


def nodes(name: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse((PACKAGE / name).read_text(encoding="utf-8"))))


def length(function: ast.FunctionDef) -> int:
    """Lines of a function without its docstring."""
    first = function.body[0]
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    text = (first.end_lineno or 0) - first.lineno + 1 if is_text else 0
    return (function.end_lineno or 0) - function.lineno + 1 - text


def functions(name: str) -> list[ast.FunctionDef]:
    return [node for node in nodes(name) if isinstance(node, ast.FunctionDef)]


def test_core_has_at_most_800_lines_and_no_file_more_than_250() -> None:
    assert sum(map(lines, CORE)) <= 800
    assert {name: lines(name) for name in ALL if lines(name) > 250} == {}


def test_no_function_has_more_than_30_lines() -> None:
    long = {
        f"{name}: {function.name}": length(function)
        for name in ALL
        for function in functions(name)
        if length(function) > 30
    }
    assert long == {}


def test_no_any_no_assert_and_no_boolean_parameter() -> None:
    found = [
        (name, node.lineno)
        for name in CORE | BESIDE_IT
        for node in nodes(name)
        if isinstance(node, ast.Assert) or (isinstance(node, ast.Name) and node.id == "Any")
    ]
    found += [
        (name, argument.lineno)
        for name in ALL
        for function in functions(name)
        for argument in [*function.args.args, *function.args.kwonlyargs]
        if argument.annotation and "bool" in ast.unparse(argument.annotation).split(" | ")
    ]
    assert found == []


def main() -> None:
    """Print the figures."""
    write = sys.stdout.write
    for name in sorted(CORE) + sorted(ALL - CORE):
        longest = max(map(length, functions(name)), default=0)
        write(f"{lines(name):5} lines, longest function {longest:3}  {name}\n")
    write(f"{sum(map(lines, CORE)):5} lines of {', '.join(sorted(CORE))}\n")
    write(f"{sum(map(lines, BESIDE_IT)):5} lines beside them, without the rest of enable/\n")


if __name__ == "__main__":
    main()
