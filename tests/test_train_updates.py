"""Training steps: each update changes what it may, by the formulas of the paper, however the batch is shared."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lvg_train import losses, updates
from lvg_train.dist import World, average_gradients
from lvg_train.draws import Draws
from lvg_train.loop import Job, open_job
from lvg_train.stages import Clips, Dice, LowresStage, SuperresStage
from lvg_train.state import AugmentControl, make_adam
from lvg_train.updates import DivergedError, Watch, ema_beta
from tests.builds import make_once
from tests.train_runs import make_config, make_dataset, one_thread

CPU = torch.device("cpu")
Start = Callable[..., Job]


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    one_thread()
    return make_once(tmp_path_factory, "trains", make_dataset) / "out"


@pytest.fixture
def start(root: Path, tmp_path: Path):
    """Opens a run of a stage that has done nothing yet."""
    with ExitStack() as opened:

        def start(stage: str, *changes: str) -> Job:
            run = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
            return open_job(make_config(root, stage, *changes), run, World(), None, opened)

        yield start


def copies(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def changed(before: dict[str, Tensor], network: nn.Module) -> set[str]:
    """Names of the tensors that are not what they were."""
    return {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}


def gradients(network: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


# ------------------------------------------------------------------------------------------------------- losses


def test_losses_are_those_of_the_logistic_game():
    logits = torch.tensor([0.0, 2.0])

    assert losses.generator_loss(logits).item() == pytest.approx((math.log(2) + math.log1p(math.exp(-2))) / 2)
    assert losses.real_loss(logits).item() == losses.generator_loss(logits).item()
    assert losses.fake_loss(logits).item() == pytest.approx((math.log(2) + math.log1p(math.exp(2))) / 2)


def test_the_penalty_is_the_squared_gradient_norm_of_each_video():
    videos = torch.tensor([[1.0, 2.0], [3.0, 0.5]], requires_grad=True)
    logits = videos[:, 0] ** 2 + 3 * videos[:, 1]  # gradients (2 x, 3)

    penalty = losses.gradient_penalty(logits, videos)

    assert penalty.tolist() == [2.0**2 + 3**2, 6.0**2 + 3**2]
    assert torch.autograd.grad(penalty.sum(), videos)[0].tolist() == [[8.0, 0.0], [24.0, 0.0]]


def test_adam_is_corrected_for_the_second_update_of_each_16th_step():
    plain, lazy = (make_adam(nn.Linear(1, 1), 0.002, every) for every in (None, 16))

    assert (plain.defaults["lr"], plain.defaults["betas"]) == (0.002, (0.0, 0.99))
    assert lazy.defaults["lr"] == pytest.approx(0.002 * 16 / 17)
    assert lazy.defaults["betas"] == pytest.approx((0.0, 0.99 ** (16 / 17)))


def test_gradients_that_are_not_finite_are_replaced():
    parameter = nn.Parameter(torch.zeros(4))
    parameter.grad = torch.tensor([math.nan, math.inf, -math.inf, 2.0])

    average_gradients([parameter, nn.Parameter(torch.zeros(1))], World())

    assert parameter.grad.tolist() == [0.0, 1e5, -1e5, 2.0]


# ------------------------------------------------------------------------------------------- what an update changes


@pytest.mark.parametrize("stage", ["lowres", "superres"])
def test_each_update_changes_its_own_network(start: Start, stage: str):
    job = start(stage)
    generator, discriminator, average = job.state.networks.values()
    parameters = {name for name, _ in generator.named_parameters()}

    g, d, e = copies(generator), copies(discriminator), copies(average)
    job.updates.update_generator(0)
    assert changed(g, generator) and changed(g, generator) <= parameters
    assert not changed(d, discriminator) and not changed(e, average)

    g = copies(generator)
    job.updates.update_discriminator(0)
    assert changed(d, discriminator)
    # only the averages of the generator have followed its pass: magnitudes and the mean latent
    assert changed(g, generator) == set(g) - parameters

    g, d = copies(generator), copies(discriminator)
    job.updates.update_by_penalty(0)
    assert changed(d, discriminator) and not changed(g, generator) and not changed(e, average)

    job.updates.average_generator(0)
    beta = 0.99985**25001
    for name, tensor in average.state_dict().items():
        torch.testing.assert_close(tensor, e[name] * beta + g[name] * (1 - beta))


def test_a_step_makes_the_updates_in_order_and_on_time(start: Start, monkeypatch: pytest.MonkeyPatch):
    job = start("superres", "r1.every=16", "ada.every=4")
    calls: list[tuple[str, int]] = []
    names = ("update_generator", "update_discriminator", "update_by_penalty", "average_generator")
    for name in names:
        answer: object = {} if name == "update_discriminator" else torch.zeros([])
        monkeypatch.setattr(job.updates, name, lambda step, n=name, a=answer: calls.append((n, step)) or a)
    monkeypatch.setattr(job.state.augment, "move", lambda *_: calls.append(("ada", job.state.step)))

    for _ in range(17):
        job.updates.take_step()

    assert calls[:5] == [*((n, 0) for n in names[:3]), ("ada", 0), (names[3], 0)]
    assert [step for name, step in calls if name == "update_by_penalty"] == [0, 16]
    assert [step for name, step in calls if name == "ada"] == [0, 4, 8, 12, 16]
    assert [step for name, step in calls if name == "update_generator"] == list(range(17))


@pytest.mark.parametrize("stage", ["lowres", "superres"])
def test_the_penalty_counts_for_the_steps_between(start: Start, stage: str):
    once, lazy = start(stage, "r1.every=1"), start(stage, "r1.every=2", "r1.gamma=3")

    values = [job.updates.update_by_penalty(0).item() for job in (once, lazy)]

    assert values[1] == pytest.approx(3 * values[0])
    torch.testing.assert_close(gradients(lazy.state.discriminator), 6 * gradients(once.state.discriminator))


def test_the_average_is_short_at_the_start_and_long_in_the_end(start: Start):
    config = start("lowres").config

    assert ema_beta(config, 0) == pytest.approx(0.99985**25001)
    assert ema_beta(config, 299) == pytest.approx(0.99985 ** (25001 / 300))
    assert ema_beta(config, 25_001) == ema_beta(config, 100_000) == 0.99985


def test_the_augmentation_is_steered_to_the_target():
    control = AugmentControl(CPU)
    for logits in ([1.0, 2.0, 3.0, 4.0], [1.0, -1.0]):  # mean sign 4/6, above 0.6
        control.see(torch.tensor(logits))
    control.move(0.6, 0.0005, 0.5)
    assert control.probability == 0.0005

    control.see(torch.tensor([1.0, -1.0]))
    control.move(0.6, 0.0005, 0.5)
    control.move(0.6, 0.0005, 0.5)  # nothing was seen
    assert control.probability == 0.0

    control.see(torch.ones(8))
    control.move(0.6, 0.7, 0.5)
    assert control.probability == 0.5


def test_a_loss_out_of_bounds_is_named_with_its_step():
    watch = Watch()
    watch.see(7, {"loss/fake": torch.tensor(1.0), "loss/real": torch.tensor(math.nan)})

    with pytest.raises(DivergedError, match=r"step 7: loss/real is nan"):
        watch.see(8, {"loss/fake": torch.tensor(1.0)})
    watch.see(9, {"loss/fake": torch.tensor(2e6)})
    with pytest.raises(DivergedError, match=r"step 9: loss/fake is 2000000"):
        watch.check()


# ---------------------------------------------------------------------------------------------------- the batch


@pytest.mark.parametrize("stage", ["lowres", "superres"])
def test_rounds_leave_the_gradients_as_they_are(start: Start, stage: str):
    whole, parts = start(stage), start(stage, "rounds=2")

    for job in (whole, parts):
        job.updates.update_generator(0)
    torch.testing.assert_close(
        gradients(parts.state.generator), gradients(whole.state.generator), rtol=1e-3, atol=1e-6
    )

    for job in (whole, parts):
        job.updates.update_by_penalty(0)
    torch.testing.assert_close(
        gradients(parts.state.discriminator), gradients(whole.state.discriminator), rtol=1e-3, atol=1e-6
    )


def test_the_loss_scale_leaves_float32_gradients_as_they_are(start: Start, monkeypatch: pytest.MonkeyPatch):
    scaled = start("lowres", "batch=4")
    assert scaled.updates.loss_scale == 32 * 4
    scaled.updates.update_generator(0)
    monkeypatch.setattr(updates, "SAMPLE_LOSS_SCALE", 0.25)
    plain = start("lowres", "batch=4")
    assert plain.updates.loss_scale == 1
    plain.updates.update_generator(0)

    assert torch.equal(gradients(scaled.state.generator), gradients(plain.state.generator))


def test_rounds_leave_the_averages_where_the_paper_has_them(start: Start):
    averages = []
    for rounds in (1, 4):
        job = start("superres", "batch=4", f"rounds={rounds}")
        job.updates.update_discriminator(0)
        averages.append(job.state.generator.SG3.mapping.w_avg)

    assert averages[0].abs().max() > 0
    torch.testing.assert_close(*averages, rtol=2e-3, atol=1e-6)


def test_low_res_windows_are_cut_at_any_offset_of_a_longer_video(start: Start):
    job = start("lowres")
    stage, config = job.stage, job.config
    assert isinstance(stage, LowresStage)
    asked: list[int] = []

    def generator(noise: Tensor, num_frames: int, averages_share: float, precision: str) -> Tensor:
        """The frame's number in all of its pixels."""
        asked.append(num_frames)
        numbers = torch.arange(num_frames, dtype=torch.float32)
        return numbers.view(1, 1, -1, 1, 1).expand(len(noise), 3, -1, 2, 2)

    starts = []
    for step in range(30):
        dice = Dice(0, step, "generator", range(4), CPU)
        frames = stage.generate(generator, None, dice, False).low[:, 0, :, 0, 0]  # type: ignore[arg-type]
        starts += frames[:, 0].int().tolist()
        assert torch.equal(frames - frames[:, :1], torch.arange(8.0).expand(4, -1))

    assert set(asked) == {config.num_frames + 4}
    assert set(starts) == {0, 1, 2, 3}


