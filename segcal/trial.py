"""One training, fully described: what it learns from, how, and from which seed."""

__all__ = ["TrialConfig"]

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

PAPER_KERNELS = (8, 8, 16, 16, 32, 32, 64, 64, 128, 128)


def _help(text: str, **options: Any) -> Any:
    return field(metadata={"help": text, "identity": options.pop("identity", True)}, **options)


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """Resolved settings of one trial. Two trials with equal `key` would train the same network.

    The key hashes every resolved value (never a difference from defaults, so that editing a default changes it), with
    the seed and the digest of the prepared data; names for people, workers, devices and paths are not part of it. What
    plug-ins add is part of it only where there is some: the keys of trials without plug-ins are older than plug-ins.
    """

    __pydantic_config__ = {"extra": "forbid"}

    task: str = _help("name of the task")
    label: str = _help("the recipe's name in the sweep file and the report", identity=False)
    data_digest: str = _help("digest of the prepared data's manifest")
    in_channels: int = _help("input channels of the network")
    n_classes: int = _help("classes with the background")
    dims: Literal[2, 3] = _help("2: a network over slices; 3: one over volumes")
    seed: int = _help("seeds the weights' initialisation, the shuffling and the dropout")

    loss: str = _help("loss function: cross_entropy, soft_dice, or a plug-in's")
    loss_options: dict[str, Any] = _help(
        "settings of a plug-in's loss that no other field here holds, such as gamma, by name", default_factory=dict,
        hash=False,
    )  # fmt: skip
    plugins: tuple[str, ...] = _help(
        "packages that the task, the layout of its data and the loss come from, name==version", default=()
    )
    head: Literal["softmax", "sigmoid", "raw_sum"] = _help(
        "softmax over all classes; sigmoid per structure; or raw_sum: sigmoid per class, divided by their sum"
    )
    weights: Literal["inverse_frequency", "structures", "none"] = _help(
        "class weights of the loss: inverse frequency of the voxels of train and val; the task's; or ones"
    )
    class_weights: tuple[float, ...] = _help("the weights that follow from the rule, background first")
    smooth: float = _help("smoothing term of the Dice loss (epsilon of Eq. 2)", default=1.0)
    background: bool = _help("the Dice loss counts the background as a structure", default=False)
    per_image: bool = _help("Dice loss per image instead of per mini-batch", default=False)
    dropout: float = _help("dropout probability at the three innermost encoder and decoder levels", default=0.0)
    mc_samples: int = _help(
        "Monte Carlo samples that a network with dropout predicts with; 0: dropout is off when it predicts", default=50
    )
    mc_validation: bool = _help("choose the checkpoint of a dropout network by its Monte Carlo mean", default=False)
    kernels: tuple[int, ...] = _help("kernels of the encoder's convolutions, two a level", default=PAPER_KERNELS)
    precision: Literal["fp32", "bf16"] = _help("arithmetic of the training step", default="fp32")
    batch: int = _help("slices, or volumes, in a mini-batch")
    lr: float = _help("initial learning rate of Adam", default=0.005)
    lr_factor: float = _help("factor on the learning rate at a plateau", default=0.5)
    lr_patience: int = _help("epochs without gain that make a plateau", default=10)
    lr_threshold: float = _help("gain in mean validation Dice that counts", default=0.001)
    epochs: int = _help("epochs at most", default=1000)
    patience: int = _help("epochs without a better checkpoint before stopping early", default=50)

    def identity(self, *, with_seed: bool = True) -> dict[str, Any]:
        """Every resolved field that decides what is learned."""
        named = {f.name for f in fields(self) if f.metadata["identity"] and (with_seed or f.name != "seed")}
        absent = {name for name in ("loss_options", "plugins") if not getattr(self, name)}
        return {name: value for name, value in asdict(self).items() if name in named - absent}

    @property
    def sampled(self) -> bool:
        """Whether the network predicts by Monte Carlo dropout."""
        return self.dropout > 0 and self.mc_samples > 0

    @property
    def key(self) -> str:
        """The trial's identity: hash of all resolved fields, 16 hex digits."""
        return _digest(self.identity())[:16]

    @property
    def recipe(self) -> str:
        """The ensemble this trial is a member of: its loss and a hash of all resolved fields but the seed."""
        return f"{self.loss}-{_digest(self.identity(with_seed=False))[:8]}"


def _digest(fields_: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields_, sort_keys=True).encode()).hexdigest()
