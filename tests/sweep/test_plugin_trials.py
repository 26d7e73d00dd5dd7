"""What plug-ins add to the trials of a sweep: names, options, keys; and what a worker without them does."""

from dataclasses import replace

import pytest
import yaml

from segcal.errors import UsageError
from segcal.journal.reading import look, trial_storage
from segcal.journal.storage import Storage
from segcal.plugins import PluginMismatch
from segcal.search.space import load_search
from segcal.sweep.plan import load_plan, sweep_file, trials
from segcal.sweep.run_trial import Assignment, run_trial

LOSS = "def focal(logits, truth, weights=None, *, gamma: float = 2.0, smooth=0.1):\n    return logits.mean()\n"
TASK = (
    "from dataclasses import replace\nfrom segcal.data.layouts import LAYOUTS\nfrom segcal.tasks import TASKS\n"
    "ours = LAYOUTS['brats']\nliver = replace(TASKS['brain'], name='liver', layout='ours')\n"
)
RECIPES = {"ce": {"loss": "cross_entropy"}, "focal": {"loss": "focal"}}


@pytest.fixture
def installed(packages):
    packages.install("segcal-focal", LOSS, "0.1.0", losses={"focal": "focal"})
    packages.install("organs", TASK, "3.0", tasks={"liver": "liver"}, layouts={"ours": "ours"})
    return packages


@pytest.fixture
def write(tmp_path):
    def write(recipes=RECIPES, **content):
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({"recipes": recipes, "seeds": 1, **content}))
        return tmp_path / "sweep.yaml"

    return write


def configs(path, **given):
    plan = load_plan(path, **given)
    return {config.label: config for config in trials(plan, "d", [1] * plan.task.n_classes)}


def test_packages_and_options_are_part_of_a_trial(installed, write):
    found = configs(write())
    assert (found["ce"].plugins, found["ce"].loss_options) == ((), {})
    focal = found["focal"]
    assert (focal.plugins, focal.loss_options) == (("segcal-focal==0.1.0",), {"gamma": 2.0})
    assert (focal.head, focal.weights, focal.smooth) == ("softmax", "none", 0.1)  # what the loss says where we do not
    assert focal.recipe.startswith("focal-")
    of_liver = configs(write(task="liver"))
    assert of_liver["ce"].plugins == ("organs==3.0",)
    assert of_liver["focal"].plugins == ("organs==3.0", "segcal-focal==0.1.0")


def test_an_option_makes_another_recipe_and_its_default_does_not(installed, write):
    default = configs(write())["focal"]
    assert configs(write(), settings=["recipes.focal.loss_options.gamma=2"])["focal"] == default
    other = configs(write(), settings=["recipes.focal.loss_options.gamma=3"])["focal"]
    assert other.loss_options == {"gamma": 3.0}
    assert other.recipe != default.recipe


def test_another_version_makes_another_key(installed, write):
    before = configs(write())
    installed.upgrade("segcal-focal", "0.1.0", "0.2.0")
    installed.look_again()
    after = configs(write())
    assert after["focal"].plugins == ("segcal-focal==0.2.0",)
    assert after["focal"].key != before["focal"].key
    assert after["ce"].key == before["ce"].key


def test_what_is_installed_beside_does_not_change_a_recipe_without_it(write, packages):
    recipes = {"ce": RECIPES["ce"]}
    before = load_plan(write(recipes))
    packages.install("segcal-focal", LOSS, "0.1.0", losses={"focal": "focal"})
    after = load_plan(write(recipes))
    assert after.as_yaml() == before.as_yaml()
    assert "loss_options" not in after.as_yaml()
    assert trials(after, "d", [1] * 4) == trials(before, "d", [1] * 4)


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (
            {"loss_options": {"gama": 1}},
            "recipe focal: loss_options: no option of focal named 'gama'; did you mean 'gamma'",
        ),
        (
            {"loss_options": {"gamma": "much"}},
            "recipe focal: loss_options: focal gamma must be of type float, got 'much'",
        ),
        ({"loss_options": 2}, "recipe focal: loss_options must be a mapping such as {gamma: 2}, got 2"),
        ({"plugins": ["a==1"]}, "recipe focal: no key named 'plugins'"),
        ({"loss": "focall"}, "recipe focal: no loss named 'focall'; did you mean 'focal'"),
    ],
)
def test_a_wrong_recipe_is_told(installed, write, recipe, reason):
    with pytest.raises(UsageError, match=reason):
        load_plan(write({"focal": {"loss": "focal", **recipe}}))


def test_a_loss_that_is_not_installed_any_more(installed, write):
    path = write()
    load_plan(path)
    installed.uninstall("segcal-focal", "0.1.0")
    with pytest.raises(UsageError, match="recipe focal: no loss named 'focal'; known: cross_entropy, soft_dice"):
        load_plan(path)


def test_a_task_of_a_plug_in_has_the_default_sweep(installed):
    assert sweep_file("liver").name == "default.yaml"


def test_an_option_may_be_searched(installed, write):
    space = {"loss_options.gamma": {"low": 0.5, "high": 5.0}, "lr": {"choices": [0.001, 0.01]}}
    plan = load_search(write({"focal": RECIPES["focal"]}, search={"trials": 4, "space": space}))
    (config,) = plan.candidate("c1", {"loss_options.gamma": 3.5, "lr": 0.001}, "d", [1] * 4)
    assert (config.loss_options, config.lr) == ({"gamma": 3.5}, 0.001)
    with pytest.raises(UsageError, match="no option of focal named 'gama'"):
        load_search(write({"focal": RECIPES["focal"]}, search={"space": {"loss_options.gama": {"low": 1, "high": 2}}}))


def test_another_version_is_another_search(installed, write):
    def studies():
        search = {"trials": 2, "space": {"lr": {"low": 0.001, "high": 0.01}}}
        both = {"trials": 2, "space": {"loss": {"choices": ["cross_entropy", "focal"]}}}
        return [
            load_search(write({"x": {"loss": loss}}, search=asked, task=task)).study("d")
            for loss, asked, task in [
                ("focal", search, "brain"), ("cross_entropy", search, "liver"), ("cross_entropy", both, "brain"),
                ("cross_entropy", search, "brain"),
            ]
        ]  # fmt: skip

    before = studies()
    installed.upgrade("segcal-focal", "0.1.0", "0.2.0")
    installed.upgrade("organs", "3.0", "3.1")
    installed.look_again()
    assert [now == then for now, then in zip(studies(), before, strict=True)] == [False, False, False, True]


def test_a_worker_refuses_what_it_has_in_another_version(installed, write, tmp_path):
    config = configs(write())["focal"]
    storage = Storage(str(tmp_path / "records"))
    assignment = Assignment(config, load_plan(write()).task, storage, "1")
    installed.upgrade("segcal-focal", "0.1.0", "0.2.0")
    with pytest.raises(PluginMismatch, match=r"segcal-focal must be version 0\.1\.0 .* got 0\.2\.0 on"):
        run_trial(assignment)
    installed.uninstall("segcal-focal", "0.2.0")
    with pytest.raises(PluginMismatch, match=r"got none on .*; pip install segcal-focal==0\.1\.0$"):
        run_trial(assignment)
    assert look(trial_storage(storage, config.key)) is None  # nothing is on record: elsewhere it may run
    with pytest.raises(PluginMismatch, match=r"organs must be version 1"):
        run_trial(replace(assignment, config=replace(config, plugins=("organs==1",))))