def test_low_res_samples_are_the_beginnings_of_videos_as_they_are_streamed(start: Start):
    job = start("lowres")
    clips = job.updates.read_clips("train", 2)[0]
    made: list[Tensor] = []

    def generator(noise: Tensor, num_frames: int, precision: str) -> Tensor:
        made.append(job.state.generator(noise, num_frames, precision=precision))
        return made[-1]

    samples = job.stage.exhibit(generator, clips, Dice(0, 0, "exhibit", range(2), CPU))["samples"]  # type: ignore[arg-type]

    assert made[0].shape[2] == 32
    assert torch.equal(samples, made[0][:, :, :8])


def test_super_res_frames_are_made_of_the_corrupted_frames_that_are_judged(start: Start):
    job = start("superres")
    stage = job.stage
    assert isinstance(stage, SuperresStage)
    clips = job.updates.read_clips("train", 2)[0]
    seen: list[Tensor] = []

    class Generator(nn.Module):
        latent_channels = 3

        def forward(self, low: Tensor, latent: Tensor, averages_share: float, precision: str) -> Tensor:
            seen.append(low)
            return torch.zeros(len(low), 3, low.shape[2] - 8, 32, 32)

    num_corrupted = 0
    for step in range(8):
        dice = Dice(0, step, "generator", range(len(clips.low)), CPU)
        fake = stage.generate(Generator(), clips, dice, False)
        assert torch.equal(fake.low, seen[-1][:, :, 4:-4])
        num_corrupted += sum(not torch.equal(a, b) for a, b in zip(seen[-1], clips.low, strict=True))
        # real clips lose nothing but the low-res context; their low-res frames are corrupted by another draw
        real = stage.present(clips, Dice(0, step, "real", range(len(clips.low)), CPU))
        assert clips.high is not None and real.high is not None
        assert torch.equal(real.high, clips.high)
        assert real.low.shape == fake.low.shape and not torch.equal(real.low, fake.low)

    assert num_corrupted >= 12  # of 16; each of six operations comes with a chance of 1/2


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_low_res_frames_are_judged_in_a_tenth_of_the_samples(start: Start, strength: float):
    stage = start("superres").stage
    received: list[Tensor] = []

    class Discriminator(nn.Module):
        def forward(self, low: Tensor, high: Tensor, precision: str) -> Tensor:
            received.append(low)
            assert low.shape == high.shape
            return low.mean((1, 2, 3, 4))

    clips = Clips(torch.ones(400, 3, 2, 4, 4), torch.ones(400, 3, 2, 8, 8))
    stage.judge(Discriminator(), clips, strength, Dice(0, 0, "real", range(400), CPU))

    num_kept = int(received[0].abs().sum((1, 2, 3, 4)).bool().sum())
    assert 20 <= num_kept <= 60  # 40 expected, standard deviation 6


