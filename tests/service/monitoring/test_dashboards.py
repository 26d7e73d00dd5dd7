"""Dashboards and alerts ask for what `/metrics` tells: every name and label of every expression, and nothing is unused.

PromQL is read by a tokenizer of our own, names and labels only. Its grammar, and whether alerts fire, is left to
Prometheus's `promtool` where there is one (Debian: `apt-get install prometheus`).
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

import segcal
from segcal.journal.lease import Lease
from segcal.journal.storage import Storage
from segcal.service.app import create_app
from segcal.service.monitoring import metrics
from segcal.service.settings import Settings
from tests.service.monitoring.test_metrics import GPUS
from tests.sweep.test_status import begin, plan

ROOT = Path(segcal.__file__).parent.parent
BOARDS = sorted((ROOT / "dashboards" / "grafana").glob("*.json"))
PROMETHEUS = ROOT / "dashboards" / "prometheus"
SEVERITIES = {"warning", "critical"}
TARGET = {"instance", "job"}  # labels that Prometheus adds
FOREIGN = {"up"}  # metrics that Prometheus makes
WIDTH = 24  # of Grafana's grid
WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "offset", "bool", "inf"}
GROUPS = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
TOKEN = re.compile(
    r'(?P<string>"(?:[^"\\]|\\.)*")|(?P<range>\[[^\]]*\])|(?P<matchers>\{(?:"(?:[^"\\]|\\.)*"|[^{}"])*\})|(?P<number>\d[\w.]*)'
    r"|(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?P<call>\s*\()?"
)
promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool: apt-get install prometheus has it")


def used(expression):
    """Metrics by the labels that are asked of them, and the labels of by (), on () and their like.

    >>> used('sum by (le) (rate(a_bucket{b="1"}[5m]))')
    ({'a_bucket': {'b'}}, {'le'})
    """
    groups = {label.strip() for found in GROUPS.findall(expression) for label in found.split(",") if label.strip()}
    asked, last = {}, None
    for token in TOKEN.finditer(GROUPS.sub(" ", expression)):
        if token["name"] and not token["call"] and token["name"] not in WORDS:
            last = token["name"]
            asked.setdefault(last, set())
        elif token["matchers"]:
            inside = re.sub(r'"(?:[^"\\]|\\.)*"', '""', token["matchers"])
            assert last, f"a matcher without a metric: {expression}"
            asked[last] |= set(re.findall(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)", inside))
    return asked, groups


def panels(board):
    for panel in board["panels"]:
        yield panel
        yield from panel.get("panels", [])


def queries():
    """(where, expression, legend) of all dashboards."""
    for path in BOARDS:
        for panel in panels(json.loads(path.read_text())):
            for target in panel.get("targets", []):
                yield f"{path.name}: {panel['title']}", target["expr"], target.get("legendFormat", "")


def rules():
    content = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())
    return [rule for group in content["groups"] for rule in group["rules"]]


def plain(expression):
    """An expression without Grafana's variables."""
    return expression.replace("$__rate_interval", "5m").replace("$instance", ".*").replace("$experiment", ".*")


