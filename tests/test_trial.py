import hashlib
import json
from dataclasses import fields, replace

from segcal.trial import TrialConfig

CONFIG = TrialConfig(
    task="brain", label="ce", data_digest="abc", in_channels=3, dims=2, n_classes=4, seed=7, loss="cross_entropy",
    head="softmax", weights="none", class_weights=(1.0, 1.0, 1.0, 1.0), batch=8,
)  # fmt: skip
OTHER = {
    str: "other", int: 99, float: 0.123, bool: True, tuple: (2.0, 2.0),
}  # fmt: skip


def test_key_is_the_hash_of_every_resolved_value():
    resolved = {
        "task": "brain", "data_digest": "abc", "in_channels": 3, "dims": 2, "n_classes": 4, "seed": 7,
        "loss": "cross_entropy", "head": "softmax", "weights": "none", "class_weights": [1.0] * 4, "smooth": 1.0,
        "background": False,
        "per_image": False, "dropout": 0.0, "mc_samples": 50,
            "mc_validation": False, "kernels": [8, 8, 16, 16, 32, 32, 64, 64, 128, 128], "precision": "fp32",
        "batch": 8, "lr": 0.005, "lr_factor": 0.5, "lr_patience": 10, "lr_threshold": 0.001, "epochs": 1000,
        "patience": 50,
    }  # fmt: skip
    assert CONFIG.key == hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()[:16]


def test_every_field_but_the_label_changes_the_key():
    for field in fields(TrialConfig):
        changed = replace(CONFIG, **{field.name: OTHER[type(getattr(CONFIG, field.name))]})
        assert (changed.key == CONFIG.key) == (field.name == "label"), field.name


def test_recipe_is_all_but_the_seed():
    for field in fields(TrialConfig):
        changed = replace(CONFIG, **{field.name: OTHER[type(getattr(CONFIG, field.name))]})
        assert (changed.recipe == CONFIG.recipe) == (field.name in ("label", "seed")), field.name
    assert CONFIG.recipe.startswith("cross_entropy-")


def test_every_field_explains_itself():
    assert all(field.metadata["help"] for field in fields(TrialConfig))
