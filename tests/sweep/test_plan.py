import pytest
import yaml

from segcal.errors import UsageError
from segcal.sweep.plan import class_weights, load_plan, trials
from segcal.tasks import TASKS

BRAIN = TASKS["brain"]


@pytest.fixture
def sweep(tmp_path):
    def write(**changes):
        content = {"recipes": {"ce": {"loss": "cross_entropy"}, "dice": {"loss": "soft_dice"}}, **changes}
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def test_the_demo_has_two_losses_and_five_seeds():
    plan = load_plan(task="brain")
    configs = trials(plan, "d", [1000, 10, 20, 30])
    assert plan.scale == "demo"
    assert {config.loss for config in configs} == {"cross_entropy", "soft_dice"}
    assert len(configs) == len({config.key for config in configs}) == 2 * 5 + 2 * 2
    assert len({config.recipe for config in configs}) == 4
    assert {config.label: config.sampled for config in configs} == {
        "ce": False, "dice": False, "ce_mc": True, "dice_mc": True,
    }  # fmt: skip


def test_the_paper_scale_is_the_papers_design():
    plan = load_plan(task="brain", scale="paper")
    assert plan.task == BRAIN
    ce, dice = trials(plan, "d", [1000, 10, 20, 30])[:2]
    assert plan.seeds == dict.fromkeys(("ce", "dice", "ce_mc", "dice_mc"), tuple(range(100)))
    for config in (ce, dice):
        assert (config.lr, config.epochs, config.batch, config.lr_patience) == (0.005, 1000, 32, 10)
        assert (config.lr_threshold, config.kernels) == (0.001, (8, 8, 16, 16, 32, 32, 64, 64, 128, 128))
    assert (ce.head, ce.weights) == ("softmax", "inverse_frequency")
    assert (dice.head, dice.weights, dice.class_weights) == ("sigmoid", "structures", (1, 1, 1, 1))


def test_inverse_frequency_weights_by_hand():
    # 100 voxels, K=4: w_k = 100 / (4 n_k); their mean over voxels is 1
    weights = class_weights("inverse_frequency", BRAIN, [50, 25, 20, 5])
    assert weights == pytest.approx((0.5, 1.0, 1.25, 5.0))
    assert class_weights("none", BRAIN, [50, 25, 20, 5]) == (1, 1, 1, 1)


def test_settings_reach_every_level(sweep):
    plan = load_plan(sweep(), settings=["seeds=[4, 7]", "epochs=3", "recipes.ce.lr=0.1", "task_fields.crop=[64, 64]"])
    configs = trials(plan, "d", [1] * 4)
    assert plan.seeds == {"ce": (4, 7), "dice": (4, 7)}
    assert plan.task.crop == (64, 64)
    assert {(config.label, config.lr, config.epochs) for config in configs} == {("ce", 0.1, 3), ("dice", 0.005, 3)}


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"seeds": [1, 2, 1]}, [], "seeds must differ, got 1 more than once"),
        ({"seeds": 0}, [], "seeds must be a number above 0"),
        ({"seeds": [-1]}, [], "seeds must not be negative"),
        ({"task": "brian"}, [], "no task named 'brian'; did you mean 'brain'"),
        ({"recipees": {}}, [], "no key named 'recipees'; did you mean 'recipes'"),
        ({"recipes": {"x": {"loss": "sot_dice"}}}, [], "no loss named 'sot_dice'; did you mean 'soft_dice'"),
        ({"recipes": {"x": {}}}, [], "no loss named 'None'"),
        ({"recipes": {"x": {"loss": "soft_dice", "droput": 0.5}}}, [], "did you mean 'dropout'"),
        ({"recipes": {"x": {"loss": "soft_dice", "lr": "fast"}}}, [], "recipe x: lr: .* got 'fast'"),
        ({"recipes": {"x": {"loss": "soft_dice", "head": "tanh"}}}, [], "recipe x: head: .* got 'tanh'"),
        ({"recipes": {"x": {"loss": "soft_dice", "head": "raw_sum"}}}, [], "head raw_sum needs background: true"),
        ({"recipes": {"a": {"loss": "soft_dice"}, "b": {"loss": "soft_dice"}}}, [], "recipes must differ"),
        ({"task_fields": {"crop": [100, 96]}}, [], "crop must be multiples of 16"),
        ({"task_fields": {"cropp": [96, 96]}}, [], "did you mean 'crop'"),
        ({}, ["epochs"], "must read key=value, got 'epochs'"),
        ({}, ["epochs=0"], "epochs must be above 0, got 0"),
        ({}, ["dropout=1"], "dropout must lie in"),
        ({}, ["epoch=3"], "--set: no key named 'epoch'; did you mean 'epochs'?"),
    ],
)
def test_bad_sweeps_say_what_is_wrong_in_one_line(sweep, changes, settings, message):
    with pytest.raises(UsageError, match=message) as caught:
        load_plan(sweep(**changes), settings=settings)
    assert "\n" not in str(caught.value)