@pytest.fixture(scope="module")
def exposition(tmp_path_factory, trained):
    """What a service tells that answers requests, has done an analysis, and looks at a sweep on its way."""
    folder = tmp_path_factory.mktemp("exposition")
    sweep = Storage(str(folder / "mlflow-trials" / "tiny"))
    plan(sweep)
    lease = Lease.take(sweep, print)
    begin(sweep, "ce", 0, (0.5, 0.7)).finish()
    begin(sweep, "ce", 1, (0.5, 0.6))
    begin(sweep, "dice", 0, (0.1,)).end("failed", "ValueError: no")
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nprintf '{GPUS}'\n")
    tool.chmod(0o755)
    app = create_app(Settings(trained[0], storage=str(sweep.local.parent)))
    for state in ("queued", "running", "finished"):
        app.state.metrics.analysis("a", state)
    web = TestClient(app, "http://127.0.0.1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder), prepend=":")
        assert web.get("/experiments/tiny").status_code == 200
        text = web.get("/metrics").text
    lease.release()
    return text


@pytest.fixture(scope="module")
def exported(exposition):
    """Labels by name of sample: what can be asked."""
    found = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions():
    yield from ((where, expression) for where, expression, _ in queries())
    yield from ((f"alert {rule['alert']}", rule["expr"]) for rule in rules())


def test_the_tokenizer_finds_names_and_labels():
    asked, groups = used(
        'histogram_quantile(0.95, sum by (instance, le) (rate(a_b{r!~"x{y=1}|/z", s="}"}[5m]))) > 1e9 '
        "and on (i) max_over_time(c[6h]) == 1 or vector(0) / (d > 0) - time()"
    )
    assert asked == {"a_b": {"r", "s"}, "c": set(), "d": set()}
    assert groups == {"instance", "le", "i"}


def test_every_name_and_label_of_every_expression_is_exported(exported):
    seen = 0
    for where, expression in expressions():
        asked, groups = used(plain(expression))
        assert asked, f"{where}: no metric in {expression}"
        for name, labels in asked.items():
            assert name in exported.keys() | FOREIGN, f"{where}: /metrics has no {name}"
            assert labels <= exported.get(name, set()) | TARGET, f"{where}: {name} has no label {labels}"
            seen += 1
        known = TARGET.union(*(exported.get(name, set()) for name in asked))
        assert groups <= known, f"{where}: no label {groups - known} in {expression}"
    assert seen > 60


def test_every_legend_names_labels_that_its_expression_has(exported):
    for where, expression, legend in queries():
        asked, groups = used(plain(expression))
        known = groups or TARGET.union(*(exported[name] for name in asked))
        assert set(re.findall(r"{{(\w+)}}", legend)) <= known, f"{where}: {legend}"


def test_every_metric_of_ours_is_looked_at(exposition):
    looked_at = {name for _, expression in expressions() for name in used(plain(expression))[0]}
    for family in text_string_to_metric_families(exposition):
        if family.name.startswith("segcal_"):
            names = {family.name, *(sample.name for sample in family.samples)}
            assert names & looked_at, f"no dashboard and no alert asks for {family.name}"


def test_no_metric_is_asked_of_a_state_that_does_not_exist(exposition):
    told = {
        (sample.name, label, value)
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
        for label, value in sample.labels.items()
        if label in ("state", "outcome", "place")
    }
    for where, expression in expressions():
        for name, matchers in re.findall(r"(segcal_\w+)\{([^}]*)\}", expression):
            for label, _, values in re.findall(r'(state|outcome|place)(=~|=)"([^"]*)"', matchers):
                assert all((name, label, value) in told for value in values.split("|")), f"{where}: {matchers}"


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_one_that_grafana_imports(path):
    board = json.loads(path.read_text())
    assert board["schemaVersion"] >= 39
    assert board["id"] is None
    assert board["uid"] == path.stem
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    shown = list(panels(board))
    assert len({panel["id"] for panel in shown}) == len(shown) > 15
    for panel in shown:
        if panel["type"] == "row":
            continue
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["targets"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert target["legendFormat"]
            for name in re.findall(r"\$(?:\{(\w+)\}|(\w+))", target["expr"]):
                assert "".join(name) in variables.keys() | {"__rate_interval"}
        if panel["type"] != "heatmap":
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] is None


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_the_panels_of_a_dashboard_do_not_overlap(path):
    taken = {}
    for panel in json.loads(path.read_text())["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= WIDTH
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert cell not in taken, f"'{panel['title']}' covers '{taken[cell]}'"
            taken[cell] = panel["title"]


def test_the_dashboards_lead_to_each_other_and_are_provisioned():
    uids = {path.stem for path in BOARDS}
    assert uids == {"segcal-service", "segcal-sweeps"}
    for path in BOARDS:
        (link,) = json.loads(path.read_text())["links"]
        assert {link["url"].removeprefix("/d/")} == uids - {path.stem}
    provisioning = ROOT / "dashboards" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards.yml").read_text())["providers"]
    assert (source["type"], provider["type"]) == ("prometheus", "file")
    interval = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval


def test_alerts_say_for_how_long_how_bad_and_what_to_do():
    named = [rule["alert"] for rule in rules()]
    assert len(set(named)) == len(named)
    guide = (ROOT / "docs" / "monitoring.md").read_text()
    for rule in rules():
        assert re.fullmatch(r"[1-9]\d*[mh]", rule["for"])
        assert rule["labels"]["severity"] in SEVERITIES
        assert set(rule["annotations"]) == {"summary", "description"}
        assert len(rule["annotations"]["description"]) > 60
        assert f"`{rule['alert']}`" in guide


def test_the_scrape_shows_a_token_from_a_file_and_waits_longer_than_a_scrape_takes():
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert (job["job_name"], job["metrics_path"]) == ("segcal", "/metrics")
    assert set(job["authorization"]) == {"type", "credentials_file"}
    assert config["rule_files"] == ["alerts.yml"]
    assert float(config["global"]["scrape_timeout"].removesuffix("s")) > metrics.WAIT_S


def test_the_guide_lists_what_is_exported(exposition, exported):
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \| ([^|]+) \|$",
                      (ROOT / "docs" / "monitoring.md").read_text(), re.MULTILINE)  # fmt: skip
    told = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _, _ in rows}
    ours = {}
    for family in text_string_to_metric_families(exposition):
        if family.name.startswith("segcal_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = set().union(*(sample.labels for sample in family.samples)) - {"le"}
            ours[name] = (family.type, labels)
    assert told == ours
    assert len(rows) == len(ours)


def check(arguments, told=""):
    done = subprocess.run(["promtool", *arguments], input=told, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@promtool
def test_promtool_accepts_rules_scrape_and_every_expression(tmp_path, exposition):
    check(["check", "rules", str(PROMETHEUS / "alerts.yml")])
    check(["check", "config", "--syntax-only", str(PROMETHEUS / "prometheus.yml")])
    asked = {plain(expression): None for _, expression, _ in queries()}
    records = [{"record": f"test:{index}", "expr": expression} for index, expression in enumerate(asked)]
    (tmp_path / "asked.yml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": records}]}))
    check(["check", "rules", str(tmp_path / "asked.yml")])
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=exposition, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


