"""The configuration of a training run: presets, changes by `--set`, and what of it must not change in a run.

    defaults      the paper's run, `--preset paper`
    preset        a few fields laid over it
    --set         fields one by one: `--set batch=8 --set r1.gamma=0.5`
    dataset       sizes, frame rate and fingerprint, read from the dataset itself

The sum of it is written to RUN/config.json before training starts, and compared when the run is resumed.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError

from lvg_data.config import Model
from lvg_data.reader import Dataset
from lvg_data.shard_cache import DEFAULT_CACHE_BYTES
from lvg_data.strict_yaml import parse_yaml
from lvg_train.errors import TrainError

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Size = tuple[Count, Count]


class DatasetFacts(Model):
    """What the run takes from its dataset."""

    fingerprint: str
    """Of the content, from dataset.json."""
    low_size: Size
    """Height and width of low-res frames, pixels."""
    high_size: Size
    """Height and width of high-res frames, pixels."""
    frame_rate: str
    """Frames per second of most clips, a fraction such as 30000/1001; samples are shown at it."""


class R1Config(Model):
    """The gradient penalty on real videos: Mescheder et al. 2018, "Which Training Methods for GANs do actually
    Converge?", eq. 9; lazy as in StyleGAN2."""

    gamma: Annotated[float, Field(ge=0)] = 1.0
    """Weight: gamma / 2 * squared gradient norm."""
    every: Count = 16
    """Steps between two updates by the penalty; its gradient is multiplied by this."""


class EmaConfig(Model):
    """The average of the generator that samples are made with."""

    beta: Annotated[float, Field(ge=0, lt=1)] = 0.99985
    """Share of the old average that a step keeps, in the end."""
    ramp_steps: Count = 25001
    """At step n it is at most beta^(ramp_steps / (n + 1)), so that the beginning is soon forgotten."""


class AdaConfig(Model):
    """Adaptive discriminator augmentation: Karras et al. 2020, "Training GANs with Limited Data", section 3."""

    target: Annotated[float, Field(ge=-1, le=1)] = 0.6
    """Mean sign of the discriminator's logits of real videos that the probability steers to."""
    every: Count = 4
    """Steps between two changes of the probability."""
    speed: Annotated[float, Field(ge=0)] = 0.000125
    """Change of the probability per step."""
    maximum: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Largest probability."""


class TrainConfig(Model):
    """What both stages have. The defaults are the paper's."""

    #: fields that a resumed run may change: they decide how long and how fast, or what is reported
    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset(
        {"data", "steps", "rounds", "compile", "workers", "report_every", "sample_every", "checkpoint_every"}
        | {"keep_checkpoints", "num_samples", "also"}
    )

    data: str
    """The dataset: a folder, or an `s3://`, `gs://` or `http(s)://` address."""
    dataset: DatasetFacts
    """What it holds."""
    split: str = "train"
    """The split of the clips that are trained on."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Every random number of the run follows from it."""
    steps: Count
    """Training iterations in all."""
    batch: Count
    """Windows a step, over all devices and rounds."""
    rounds: Count = 1
    """Parts in which a device takes its share of the batch, one after the other; more rounds need less memory."""
    num_frames: Count
    """Frames of the windows that the discriminator sees."""
    channel_scale: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Width of the networks as a part of the paper's."""
    discriminator_scale: Annotated[float, Field(gt=0, le=4)] | None = None
    """Width of the discriminator, where it is another; null: channel_scale."""
    flip: bool = True
    """Mirror half of the clips."""
    generator_lr: Rate = 0.003
    """Learning rate of Adam."""
    discriminator_lr: Rate = 0.003
    """Learning rate of Adam, before the correction for the lazy penalty."""
    r1: R1Config = R1Config()
    """The gradient penalty."""
    ema: EmaConfig = EmaConfig()
    """The average of the generator."""
    precision: Literal["fast", "reference"] = "fast"
    """`fast`: half precision and TF32 where the GPU has them; `reference`: float32. The same on a CPU."""
    compile: bool = False
    """Compile the networks with torch.compile; the first steps take minutes."""
    access: Literal["auto", "cached", "streamed"] = "auto"
    """`cached`: windows at random from shards on this disk; `streamed`: whole shards, one after the other, for a
    remote dataset that does not fit the cache; `auto`: what fits. A run keeps to what it began with. Streams fetch the
    whole dataset for each 4 windows that they draw of a part: the one of stage 1, the two of stage 2, and with R1 one
    more at 1/16 of the pace. A cache that holds the dataset is filled once."""
    workers: Count = 2
    """Threads that read windows ahead, on each device."""
    frame_cache: bool | str = False
    """Keep decoded high-res frames in this folder of a local disk, or, true, in the user's cache folder. It pays where
    reading holds the GPU up (speed/loader_wait_share in the log) and each frame is drawn many times."""
    frame_cache_bytes: Count = DEFAULT_CACHE_BYTES
    """How much they may take there; what does not fit is decoded each time."""
    report_every: Count = 50
    """Steps between two lines of log.jsonl."""
    sample_every: Count = 1000
    """Steps between two pictures of samples."""
    num_samples: Count = 16
    """Videos in them."""
    checkpoint_every: Count = 1000
    """Steps between two checkpoints."""
    keep_checkpoints: Count = 3
    """Newest checkpoints that stay, besides the best one."""
    also: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where the log goes besides log.jsonl."""


class LowresConfig(TrainConfig):
    """Stage 1: videos from noise."""

    stage: Literal["lowres"] = "lowres"
    """Which stage."""
    steps: Count = 100_000
    """Training iterations in all."""
    batch: Count = 64
    """Windows a step, over all devices and rounds."""
    num_frames: Count = 128
    """Frames of the windows that the discriminator sees."""
    discriminator_lr: Rate = 0.002
    """Learning rate of Adam, before the correction for the lazy penalty."""
    shift_frames: Count = 32
    """The generator makes so many frames more, and a random window of them is judged: no frame is special."""
    filter_frames: tuple[Count, Count] = (125, 5000)
    """Frames of the shortest and the longest filter that blurs the generator's noise over time. Shorter windows than
    the paper's need shorter filters: with a shortest one much longer than the window hardly anything moves in it."""


