"""What docker/ promises, read without running it."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.docker.composed import (
    DOCKER,
    ROOT,
    Unset,
    compose,
    dockerfile,
    env_defaults,
    env_file,
    image,
    interpolate,
    stage,
    variables,
)  # fmt: skip
from tests.docker.native import Lab

FILES = ("compose.yaml", "compose.small.yaml")
SERVICES = compose(env_file())["services"]
SMALL = compose({}, DOCKER / "compose.small.yaml")["services"]
BOTH = [*SERVICES.items(), *SMALL.items()]
OURS = [(name, spec) for name, spec in BOTH if "build" in spec]


def names(pairs) -> list[str]:
    return [name for name, _ in pairs]


@pytest.mark.parametrize(("name", "spec"), BOTH, ids=names(BOTH))
def test_a_service_says_how_it_is_or_ends_by_itself(name, spec):
    once = spec.get("restart") in (None, "no")
    assert once != ("healthcheck" in spec)
    assert once or spec["restart"] == "unless-stopped"


@pytest.mark.parametrize(("name", "spec"), BOTH, ids=names(BOTH))
def test_a_service_waits_for_what_it_needs(name, spec):
    services = SERVICES if SERVICES.get(name) is spec else SMALL
    for other, how in spec.get("depends_on", {}).items():
        long_lived = "healthcheck" in services[other]
        assert how["condition"] == ("service_healthy" if long_lived else "service_completed_successfully")
        if set(services[other].get("profiles", ())) - set(spec.get("profiles", ())):
            assert how["required"] is False  # a service of a profile may be absent


@pytest.mark.parametrize(("name", "spec"), BOTH, ids=names(BOTH))
def test_a_service_has_few_rights(name, spec):
    assert spec["security_opt"] == ["no-new-privileges:true"]
    assert spec["cap_drop"] == ["ALL"]
    assert "privileged" not in spec
    if "build" in spec:
        assert spec["read_only"] is True
        assert "cap_add" not in spec


@pytest.mark.parametrize(("name", "spec"), BOTH, ids=names(BOTH))
def test_an_image_is_our_own_or_pinned(name, spec):
    if "build" in spec:
        target = spec["build"]["target"]
        assert spec["image"] == f"segcal:{target}"
        assert image(target)["USER"] == "10001:10001"
    else:
        tag = spec["image"].rpartition(":")[2]
        assert re.match(r"v?\d+\.\d+", tag), spec["image"]


def test_the_bases_of_the_dockerfile_are_pinned_and_the_last_stages_build_nothing():
    (base,) = [rest for word, rest in dockerfile() if word == "ARG" and rest.startswith("PYTHON_IMAGE=")]
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.\d+\.\d+-slim-\w+", base)
    bases = {rest.split(" AS ")[0] for word, rest in dockerfile() if word == "FROM"}
    assert bases == {"${PYTHON_IMAGE}", "builder", "runtime"}
    for target in ("cpu", "cuda"):
        assert not [
            rest for word, rest in stage(target) if "apt-get" in rest or re.search(r"pip install(?!.*--no-index)", rest)
        ]


@pytest.mark.parametrize(("name", "spec"), BOTH, ids=names(BOTH))
def test_no_secret_stands_in_a_service(name, spec):
    files = {f"/run/secrets/{secret}" for secret in spec.get("secrets", ())}
    text = yaml.safe_dump(spec)
    assert set(re.findall(r"/run/secrets/\w+", text)) <= files, "what is read is mounted"
    for variable, value in spec.get("environment", {}).items():
        if re.search(r"PASSWORD|SECRET|TOKEN", variable):
            assert value in files or (variable, value) == ("RAY_AUTH_MODE", "token"), variable
    assert not re.search(r"://[^/@\s]*:[^/@\s]*@", text), "a password in a URL"


def test_every_secret_is_made_and_used():
    script = (DOCKER / "secrets.sh").read_text()
    made = set(re.search(r"for name in (.*?); do", script, re.DOTALL)[1].replace("\\\n", " ").split())
    assert made == set(compose(env_file())["secrets"])
    assert made == {secret for _, spec in SERVICES.items() for secret in spec.get("secrets", ())}


@pytest.mark.parametrize("file", FILES)
def test_every_port_is_this_machine_s_alone_unless_told_otherwise(file):
    text = (DOCKER / file).read_text()
    published = re.findall(r'ports: \["([^"]*)"\]', text)
    assert len(published) == len(re.findall(r"^ +ports:", text, re.MULTILINE))
    assert all(port.startswith("${BIND_ADDRESS:-127.0.0.1}:") for port in published)
    services = compose(env_file(), DOCKER / file)["services"]
    assert not {"postgres", "s3", "ray-head", "ray-worker", "prometheus"} & {
        n for n in services if "ports" in services[n]
    }


@pytest.mark.parametrize(("name", "spec"), OURS, ids=names(OURS))
def test_a_node_of_ray_has_one_address(name, spec):
    """In two networks /etc/hosts has two, in no order, and the head reaches one of them only."""
    words = [*spec.get("entrypoint", ()), *spec["command"]]
    if "ray-node.sh" in words:
        assert spec["networks"] == ["lab"]


def test_who_speaks_with_whom_shares_a_network_and_the_stores_are_not_among_them():
    of = {name: set(spec["networks"]) for name, spec in SERVICES.items()}
    for one, other in (("grafana", "prometheus"), ("prometheus", "serve"), ("serve", "mlflow"), ("mlflow", "postgres")):
        assert of[one] & of[other], (one, other)
    assert {name for name in of if "store" in of[name]} == {"postgres", "s3", "bucket", "mlflow", "mlflow-upgrade"}
    assert of["postgres"] == of["s3"] == {"store"}
    assert compose(env_file())["networks"]["store"] == {"internal": True}


def test_the_ray_dashboard_is_reached_from_its_container_only():
    assert "--dashboard-host=127.0.0.1" in SERVICES["ray-head"]["command"]


def test_mlflow_takes_names_and_users_and_tells_nobody_by_default():
    words = SERVICES["mlflow"]["command"]
    assert "--app-name=basic-auth" in words
    assert "--allowed-hosts=mlflow:5000,localhost:5000,127.0.0.1:5000" in words
    assert SERVICES["mlflow"]["environment"]["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    behind = compose(env_file() | {"MLFLOW_PUBLIC_URL": "https://mlflow.example.org"})["services"]["mlflow"]
    assert "--cors-allowed-origins=https://mlflow.example.org" in behind["command"]
    sources = SERVICES["mlflow"]["environment"]["MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX"]
    assert all(re.search(sources, kept) for kept in ("models:/m-1", "runs:/1/model", "mlflow-artifacts:/1/2/artifacts"))
    assert not any(re.search(sources, other) for other in ("s3://segcal/artifacts", "http://s3:8333/models:/", "/data"))
    assert "default_permission = NO_PERMISSIONS" in (DOCKER / "mlflow_auth.ini").read_text()


def test_every_variable_is_explained_with_the_default_it_has():
    asked = set().union(*(variables(DOCKER / file) for file in FILES))
    shown = env_file() | env_defaults()
    assert asked | {"COMPOSE_PROFILES"} == set(shown)
    for file in FILES:
        for name, default in re.findall(r"\$\{(\w+):-([^}]*)\}", (DOCKER / file).read_text()):
            assert shown[name] == default, f"{name} in {file}"


def test_a_variable_that_must_be_set_is_named():
    with pytest.raises(Unset, match=r"RAY_CPUS: how many cores train; see docker/\.env\.example"):
        compose({})


def test_variables_are_put_in_as_compose_does():
    values = {"A": "a", "E": ""}
    assert interpolate("$$ ${A} ${E:-x} ${E-x} ${U-x}${U}", values) == "$ a x  x"
    assert interpolate("${A:-a:b}/${U:-h:1,i:2}", values) == "a/h:1,i:2"
    with pytest.raises(Unset, match="E: why"):
        interpolate("${E:?why}", values)
    for wrong in ("$A", "${A", "${A:+x}"):
        with pytest.raises(ValueError, match="a variable must be"):
            interpolate(wrong, values)


@pytest.mark.parametrize(("name", "spec"), BOTH, ids=names(BOTH))
def test_what_is_mounted_is_there(name, spec):
    for volume in spec.get("volumes", ()):
        source, target, *_ = volume.split(":")
        if source.startswith(".") and target != "/images":
            assert (DOCKER / source).resolve().is_file(), source


def test_the_mounted_dashboards_are_where_their_provider_looks():
    provider = yaml.safe_load((ROOT / "dashboards/grafana/provisioning/dashboards.yml").read_text())
    path = provider["providers"][0]["options"]["path"]
    mounted = {volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]}
    dashboards = sorted((ROOT / "dashboards/grafana").glob("*.json"))
    assert dashboards
    assert {f"{path}/{file.name}" for file in dashboards} <= mounted


def test_what_the_dockerfile_copies_reaches_the_builder():
    kept = {line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for word, rest in dockerfile()
        if word == "COPY" and "--from" not in rest
        for source in re.sub(r"--\S+ ", "", rest).split()[:-1]
    } - {".", "segcal/__init__.py"}
    assert copied <= kept
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {project["readme"], *project["license-files"]} <= copied  # nothing is built without them
    assert all((ROOT / path).exists() for path in kept - {"MANIFEST.in"})


def test_the_prometheus_of_compose_asks_the_service_under_a_name_it_takes():
    config = yaml.safe_load((DOCKER / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["job_name"] == "segcal"
    assert job["static_configs"] == [{"targets": ["serve:8350"]}]
    assert "--allowed-host=serve" in SERVICES["serve"]["command"]
    assert job["authorization"]["credentials_file"] == "/run/secrets/segcal_token"
    assert "segcal_token" in SERVICES["prometheus"]["secrets"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool: apt-get install prometheus")
def test_prometheus_takes_its_configuration(tmp_path: Path):
    (tmp_path / "token").write_text("a token")
    text = (DOCKER / "prometheus.yml").read_text().replace("/run/secrets/segcal_token", str(tmp_path / "token"))
    (tmp_path / "prometheus.yml").write_text(text)
    shutil.copy(ROOT / "dashboards/prometheus/alerts.yml", tmp_path)
    done = subprocess.run(["promtool", "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def run(script: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [DOCKER / script, *words], env={"PATH": "/usr/bin:/bin"} | environment, capture_output=True, text=True
    )


def test_the_entrypoint_hands_on_secrets_of_files(tmp_path: Path):
    (tmp_path / "secret").write_text("p$ssw'rd with spaces\n")
    show = "import os; print(os.environ['PGPASSWORD'], 'PGPASSWORD_FILE' in os.environ)"
    done = run("entrypoint.sh", sys.executable, "-c", show, PGPASSWORD_FILE=str(tmp_path / "secret"))
    assert done.stdout == "p$ssw'rd with spaces False\n"
    assert run("entrypoint.sh", "echo", "plain").stdout == "plain\n"


@pytest.mark.parametrize(
    ("content", "message"), [(None, "must be readable by user"), ("", "must hold a secret, got an empty")]
)
def test_a_secret_that_is_not_there_ends_the_container_in_one_line(tmp_path: Path, content, message):
    if content is not None:
        (tmp_path / "secret").write_text(content)
    done = run("entrypoint.sh", "echo", "began", PGPASSWORD_FILE=str(tmp_path / "secret"))
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"entrypoint: PGPASSWORD_FILE {message}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_secrets_are_made_once_and_closed_to_others(tmp_path: Path):
    folder = tmp_path / "secrets"
    assert run("secrets.sh", str(folder)).returncode == 0
    first = {path.name: path.read_text() for path in folder.iterdir()}
    assert len(set(first.values())) == len(first) == 8
    assert all(re.fullmatch(r"[0-9a-f]{48}", secret) for secret in first.values())
    assert folder.stat().st_mode & 0o777 == 0o700
    again = run("secrets.sh", str(folder))
    assert (again.returncode, again.stdout) == (0, "")
    assert {path.name: path.read_text() for path in folder.iterdir()} == first


def test_the_smoke_test_changes_nothing_but_names_addresses_and_folders():
    lab = Lab(env_file())
    try:
        serve, mlflow = lab.address["serve"], lab.address["mlflow"]
        assert (
            lab.here("serve", "http://mlflow:5000/x mlflow.example:5000")
            == f"http://{mlflow}:5000/x mlflow.example:5000"
        )
        assert (
            lab.here("serve", "--host=0.0.0.0 localhostile s3://segcal") == f"--host={serve} localhostile s3://segcal"
        )
        assert lab.here("serve", "/data/records /database") == f"{lab.folder}/data/records /database"
        for name, spec in SERVICES.items():
            if name in ("postgres", "s3", "prometheus", "grafana"):
                continue
            given = image(spec["build"]["target"])["ENV"] | spec["environment"]
            added = set(lab.environment(name)) - set(given)
            assert {key for key in added if not key.startswith("OPENBLAS_")} <= {"HOME", "HOSTNAME", "RAY_TMPDIR"}
            assert len(lab.words(name)) == len(spec.get("entrypoint", ["entrypoint.sh"])) + len(spec["command"])
            plain = re.compile(r"^(?!.*(127\.0\.0\.1|localhost|0\.0\.0\.0|:\d|/run/|/data|/opt/|/etc/))")
            assert [w for w in spec["command"] if plain.match(w)] == [
                here
                for here, w in zip(lab.words(name)[-len(spec["command"]) :], spec["command"], strict=True)
                if plain.match(w)
            ]
    finally:
        lab.down()
