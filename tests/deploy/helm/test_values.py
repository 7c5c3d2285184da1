"""Every value of the chart is documented and checked, and what is made from the code is up to date."""

import json
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest
import yaml

from deploy.helm import __main__ as chart
from deploy.helm import values
from deploy.helm.values import Value

TEXT = (chart.CHART / "values.yaml").read_text()
SCHEMA = json.loads((chart.CHART / "values.schema.json").read_text())


def test_a_comment_belongs_to_what_follows_it() -> None:
    text = """
# Of the file, and of nothing.

one:
  # What it is,
  # on two lines.
  inner: [1]
  # More.
  resources: {cpu: 1}
# Of both.
two:
  a: ""
  b: {}
"""
    assert values.documented(text) == [
        Value("one.inner", [1], "What it is, on two lines."),
        Value("one.resources", {"cpu": 1}, "More."),
        Value("two.a", "", "Of both."),
        Value("two.b", {}, "Of both."),
    ]


def test_every_value_of_the_chart_is_documented() -> None:
    found = values.documented(TEXT)
    assert len(found) > 30
    assert [each.path for each in found if not each.said] == []


def in_schema(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, each in schema["properties"].items():
        here = f"{path}.{name}" if path else name
        if "properties" in each:
            yield from in_schema(each, here)
        else:
            yield here


def test_the_schema_knows_exactly_the_values() -> None:
    """`global` is Helm's own, for charts that hold this one."""
    assert set(in_schema(SCHEMA)) - {"global"} == {each.path for each in values.documented(TEXT)}


def test_the_schema_refuses_values_that_it_does_not_know() -> None:
    def closed(schema: dict[str, Any]) -> Iterator[bool]:
        if "properties" in schema:
            yield schema["additionalProperties"] is False
            for each in schema["properties"].values():
                yield from closed(each)

    assert all(closed(SCHEMA))


@pytest.mark.parametrize("path", chart.files(), ids=lambda path: path.name)
def test_what_is_made_from_the_code_is_up_to_date(path: Any) -> None:
    assert path.read_text() == chart.files()[path], "run `make chart`"


def test_no_definition_is_there_that_the_code_does_not_make() -> None:
    assert set(chart.DEFINITIONS.iterdir()) == {path for path in chart.files() if path.parent == chart.DEFINITIONS}


def test_the_charts_version_is_the_projects() -> None:
    described = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    assert described["version"] == described["appVersion"] == version("quietwire")


def test_who_calls_it_without_helm_is_told_how(capsys: pytest.CaptureFixture[str]) -> None:
    assert chart.main([]) == 2
    assert "make chart" in capsys.readouterr().err