class SuperresConfig(TrainConfig):
    """Stage 2: high-res frames from low-res ones."""

    stage: Literal["superres"] = "superres"
    """Which stage."""
    steps: Count = 275_000
    """Training iterations in all."""
    batch: Count = 32
    """Windows a step, over all devices and rounds."""
    num_frames: Count = 4
    """Frames of the windows that the discriminator sees; the generator gets 4 more on each side."""
    ada: AdaConfig | None = AdaConfig()
    """Adaptive augmentation; null: none."""


STAGES: dict[str, type[TrainConfig]] = {"lowres": LowresConfig, "superres": SuperresConfig}

#: preset -> stage -> fields laid over the defaults
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {"lowres": {}, "superres": {}},
    "tiny": {
        "lowres": {
            "steps": 400, "batch": 8, "num_frames": 16, "shift_frames": 16,
            "channel_scale": 1 / 16, "discriminator_scale": 1 / 8,
            "filter_frames": (16, 625),  # as many windows as in the paper
            "report_every": 10, "sample_every": 100, "checkpoint_every": 100, "num_samples": 8,
        },
        "superres": {
            "steps": 200, "batch": 2, "num_frames": 2, "channel_scale": 1 / 32,
            "report_every": 5, "sample_every": 50, "checkpoint_every": 50, "num_samples": 4,
        },
    },
}  # fmt: skip


# ---- making one


def resolve(
    stage: str, data: str, dataset: DatasetFacts, preset: str = "paper", overrides: Iterable[str] = ()
) -> TrainConfig:
    """The configuration of a run: preset, then overrides `field.subfield=value`, the value in YAML.

    Raises:
      TrainError: a field is unknown or a value impossible; the text names the nearest field that exists.
    """
    if preset not in PRESETS:
        raise TrainError(f"there is no preset {preset!r}; {_nearest(preset, PRESETS, 'presets')}")
    fields: dict[str, Any] = dict(PRESETS[preset][stage])
    for text in overrides:
        _override(fields, text)
    return _checked(STAGES[stage], {**fields, "data": data, "dataset": dataset.model_dump()})


