"""The dashboard and the docs name the metrics that the webhook has; Grafana reads the dashboard."""

from __future__ import annotations

import json
import re

from prometheus_client.metrics import MetricWrapperBase

from kata_dind.webhook.metrics import Metrics
from scripts.generate_chart import CHART, REPOSITORY


def _series() -> dict[str, set[str]]:
    """Return the metrics of the webhook as documentation names them, with the labels of each."""
    found = {}
    # The text of a registry would lack what has labels but no value yet.
    for metric in Metrics().registry._collector_to_names:
        if isinstance(metric, MetricWrapperBase):
            (described,) = metric.describe()
            name = described.name + ("_total" if described.type == "counter" else "")
            found[name] = {*metric._labelnames}
    return found


SERIES = _series()
PAGES = {
    path.name: re.findall(r"(kata_dind_webhook_\w+)(?:\{(.*?)\})?", path.read_text(encoding="utf-8"))
    for path in sorted((REPOSITORY / "docs").glob("*.md"))
}
NOT_SHOWN = {"kata_dind_webhook_info"}
_OF_HISTOGRAMS = re.compile(r"_(bucket|count|sum)$")

DASHBOARD = json.loads((CHART / "dashboards" / "kata-dind.json").read_text(encoding="utf-8"))
PANELS = DASHBOARD["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]


def test_the_code_has_metrics() -> None:
    """Otherwise the tests below would compare nothing."""
    assert SERIES["kata_dind_webhook_reviews_total"] == {"decision", "reason"}
    assert SERIES["kata_dind_webhook_review_seconds"] == set()


def test_every_metric_exists_and_is_shown() -> None:
    asked = {_OF_HISTOGRAMS.sub("", name) for query in QUERIES for name in re.findall(r"kata_dind_\w+", query)}
    assert asked == SERIES.keys() - NOT_SHOWN


def test_queries_ask_for_labels_that_there_are() -> None:
    for query in QUERIES:
        (name,) = {*re.findall(r"kata_dind_\w+", query)}
        allowed = SERIES[_OF_HISTOGRAMS.sub("", name)] | {"namespace"} | ({"le"} if name.endswith("_bucket") else set())
        used = re.findall(r"(\w+)=~?\"", query) + [
            name for names in re.findall(r"by \(([\w, ]+)\)", query) for name in names.split(", ")
        ]
        assert set(used) <= allowed, query
        assert query.count("(") == query.count(")")


def test_the_page_of_the_webhook_has_every_metric_with_its_labels() -> None:
    documented = {name: set(filter(None, labels.split(", "))) for name, labels in PAGES["webhook.md"]}
    assert documented == SERIES


def test_no_other_page_speaks_of_a_metric_that_there_is_not() -> None:
    named = {name for found in PAGES.values() for name, _ in found}
    assert "install-webhook.md" in {page for page, found in PAGES.items() if found}
    assert named <= SERIES.keys()


def test_panels_have_what_grafana_needs_and_none_hides_another() -> None:
    assert DASHBOARD["uid"] == "kata-dind-webhook"
    assert [panel["id"] for panel in PANELS] == list(range(1, len(PANELS) + 1))
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {(x + place["x"], y + place["y"]) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]+)", json.dumps(DASHBOARD))) <= variables