def test_both_resolutions_get_one_transform(start: Start):
    """A low-res picture that is the high-res one made smaller stays so when both are augmented together."""
    stage = start("superres").stage
    received: list[tuple[Tensor, Tensor]] = []

    class Discriminator(nn.Module):
        def forward(self, low: Tensor, high: Tensor, precision: str) -> Tensor:
            received.append((low, high))
            return high.mean((1, 2, 3, 4))

    half = torch.zeros(64, 3, 2, 16, 16)
    half[..., :8] = 1.0  # the left half is white
    high = half.repeat_interleave(2, 3).repeat_interleave(2, 4)
    stage.judge(Discriminator(), Clips(half, high), 0.5, Dice(0, 0, "real", range(64), CPU))

    low, high = received[0]
    kept = low.abs().sum((1, 2, 3, 4)) > 0
    assert kept.any()
    inner = (low - high)[kept][..., 8:24, 8:24].abs().mean()
    assert inner < 0.1 < (low - high.flip(4))[kept][..., 8:24, 8:24].abs().mean()


def test_draws_of_different_purposes_differ():
    dice = [Dice(0, 0, update, range(2), CPU) for update in ("generator", "discriminator.fake")]

    a, b = (d.throw("noise").normal((4,)) for d in dice)

    assert not torch.equal(a, b)
    assert torch.equal(a, Draws(0, 0, "generator.noise", range(2)).normal((4,)))


# ------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("stage", "read"),
    [("lowres", {"discriminator": 4, "r1": 2}), ("superres", {"generator": 4, "discriminator": 4, "r1": 2})],
)
def test_an_update_reads_a_stream_of_its_own_at_its_own_pace(start: Start, stage: str, read: dict[str, int]):
    """What is fetched of a streamed dataset, as `lvg_train.stream` counts it; here R1 comes every second step."""
    job = start(stage)

    for _ in range(4):
        job.take_step()

    assert {purpose: stream.step for purpose, stream in job.updates.streams.items()} == read