def dataset_facts(dataset: Dataset, split: str = "train") -> DatasetFacts:
    """What a run takes from a dataset."""
    rates = Counter(clip.frame_rate for clip in dataset.clips if clip.row.split == split)
    rate = rates.most_common(1)[0][0] if rates else Fraction(30)
    fingerprint = str(dataset.description["fingerprint"])
    low_size, high_size = dataset.size("low"), dataset.size("high")
    return DatasetFacts(fingerprint=fingerprint, low_size=low_size, high_size=high_size, frame_rate=str(rate))


def _override(fields: dict[str, Any], text: str) -> None:
    """Lays one `a.b=value` over `fields`."""
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise TrainError(f"--set {text!r}: write it as field=value, e.g. --set batch=8 or --set r1.gamma=0.5")
    *parents, last = name.split(".")
    if name.split(".")[0] in ("data", "dataset", "stage"):
        raise TrainError(
            f"--set {text!r}: {parents[0] if parents else last} follows from the command and --data"
        )
    node = fields
    for parent in parents:
        below = node.get(parent)
        node[parent] = node = dict(below) if isinstance(below, dict) else {}
    try:
        node[last] = parse_yaml(value)
    except ValueError as err:
        raise TrainError(f"--set {text!r}: the value is not YAML: {err}") from err


def _checked(model: type[TrainConfig], fields: dict[str, Any], where: str = "") -> TrainConfig:
    try:
        return model.model_validate(fields)
    except ValidationError as err:
        raise TrainError("\n".join(f"{where}{_explain(model, e)}" for e in err.errors())) from err


def _explain(model: type[Model], error: Any) -> str:
    """One line for one problem: field, value, what to do."""
    where = [str(part) for part in error["loc"]]
    name = ".".join(where)
    if error["type"] == "extra_forbidden":
        return (
            f"{name}: there is no such field; {_nearest(where[-1], _fields_beside(model, where), 'fields')}"
        )
    if error["type"] == "missing":
        return f"{name}: missing"
    return f"{name}: {error['msg'].removeprefix('Value error, ')} (got {error['input']!r})"


def _fields_beside(model: type[Model], where: list[str]) -> list[str]:
    """Names of the fields that may stand where an unknown one was found."""
    for part in where[:-1]:
        default = model.model_fields[part].default
        model = type(default) if isinstance(default, Model) else model
    return [name for name in model.model_fields if name not in ("data", "dataset", "stage")]


def _nearest(name: str, known: Iterable[str], what: str) -> str:
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"{what}: {', '.join(known)}"


# ---- in a run's folder


def to_json(config: TrainConfig) -> dict[str, Any]:
    """Every field as a JSON value."""
    return config.model_dump(mode="json")


def read_config(run: Path) -> TrainConfig | None:
    """The configuration of a run; None where it has none yet.

    Raises:
      TrainError: RUN/config.json is damaged.
    """
    path = run / "config.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        model = STAGES[fields["stage"]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise TrainError(f"{path} cannot be read: {err!r}; bring it back from a copy") from err
    return _checked(model, fields, f"{path}: ")


def check_same_run(before: TrainConfig, now: TrainConfig, run: Path) -> None:
    """Whether a run may go on with another configuration.

    Raises:
      TrainError: a field differs that decides what is learned; the text names each with both values.
    """
    old, new = _flat(to_json(before)), _flat(to_json(now))
    names = [n for n in {**old, **new} if n.split(".")[0] not in before.MAY_CHANGE]
    different = [f"{n} {old.get(n)!r} -> {new.get(n)!r}" for n in names if old.get(n) != new.get(n)]
    if different:
        raise TrainError(
            f"{run} was started with another configuration: {', '.join(different)}; go on with the old values, "
            "or choose another --out"
        )


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"r1": {"gamma": 1}} to {"r1.gamma": 1}."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return flat
