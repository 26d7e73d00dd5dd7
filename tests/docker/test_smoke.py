"""The commands, variables and health checks of docker/compose.yaml, run: from an empty server to a report."""

import io
import json
import shutil
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path

import pytest

from tests.docker.composed import env_file
from tests.docker.native import Lab
from tests.tracking_servers import postgres_missing

pytest.importorskip("moto", reason="moto stands in for SeaweedFS: pip install 'segcal[dev]'")
pytest.importorskip("aiohttp_cors", reason="a Ray cluster needs ray[default]: pip install 'segcal[cluster]'")
pytestmark = pytest.mark.long  # minutes


@pytest.fixture(scope="module")
def lab(blobs: Path, tiny_files: tuple[Path, Path]):
    """All of `docker compose up` but what watches it."""
    if why := postgres_missing():
        pytest.skip(why)
    lab = Lab(env_file())
    try:
        images = lab.folder / "images"
        shutil.copytree(blobs, images / "blobs")
        shutil.copy(tiny_files[0], images / "tiny.yaml")
        sweep = tiny_files[1].read_text().replace(str(tiny_files[0]), str(images / "tiny.yaml"))
        (images / "sweep.yaml").write_text(sweep)
        lab.up("mlflow", "ray-worker", "serve")
        for service in ("postgres", "s3", "mlflow", "ray-head", "ray-worker", "serve"):
            lab.wait_healthy(service)
        yield lab
    finally:
        lab.down()


