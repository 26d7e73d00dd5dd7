import hashlib
import json
from dataclasses import asdict, fields, replace

from pydantic import TypeAdapter

from segcal.trial import TrialConfig

CONFIG = TrialConfig(
    task="brain", label="ce", data_digest="abc", in_channels=3, dims=2, n_classes=4, seed=7, loss="cross_entropy",
    head="softmax", weights="none", class_weights=(1.0, 1.0, 1.0, 1.0), batch=8,
)  # fmt: skip
OTHER = {
    str: "other", int: 99, float: 0.123, bool: True, tuple: (2.0, 2.0), dict: {"gamma": 2.0},
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


def test_keys_of_trials_without_plug_ins_are_what_they_were_before_there_were_any():
    assert CONFIG.key == "9d811643e6cffb76"
    assert CONFIG.recipe == "cross_entropy-088431b2"
    assert {"plugins", "loss_options"}.isdisjoint(CONFIG.identity())


def test_a_record_from_before_there_were_plug_ins_is_of_the_same_trial():
    old = {name: value for name, value in asdict(CONFIG).items() if name not in ("plugins", "loss_options")}
    assert TypeAdapter(TrialConfig).validate_python(json.loads(json.dumps(old))) == CONFIG
    focal = replace(CONFIG, loss="focal", loss_options={"gamma": 2.0}, plugins=("segcal-focal==0.1.0",))
    read = TypeAdapter(TrialConfig).validate_python(json.loads(json.dumps(asdict(focal))))
    assert (read, read.key) == (focal, focal.key)


def test_what_plug_ins_add_is_part_of_the_identity():
    focal = replace(CONFIG, loss="focal", loss_options={"gamma": 2.0}, plugins=("segcal-focal==0.1.0",))
    assert focal.identity() == {
        **CONFIG.identity(), "loss": "focal", "loss_options": {"gamma": 2.0}, "plugins": ("segcal-focal==0.1.0",),
    }  # fmt: skip
    others = [replace(focal, loss_options={"gamma": 3.0}), replace(focal, plugins=("segcal-focal==0.1.1",))]
    assert len({config.key for config in (focal, *others)}) == 3
    assert len({config.recipe for config in (focal, *others)}) == 3
    assert hash(focal) == hash(replace(focal))


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
