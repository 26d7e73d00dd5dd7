"""One trial's calls to MLflow, in a process of its own: `python plain_trial.py URI EXPERIMENT_ID PARENT SEED GO`.

Says in GO.SEED that it is ready, waits for the file GO, so that all begin together, and leaves in GO.SEED.json what
it wrote.
"""

import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param
from mlflow.exceptions import MlflowException

KEYS = ("train_loss", "val_dice", "lr", "seconds", "val_dice.a", "val_dice.b", "val_dice.c", "val_dice.d")
EPOCHS, EPOCHS_A_BATCH, BATCHES_A_CHECKPOINT = 300, 20, 5
MODEL = "segcal-tiny-plain"
DATA = DatasetInput(Dataset("segcal-tiny", "digest", "local", "{}"))


def value(seed: int, key: str, epoch: int) -> float:
    """What is logged, for writer and reader; no two are equal."""
    return (seed + 1) / 3 + KEYS.index(key) / 7 + epoch * 1e-3


def trial(client: MlflowClient, experiment_id: str, parent: str, seed: int) -> dict:
    """A run from its creation to its end: parameters, data, metrics in batches, three checkpoints, one version."""
    tags = {"segcal.kind": "trial", "segcal.seed": str(seed), "segcal.key": f"key-{seed}"}
    run = client.create_run(experiment_id, run_name=f"plain seed {seed}", tags={"mlflow.parentRunId": parent, **tags})
    run_id = run.info.run_id
    client.log_batch(run_id, params=[Param(f"param.{index}", str(seed)) for index in range(20)])
    client.log_inputs(run_id, datasets=[DATA])
    checkpoints, calls = {}, 3
    for batch, first in enumerate(range(1, EPOCHS + 1, EPOCHS_A_BATCH)):
        linked = None
        if batch % BATCHES_A_CHECKPOINT == 0:
            linked, digest = checkpoint(client, experiment_id, run_id, seed, first, tags)
            checkpoints[linked], calls = digest, calls + 3
        metrics = [
            Metric(key, value(seed, key, epoch), 10**12 + epoch, epoch, model_id=linked if epoch == first else None)
            for epoch in range(first, first + EPOCHS_A_BATCH)
            for key in KEYS
        ]
        client.log_batch(run_id, metrics=metrics)
        calls += 1
    try:
        client.create_registered_model(MODEL)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    best = list(checkpoints)[-1]
    client.create_model_version(
        MODEL, f"models:/{best}", run_id, model_id=best, await_creation_for=0, tags={**tags, "sha": checkpoints[best]}
    )
    client.set_terminated(run_id, "FINISHED")
    return {"seed": seed, "run_id": run_id, "checkpoints": checkpoints, "calls": calls + 3}


def checkpoint(client: MlflowClient, experiment_id: str, run_id: str, seed: int, epoch: int, tags: dict):
    """A LoggedModel with its files: (model id, sha256 of the weights)."""
    weights = hashlib.sha256(f"{seed} {epoch}".encode()).digest() * 10_000
    model = client.create_logged_model(
        experiment_id, name=f"plain-seed-{seed}", source_run_id=run_id, params={"seed": str(seed)}, tags=tags
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "weights.safetensors").write_bytes(weights)
        Path(folder, "config.json").write_text(json.dumps({"seed": seed}))
        client.log_model_artifacts(model.model_id, folder)
    client.finalize_logged_model(model.model_id, "READY")
    return model.model_id, hashlib.sha256(weights).hexdigest()


def main(uri: str, experiment_id: str, parent: str, seed: str, go: str) -> None:
    client = MlflowClient(uri, uri)
    client.get_experiment(experiment_id)  # connected before the start
    Path(f"{go}.{seed}").touch()
    while not Path(go).exists():
        time.sleep(0.01)
    begun = time.monotonic()
    written = trial(client, experiment_id, parent, int(seed))
    Path(f"{go}.{seed}.json").write_text(json.dumps({**written, "seconds": time.monotonic() - begun}))


if __name__ == "__main__":
    main(*sys.argv[1:])