def ask(
    url: str, host: str = "", token: str = "", user: tuple[str, str] | None = None, body: dict | None = None
) -> tuple[int, str]:
    """Status and body of a GET, or of a POST of a body."""
    request = urllib.request.Request(url)
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    if host:
        request.add_header("Host", host)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    if user:
        request.add_header("Authorization", "Basic " + b64encode(":".join(user).encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def objects(tar: bytes) -> dict[str, bytes]:
    """What lies in a tar file."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as file:
        return {member.name: file.extractfile(member).read() for member in file}


@pytest.fixture(scope="module")
def swept(lab: Lab) -> dict:
    """The sweep through the tool `segcal` of compose.yaml."""
    done = lab.run("segcal", "sweep", "/images/sweep.yaml", "--data", "/images/blobs", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def mlflow(lab: Lab) -> str:
    return f"http://{lab.address['mlflow']}:5000"


def test_a_sweep_trains_on_the_worker_and_a_report_is_made_of_it(lab, swept):
    assert sorted(swept["finished"]) == ["ce seed 0", "ce seed 1", "dice seed 0", "dice seed 1"]
    done = lab.run("segcal", "report", "--experiment", "tiny", "--sizes", "1,2", "--draws", "2", "--resamples", "200")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (lab.folder / "data/work/reports/tiny/report.html").stat().st_size > 10_000


def test_checkpoints_lie_in_the_bucket_and_records_in_the_volume(lab, swept):
    import boto3

    given = lab.environment("mlflow")
    store = boto3.client(
        "s3", endpoint_url=given["MLFLOW_S3_ENDPOINT_URL"], region_name=given["AWS_DEFAULT_REGION"],
        aws_access_key_id=given["AWS_ACCESS_KEY_ID"], aws_secret_access_key=lab.secret("s3_secret_key"),
    )  # fmt: skip
    keys = [entry["Key"] for entry in store.list_objects_v2(Bucket="segcal", Prefix="artifacts/")["Contents"]]
    assert sum(key.endswith("weights.safetensors") for key in keys) == 4
    assert list((lab.folder / "data/records").rglob("weights.safetensors"))
    assert not list((lab.folder / "data/work").glob("ml*"))  # no store of its own beside the server's
    # In containers nobody but MLflow reaches the S3 store: its clients must not be sent there.
    assert "/mlflow-artifacts/presigned/" not in lab.log("mlflow")


def test_the_service_shows_the_experiment_to_those_with_the_token(lab, swept):
    service = f"http://{lab.address['serve']}:8350"
    token = lab.secret("segcal_token")
    status, body = ask(f"{service}/v1/experiments", token=token)
    assert status == 200
    assert "tiny" in body
    assert ask(f"{service}/v1/experiments")[0] == 401
    assert ask(f"{service}/v1/experiments", host="evil.example", token=token)[0] == 421
    assert ask(f"{service}/metrics", host="serve:8350")[0] == 401  # the name Prometheus calls it by is allowed
    status, metrics = ask(f"{service}/metrics", host="serve:8350", token=token)
    assert 'segcal_sweep_trials{experiment="tiny",recipe="ce",state="done"} 2.0' in metrics


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus: apt-get install prometheus")
def test_prometheus_asks_the_service_with_its_token(lab, swept):
    lab.up("prometheus")
    lab.wait_healthy("prometheus")
    url = f"http://{lab.address['prometheus']}:9090/api/v1"
    deadline = time.monotonic() + 60
    while '"health":"up"' not in (targets := ask(f"{url}/targets")[1]) and time.monotonic() < deadline:
        time.sleep(1)
    (target,) = json.loads(targets)["data"]["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    assert "SegcalTrialsFailing" in ask(f"{url}/rules")[1]


def test_mlflow_lets_in_whom_it_knows_by_names_it_knows(lab, mlflow, swept):
    search = f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=9"
    user = "segcal", lab.secret("mlflow_segcal_password")
    assert ask(search)[0] == 401
    assert ask(search, user=("segcal", "wrong-password"))[0] == 401
    status, body = ask(search, user=user)
    assert [each["name"] for each in json.loads(body)["experiments"]] == ["tiny"]  # not "Default"
    assert ask(search, user=user, host="mlflow:5000")[0] == 403  # here the name is its address
    status, body = ask(search, user=user, host="evil.example")
    assert status == 403
    assert "Invalid Host" in body


def test_a_user_cannot_have_the_server_fetch_files_for_him(lab, mlflow, swept):
    """A model version with a source of his own: MLflow would read it with the key of the store."""
    user = "segcal", lab.secret("mlflow_segcal_password")
    api = f"{mlflow}/api/2.0/mlflow"
    assert ask(f"{api}/registered-models/create", user=user, body={"name": "trick"})[0] == 200
    for source in ("s3://segcal/artifacts", f"{mlflow}/health", "/etc/passwd"):
        status, body = ask(f"{api}/model-versions/create", user=user, body={"name": "trick", "source": source})
        assert status == 400, source
        assert "Invalid model version source" in body


def test_another_user_sees_what_he_is_granted(lab, mlflow, swept):
    anna = "anna", "a-password-of-anna"
    (lab.folder / "secrets/anna").write_text(anna[1])
    done = lab.run("mlflow-users", "add", "anna", "--password-file", "/run/secrets/anna")
    assert done.returncode == 0, done.stderr
    admin = "admin", lab.secret("mlflow_admin_password")
    owner = "segcal", lab.secret("mlflow_segcal_password")
    experiment = f"{mlflow}/api/2.0/mlflow/experiments/get-by-name?experiment_name=tiny"
    run = f"{mlflow}/api/2.0/mlflow/runs/get?run_id={swept['run_id']}"
    models = f"{mlflow}/api/2.0/mlflow/registered-models/search"
    number = json.loads(ask(experiment, user=owner)[1])["experiment"]["experiment_id"]
    files = f"{mlflow}/api/2.0/mlflow-artifacts/artifacts?path={number}/{swept['run_id']}/artifacts"
    signed = f"{mlflow}/api/2.0/mlflow-artifacts/presigned/{number}/{swept['run_id']}/artifacts/sweep.yaml"
    assert [ask(url, user=owner)[0] for url in (files, signed)] == [200, 200]
    assert [ask(url, user=anna)[0] for url in (experiment, run, files, signed)] == [403, 403, 403, 403]
    assert "segcal-tiny" not in ask(models, user=anna)[1]

    refused = lab.run(
        "mlflow-users", "grant", "anna", "READ", "tiny",
        MLFLOW_TRACKING_USERNAME="anna", MLFLOW_TRACKING_PASSWORD_FILE=str(lab.folder / "secrets/anna"),
    )  # fmt: skip
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr

    done = lab.run("mlflow-users", "grant", "anna", "READ", "tiny")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("READ on registered_model segcal-tiny") == 2
    assert [ask(url, user=anna)[0] for url in (experiment, run, files)] == [200, 200, 200]
    assert "segcal-tiny" in ask(models, user=anna)[1]

    tag = {"run_id": swept["run_id"], "key": "seen", "value": "by anna"}

    def may(verb: str, body: dict) -> int:
        return ask(f"{mlflow}/api/2.0/mlflow/{verb}", user=anna, body=body)[0]

    assert [may("runs/set-tag", tag), may("runs/create", {"experiment_id": number})] == [403, 403]
    assert lab.run("mlflow-users", "grant", "anna", "EDIT", "tiny").returncode == 0
    assert [may("runs/set-tag", tag), may("runs/create", {"experiment_id": number})] == [200, 200]
    assert may("experiments/delete", {"experiment_id": number}) == 403
    done = lab.run("mlflow-users", "revoke", "anna", "tiny")
    assert done.returncode == 0, done.stderr
    assert ask(run, user=anna)[0] == 403
    assert ask(run, user=admin)[0] == 200


def test_ray_refuses_a_wrong_token(lab):
    (wrong := lab.folder / "wrong").write_text("0" * 48)
    done = lab.run("segcal", "status", RAY_AUTH_TOKEN_PATH=str(wrong), timeout_s=120)
    assert done.returncode == 1
    assert f"ray-node: Ray must answer at {lab.address['ray-head']}:6379, got: " in done.stderr


def test_what_is_missing_is_told_in_one_line(lab):
    done = lab.run("segcal", "status", MLFLOW_TRACKING_PASSWORD_FILE="/run/secrets/forgotten")
    assert done.returncode == 1
    assert "MLFLOW_TRACKING_PASSWORD_FILE must be readable" in done.stderr
    (wrong := lab.folder / "wrong").write_text("a-wrong-password")
    done = lab.run("segcal", "report", "--experiment", "tiny", MLFLOW_TRACKING_PASSWORD_FILE=str(wrong))
    assert done.returncode == 5
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("segcal: ")]
    assert "MLFLOW_TRACKING_PASSWORD" in line


def test_the_bucket_goes_into_a_tar_file_and_into_another_bucket(lab, swept):
    """docs/deployment.md's backup of the files: `docker compose run bucket python bucket_tar.py save`, and load."""
    command = lab.words("bucket", "python", "/opt/setup/bucket_tar.py")
    environment = lab.environment("bucket")
    saved = subprocess.run([*command, "save"], env=environment, capture_output=True, check=True)
    assert lab.run("bucket", S3_BUCKET="restored").returncode == 0  # makes it
    subprocess.run([*command, "load"], env=environment | {"S3_BUCKET": "restored"}, input=saved.stdout, check=True)
    again = subprocess.run(
        [*command, "save"], env=environment | {"S3_BUCKET": "restored"}, capture_output=True, check=True
    )
    assert objects(again.stdout) == objects(saved.stdout)
    assert len(objects(saved.stdout)) > 8


def test_a_new_password_of_segcal_is_set_at_the_next_start(lab, mlflow):
    done = lab.run("mlflow-users")
    assert done.returncode == 0, done.stderr
    assert "user 'segcal' is there; the password is set" in done.stdout
    (new := lab.folder / "secrets/new").write_text("another-password-of-admin")
    done = lab.run("mlflow-users", "add", "admin", f"--password-file={new}")
    assert done.returncode == 0, done.stderr
    new.rename(lab.folder / "secrets/mlflow_admin_password")
    assert lab.run("mlflow-users").returncode == 0


def test_a_dump_of_the_database_is_restored_with_users_and_runs(lab, swept):
    """docs/deployment.md's backup, on the database of all of the above."""
    host = ["-h", lab.address["postgres"], "-U", "mlflow"]
    environment = lab.environment("postgres") | {"PGPASSWORD": lab.secret("postgres_password")}

    def tool(*words: str) -> str:
        done = subprocess.run([*words], env=environment, capture_output=True, text=True, cwd=lab.folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    tool("pg_dump", *host, "-Fc", "-f", "mlflow.dump", "mlflow")
    tool("createdb", *host, "restored")
    tool("pg_restore", *host, "--exit-on-error", "-d", "restored", "mlflow.dump")
    for count in ("runs", "model_versions", "users", "role_permissions", "latest_metrics"):
        before, after = (
            int(tool("psql", *host, "-tAc", f"SELECT count(*) FROM {count}", name)) for name in ("mlflow", "restored")
        )
        assert before == after > 0, count


def test_the_tables_are_upgraded_and_everything_comes_back(lab, mlflow, swept):
    lab.stop("mlflow")
    assert not lab.healthy("mlflow")
    done = lab.run("mlflow-upgrade")
    assert done.returncode == 0, done.stderr
    lab.up("mlflow")
    lab.wait_healthy("mlflow")
    done = lab.run("segcal", "sweep", "/images/sweep.yaml", "--data", "/images/blobs", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["already_finished"] == 4
