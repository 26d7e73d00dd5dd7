import io
import json
import os
import threading
import time
from dataclasses import replace

import pytest

from segcal.analysis.word import me
from segcal.environment import home
from segcal.errors import BadData, UnknownName, UsageError
from segcal.service import predict_api
from segcal.service import predictions as module
from segcal.service.errors import Refusal
from segcal.service.predictions import Predictions, Upload
from tests.service.test_jobs import until

MODEL = "models:/segcal-tiny-ensemble@champion"


class FakeTask:
    def __init__(self, cluster, out):
        self.cluster, self.out, self.cancelled = cluster, out, False

    def wait(self, seconds):
        return self.cluster.go.wait(min(seconds, 0.05)) or self.cancelled

    def result(self):
        if self.cluster.fails:
            raise self.cluster.fails
        (self.out / "case").mkdir(parents=True)
        (self.out / "case" / "result.json").write_text('{"case": "case"}')
        (self.out / "case" / "labels.nii.gz").write_bytes(b"labels")

    def cancel(self, force):
        self.cancelled = True


class FakeCluster:
    def __init__(self):
        self.go, self.fails, self.calls = threading.Event(), None, []

    def call(self, function, uri, model, images, out):
        self.calls.append({name: [path.name for path in paths] for name, paths in images.items()})
        assert all(path.is_file() for paths in images.values() for path in paths)
        return FakeTask(self, out)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where predictions lie."""
    monkeypatch.setenv("SEGCAL_HOME", str(tmp_path))
    return tmp_path / "predictions"


@pytest.fixture
def made(settings, folder):
    """Predictions that nobody computes yet: .cluster.go lets them end."""
    told = []
    made = Predictions(settings, FakeCluster(), told.append)
    made.cluster, made.told = made._cluster, told
    yield made
    made.cluster.go.set()
    made.close()


def image(channel="image", name="patient name.nii.gz", content=b"voxels"):
    return Upload(channel, name, io.BytesIO(content))


def names_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_images_are_kept_as_long_as_they_are_needed_and_under_no_name_of_theirs(made, folder):
    prediction = made.accept(MODEL, [image(name="../../Doe, John.NII.GZ"), image(name="b.mha")])
    assert names_below(folder / prediction.id) == ["images/00/0000.nii.gz", "images/00/0001.mha", "state.json"]
    assert "Doe" not in (folder / prediction.id / "state.json").read_text()
    made.start()
    made.cluster.go.set()
    until(lambda: made.find(prediction.id).status == "finished")
    assert names_below(folder / prediction.id) == [
        "results/case/labels.nii.gz",
        "results/case/result.json",
        "state.json",
    ]
    assert made.find(prediction.id).files == ["labels.nii.gz", "result.json"]
    assert made.file(prediction.id, "labels.nii.gz").read_bytes() == b"labels"
    assert made.told == ["finished"]


@pytest.mark.parametrize("path", ["../../state.json", "state.json", "/etc/passwd", "", "case/result.json"])
def test_only_results_are_given(made, path):
    prediction = made.accept(MODEL, [image()])
    with pytest.raises(UnknownName):
        made.file(prediction.id, path)


def test_a_case_that_cannot_be_predicted_leaves_its_reason_only(made, folder):
    made.cluster.fails = BadData("case: task tiny needs 4 channels (t1, t1ce, t2, flair), got 1")
    made.cluster.go.set()
    prediction = made.accept(MODEL, [image()])
    made.start()
    until(lambda: made.find(prediction.id).status == "failed")
    assert "needs 4 channels" in made.find(prediction.id).error
    assert names_below(folder / prediction.id) == ["state.json"]
    assert made.told == ["failed"]


def test_a_defect_is_not_told(made):
    made.cluster.fails = RuntimeError("/home/somebody/secret.py")
    made.cluster.go.set()
    prediction = made.accept(MODEL, [image()])
    made.start()
    until(lambda: made.find(prediction.id).status == "failed")
    assert "secret" not in made.find(prediction.id).error


def test_channels_come_by_name_and_a_series_in_its_order(made):
    uploads = [image("t2", "x.dcm"), image("t1", "a.dcm"), image("t2", "a.dcm")]
    made.accept(MODEL, uploads)
    made.start()
    until(lambda: made.cluster.calls)
    assert made.cluster.calls == [{"t2": ["0000.dcm", "0002.dcm"], "t1": ["0001.dcm"]}]


@pytest.mark.parametrize(
    "uploads",
    [[], [image(name="a.exe")], [image(name="")], [image(name="a.mhd")], [image("t1"), image("t1")],
     [image("t1"), image("image")]],
    ids=["none", "no image", "no name", "header alone", "twice", "mixed"],
)  # fmt: skip
def test_what_is_no_case_is_refused(made, folder, uploads):
    with pytest.raises(Refusal) as refused:
        made.accept(MODEL, uploads)
    assert refused.value.status == 422
    assert not folder.exists() or names_below(folder) == []


def test_nothing_stays_of_an_upload_that_breaks_off(made, folder):
    class Broken(io.BytesIO):
        def read(self, *_):
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        made.accept(MODEL, [image(), Upload("image", "b.nii", Broken())])
    assert list(folder.iterdir()) == []


def test_too_many_that_wait_are_refused(settings, folder):
    made = Predictions(replace(settings, predictions=2), FakeCluster(), lambda outcome: None)
    made.accept(MODEL, [image()])
    made.accept(MODEL, [image()])
    with pytest.raises(Refusal) as refused:
        made.accept(MODEL, [image()])
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "60")


def test_what_is_removed_is_gone_whatever_it_did(made, folder):
    made.start()
    running, waiting = made.accept(MODEL, [image()]), made.accept(MODEL, [image()])
    until(lambda: made.cluster.calls)
    made.remove(waiting.id)
    made.remove(running.id)
    until(lambda: not made._queue)
    assert list(folder.iterdir()) == []
    with pytest.raises(UnknownName):
        made.remove(running.id)
    assert len(made.cluster.calls) == 1


def test_results_go_after_their_time(settings, folder, monkeypatch):
    monkeypatch.setattr("segcal.service.predictions.LOOK_S", 0.05)
    cluster = FakeCluster()
    cluster.go.set()
    made = Predictions(replace(settings, keep_h=1 / 3600), cluster, lambda outcome: None)
    prediction = made.accept(MODEL, [image()])
    made.start()
    until(lambda: (folder / prediction.id / "results").exists())
    until(lambda: not (folder / prediction.id).exists())
    made.close()


def test_what_a_dead_service_left_is_finished(settings, folder):
    first = Predictions(settings, FakeCluster(), lambda outcome: None)
    prediction = first.accept(MODEL, [image()])
    living = first.accept(MODEL, [image()])
    state = folder / prediction.id / "state.json"
    dead = json.dumps(json.loads(me()) | {"pid": 1, "born": "0"})
    state.write_text(json.dumps(json.loads(state.read_text()) | {"holder": dead, "status": "running"}))
    second = Predictions(settings, FakeCluster(), lambda outcome: None)
    second._cluster.go.set()
    second.start()
    until(lambda: second.find(prediction.id).status == "finished")
    time.sleep(0.2)
    assert second.find(living.id).status == "queued"
    second.close()


@pytest.fixture
def known(monkeypatch):
    """Every model is one."""
    monkeypatch.setattr(predict_api, "find_version", lambda client, uri: None)


def post(client, files, model=MODEL, **changed):
    return client.post("/v1/predict", data={"model": model} | changed, files=files)


@pytest.fixture
def served(app, made):
    """The application with predictions that nobody computes yet."""
    before = app.state.predictions
    app.state.predictions = made
    yield made
    app.state.predictions = before


def test_an_upload_is_accepted_and_its_files_are_fetched(client, served, known):
    served.start()
    answer = post(client, [("t1", ("a.nii.gz", b"1")), ("t2", ("b.nii.gz", b"2"))])
    assert answer.status_code == 202
    here = answer.headers["location"]
    assert here == f"/v1/predict/{answer.json()['id']}"
    assert answer.json()["status"] in ("queued", "running")
    served.cluster.go.set()
    until(lambda: client.get(here).json()["status"] == "finished")
    content = client.get(here).json()
    assert content["files"]["result.json"] == f"{here}/files/result.json"
    assert content["expires_ms"] - content["ended_ms"] == 24 * 3600 * 1000
    assert client.get(f"{here}/files/result.json").json() == {"case": "case"}
    assert client.get(f"{here}/files/labels.nii.gz").content == b"labels"
    assert client.get(f"{here}/files/..%2f..%2fstate.json").status_code == 404
    assert client.delete(here).status_code == 204
    assert client.get(here).status_code == 404
    assert client.delete(here).status_code == 404


def test_an_unknown_model_is_told_with_the_nearest(client, served, folder, monkeypatch):
    def unknown(client, uri):
        raise UsageError(f"no ensemble '{uri}'; did you mean 'segcal-tiny-ensemble/1'? known: segcal-tiny-ensemble/1")

    monkeypatch.setattr(predict_api, "find_version", unknown)
    answer = post(client, [("image", ("a.nii.gz", b"1"))], model="models:/segcal-tiny-ensembel/1")
    assert answer.status_code == 404
    assert answer.json()["error"]["nearest"] == ["segcal-tiny-ensemble/1"]
    assert not folder.exists()


@pytest.mark.parametrize("model", ["", "runs:/1/model", "models:/../x@champion", "models:/a", "models:/a/1/2", "a b@c"])
def test_what_is_no_model_is_refused(client, served, known, model):
    assert post(client, [("image", ("a.nii.gz", b"1"))], model=model).status_code == 422


def test_what_is_no_form_is_refused(client, served, known):
    assert client.post("/v1/predict", json={"model": MODEL}).status_code == 422
    for boundary, content in (
        ("boundary=x", b"--x\r\nnonsense"),
        ("boundary=x", b"--x\r\nContent-\xc3: form-data\r\n\r\n1\r\n--x--"),
        ("", b"--x\r\nnonsense"),
    ):
        kind = f"multipart/form-data; {boundary}"
        answer = client.post("/v1/predict", content=content, headers={"Content-Type": kind})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid")
    assert post(client, [("image", ("a.nii.gz", b"1"))], colour="blue").status_code == 422
    assert post(client, []).status_code == 422


def test_an_upload_is_read_to_its_limit_only(make_client, folder, known):
    client = make_client(upload_bytes=100_000)
    assert post(client, [("image", ("a.nii.gz", b"x" * 200_000))]).status_code == 413
    sent = []

    def endless():
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.nii"\r\n\r\n'
        for number in range(10_000):
            sent.append(number)
            yield b"x" * 10_000

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = client.post("/v1/predict", content=endless(), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    assert not folder.exists() or names_below(folder) == []


def test_predictions_lie_below_home(settings, folder):
    made = Predictions(settings, FakeCluster(), lambda outcome: None)
    prediction = made.accept(MODEL, [image()])
    path = home() / "predictions" / prediction.id / "images"
    assert path.stat().st_mode & 0o077 == 0


def test_what_a_killed_service_was_writing_does_not_stay(made, folder):
    torn, fresh = folder / ("a" * 32), folder / ("b" * 32)
    for left in (torn, fresh):
        (left / "images").mkdir(parents=True)
        (left / "images" / "0000.nii.gz").write_bytes(b"of a patient")
    os.utime(torn, (0, 0))
    made.start()
    until(lambda: not torn.exists())
    assert fresh.exists()  # somebody may be writing it


def test_what_nobody_can_be_asked_about_goes_when_it_is_old(made, folder, monkeypatch):
    elsewhere = json.dumps(json.loads(me()) | {"host": "a container that is gone"})
    monkeypatch.setattr(made, "_holder", elsewhere)
    old, young = made.accept(MODEL, [image()]), made.accept(MODEL, [image()])
    made._queue.clear()
    monkeypatch.setattr(made, "_holder", me())
    old.created_ms -= made._keep_ms + 1
    made._write(old)
    made.start()
    until(lambda: not (folder / old.id).exists())
    assert (folder / young.id).exists()


def test_what_another_service_left_is_taken_over_while_this_one_runs(made, monkeypatch):
    monkeypatch.setattr(module, "LOOK_S", 0.1)
    made.cluster.go.set()
    made.start()
    time.sleep(0.3)
    dead = json.dumps(json.loads(me()) | {"born": "0"})
    monkeypatch.setattr(made, "_put", lambda prediction: None)  # it is another service that accepts
    monkeypatch.setattr(made, "_holder", dead)
    left = made.accept(MODEL, [image()])
    monkeypatch.undo()
    monkeypatch.setenv("SEGCAL_HOME", str(made._folder.parent))
    until(lambda: made.find(left.id).status == "finished")


def test_no_more_wait_than_may_however_many_come_at_once(made, folder):
    limit, refused = made._settings.predictions, []
    barrier = threading.Barrier(limit + 10)

    def post():
        barrier.wait()
        try:
            made.accept(MODEL, [image()])
        except Refusal as refusal:
            refused.append(refusal.status)

    threads = [threading.Thread(target=post) for _ in range(limit + 10)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert refused == [429] * 10
    assert len(list(folder.iterdir())) == len(made._queue) == limit