def test_unknown_scale_and_file(sweep, tmp_path):
    with pytest.raises(UsageError, match="no scale named 'papr'; did you mean 'paper'"):
        load_plan(task="brain", scale="papr")
    with pytest.raises(UsageError, match="cannot read"):
        load_plan(tmp_path / "absent.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(UsageError, match="must be YAML"):
        load_plan(tmp_path / "broken.yaml")


def test_resolved_plan_is_yaml(sweep):
    content = yaml.safe_load(load_plan(sweep()).as_yaml())
    assert content["recipes"]["ce"]["seeds"] == [0, 1, 2, 3, 4]
    assert content["task"]["crop"] == [224, 224]
    assert content["recipes"]["dice"]["head"] == "sigmoid"


@pytest.mark.parametrize(("task", "seeds"), [("brain", 100), ("heart", 100), ("prostate", 100), ("prostate3d", 10)])
def test_every_task_has_a_demo_and_the_papers_design(task, seeds):
    paper = load_plan(task=task, scale="paper")
    assert paper.task == TASKS[task]
    assert {len(mine) for mine in paper.seeds.values()} == {seeds}
    assert set(paper.recipes) == {"ce", "dice", "ce_mc", "dice_mc"}
    for config in trials(paper, "d", [1000] + [10] * (paper.task.n_classes - 1)):
        assert (config.dims, config.batch, config.epochs) == (paper.task.dims, TASKS[task].batch, 1000)
    demo = load_plan(task=task)
    assert (demo.scale, demo.task.name, demo.task.dims) == ("demo", task, paper.task.dims)
    assert [len(seeds) for seeds in demo.seeds.values()] == [5, 5, 2, 2]
    study = load_plan(task=task, scale="study")
    assert study.task == demo.task
    assert min(len(study.seeds[label]) for label in ("ce", "dice")) == 10
    assert sum(demo.task.split_counts.values()) == (24 if "prostate" in task else 36)


def test_the_myocardium_counts_three_times_in_the_dice_loss():
    dice = next(config for config in trials(load_plan(task="heart"), "d", [9] * 4) if config.label == "dice")
    assert dice.class_weights == (1.0, 1.0, 3.0, 1.0)


def test_a_recipe_may_have_seeds_of_its_own(sweep):
    plan = load_plan(sweep(), settings=["recipes.ce.seeds=[9]", "seeds=2"])
    configs = trials(plan, "d", [1] * 4)
    assert [(config.label, config.seed) for config in configs] == [("dice", 0), ("dice", 1), ("ce", 9)]
    for bad in ("recipes.ce.seeds=0", "recipes.ce.seeds=many", "recipes.ce.seeds=[1, x]"):
        with pytest.raises(UsageError, match="seeds must be a number above 0 or a list of numbers"):
            load_plan(sweep(), settings=[bad])


def test_monte_carlo_settings_that_mean_nothing(sweep):
    with pytest.raises(UsageError, match="mc_samples must not be negative, got -1"):
        load_plan(sweep(), settings=["mc_samples=-1"])
    with pytest.raises(UsageError, match=r"mc_validation needs dropout and mc_samples above 0, got 0\.0 and 50"):
        load_plan(sweep(), settings=["mc_validation=true"])