FIRING = {  # series that an alert is about, and the labels that it fires with; nothing else fires
    "SegcalTrialsFailing": (
        {'segcal_sweep_trials{instance="a",experiment="e",recipe="ce",state="failed"}': "1+0x120",
         'segcal_sweep_trials{instance="a",experiment="e",recipe="ce",state="done"}': "9+0x120",
         'segcal_sweep_driver_alive{instance="a",experiment="e"}': "1+0x120"},
        {"instance": "a", "experiment": "e"}),
    "SegcalSweepWithoutDriver": (
        {'segcal_sweep_trials{instance="a",experiment="e",recipe="ce",state="waiting"}': "3+0x120",
         'segcal_sweep_trials{instance="a",experiment="old",recipe="ce",state="waiting"}': "3+0x120",
         'segcal_sweep_driver_alive{instance="a",experiment="e"}': "1+0x20 0+0x100",
         'segcal_sweep_driver_alive{instance="a",experiment="old"}': "0+0x120"},
        {"instance": "a", "experiment": "e"}),
    "SegcalTrackingLag": (
        {'segcal_sweep_tracking_lag_seconds{instance="a",experiment="e"}': "0+60x120",
         'segcal_sweep_tracking_lag_seconds{instance="a",experiment="f"}': "500+0x120"},
        {"instance": "a", "experiment": "e"}),
    "SegcalRecordsUnreadable": (
        {'segcal_sweep_unreadable{instance="a",job="segcal"}': "1+0x120"}, {"instance": "a", "job": "segcal"}),
    "SegcalRecordsNotRead": (
        {'segcal_sweep_read_age_seconds{instance="a"}': "0+60x120",
         'segcal_sweep_read_seconds{instance="a"}': "1+0x120"}, {"instance": "a"}),
    "SegcalGpuIdle": (
        {'segcal_gpu_utilization_ratio{instance="a",gpu="0",name="n"}': "0.01+0x120",
         'segcal_gpu_utilization_ratio{instance="b",gpu="0",name="n"}': "0.01+0x120",
         'segcal_sweep_trials{instance="a",experiment="e",recipe="ce",state="running"}': "2+0x120"},
        {"instance": "a"}),
    "SegcalDown": ({'up{job="segcal",instance="a"}': "0+0x120", 'up{job="other",instance="b"}': "0+0x120"},
                   {"job": "segcal", "instance": "a"}),
    "SegcalTrackingStoreAway": ({'segcal_tracking_up{instance="a"}': "0+0x120"}, {"instance": "a"}),
    "SegcalDiskNearlyFull": (
        {'segcal_disk_free_bytes{instance="a",place="home"}': "4e9+0x120",
         'segcal_disk_size_bytes{instance="a",place="home"}': "20e9+0x120",
         'segcal_disk_free_bytes{instance="a",place="records"}': "40e9+0x120",
         'segcal_disk_size_bytes{instance="a",place="records"}': "100e9+0x120"}, {"instance": "a", "place": "home"}),
    "SegcalErrors": (
        {'segcal_http_requests_total{instance="a",method="GET",route="/",status="200"}': "0+90x120",
         'segcal_http_requests_total{instance="a",method="GET",route="/",status="503"}': "0+10x120"},
        {"instance": "a"}),
    "SegcalSlow": (
        {'segcal_http_request_seconds_bucket{instance="a",method="GET",route="/",le="1.0"}': "0+10x120",
         'segcal_http_request_seconds_bucket{instance="a",method="GET",route="/",le="2.5"}': "0+100x120",
         'segcal_http_request_seconds_bucket{instance="a",method="GET",route="/",le="+Inf"}': "0+100x120"},
        {"instance": "a"}),
    "SegcalQueueStuck": (
        {'segcal_analysis_oldest_queued_seconds{instance="a"}': "0+60x120",
         'segcal_analyses_ended_total{instance="a",outcome="finished"}': "4+0x120"}, {"instance": "a"}),
}  # fmt: skip
MANY = {
    'segcal_sweep_trials{instance="a",experiment="e",recipe="ce",state="failed"}': "3+0x120",
    'segcal_sweep_trials{instance="a",experiment="e",recipe="ce",state="done"}': "7+0x120",
    'segcal_sweep_driver_alive{instance="a",experiment="e"}': "1+0x120",
}


def selector(labels):
    return "{" + ", ".join(f'{label}="{value}"' for label, value in labels.items()) + "}"


def firing(series, expected):
    """A promtool test: after two hours these alerts fire, with these labels, and no others."""
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{
            "expr": 'count by (alertname, instance, experiment, job, place) (ALERTS{alertstate="firing"})',
            "eval_time": "110m",
            "exp_samples": [
                {"labels": selector({"alertname": name, **labels}), "value": 1} for name, labels in expected
            ],
        }],
    }  # fmt: skip


@promtool
def test_each_alert_fires_where_it_should_and_no_other_does(tmp_path):
    assert FIRING.keys() | {"SegcalManyTrialsFailed"} == {rule["alert"] for rule in rules()}
    tests = [firing(series, [(name, labels)]) for name, (series, labels) in FIRING.items()]
    labels = {"instance": "a", "experiment": "e"}
    tests.append(firing(MANY, [("SegcalTrialsFailing", labels), ("SegcalManyTrialsFailed", labels)]))
    content = {"rule_files": [str(PROMETHEUS / "alerts.yml")], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(content))
    check(["test", "rules", str(tmp_path / "tests.yml")])
