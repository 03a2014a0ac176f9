"""The CDK construct's parameters are the template's; `make cdk-check` deploys it."""

import ast

from tests.template.test_template import ROOT, template


def properties() -> list[str]:
    """The fields of BrokerParameters, whose module needs packages that .venv lacks."""
    tree = ast.parse((ROOT / "iac/cdk/enable_broker_cdk/broker.py").read_text(encoding="utf-8"))
    (cls,) = (
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == "BrokerParameters"
    )
    fields = [node.target.id for node in cls.body if isinstance(node, ast.AnnAssign)]
    return [name for name in fields if name != "_"]


def test_construct_has_a_property_for_each_parameter():
    names = ["".join(word.capitalize() for word in name.split("_")) for name in properties()]
    assert sorted(names) == sorted(template()["Parameters"])
