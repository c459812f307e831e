"""Checkpoints of the release: pickles of its structure, written here, become our networks; hostile ones do nothing.

The modules `torch_utils.persistence` and the class below exist while a test writes a pickle, and at no other time.
"""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import re
import struct
import sys
import tracemalloc
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from lvg_train import cli, unpickle
from lvg_train.convert import BY_NAME, BY_ORDER, CONSTANT, DERIVED, Asked, convert_checkpoint
from lvg_train.filters import triangle
from lvg_train.model_file import ModelError, describe_model, load_network
from lvg_train.networks.lowres_discriminator import LowresDiscriminator
from lvg_train.networks.lowres_generator import LATENT_TAPS, LowresGenerator, noise_frames
from lvg_train.networks.superres_discriminator import SuperresDiscriminator
from lvg_train.networks.superres_generator import SuperresGenerator
from lvg_train.release import ReleaseError
from lvg_train.unpickle import ALLOWED, MAX_STEPS, Bounded, Machine, PickleError, StandIn, read_pickle

LOW, HIGH = (9, 16), (18, 32)


# ---- writing what the release writes


class Persistent:
    """An object that pickles as one of the release's modules."""

    def __init__(self, class_name: str, state: dict[str, Any]):
        self.class_name, self.state = class_name, state

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {"type": "class", "version": 6, "module_src": "raise SystemExit('executed')",
                "class_name": self.class_name, "state": self.state}  # fmt: skip
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


@contextmanager
def release_modules() -> Iterator[None]:
    """The release's module, as far as pickles name it, while one is written."""
    module: Any = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta: dict) -> None:
        raise AssertionError("a pickle was executed")

    _reconstruct_persistent_obj.__module__ = module.__name__
    _reconstruct_persistent_obj.__qualname__ = _reconstruct_persistent_obj.__name__
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    sys.modules |= {"torch_utils": types.ModuleType("torch_utils"), "torch_utils.persistence": module}
    try:
        yield
    finally:
        del sys.modules["torch_utils"], sys.modules["torch_utils.persistence"]


def as_release(module: nn.Module, **attributes: Any) -> Any:
    """A module of ours as one of the release: the same tensors in another object."""
    state = {
        "training": False,
        "_parameters": OrderedDict(module._parameters),
        "_buffers": OrderedDict(module._buffers),
        "_non_persistent_buffers_set": set(module._non_persistent_buffers_set),
        "_forward_hooks": OrderedDict(),
        "_modules": OrderedDict(
            (name, child and as_release(child)) for name, child in module._modules.items()
        ),
        **attributes,
    }
    if isinstance(module, nn.ModuleList | nn.Sequential):
        modules = nn.ModuleList()
        modules.__dict__.update(state)
        return modules
    return Persistent(type(module).__name__, state)


def write(path: Path, value: Any, protocol: int = 4) -> Path:
    with release_modules():
        path.write_bytes(pickle.dumps(value, protocol))
    return path


def disturbed(network: nn.Module) -> nn.Module:
    """With numbers in every tensor that no network has at construction."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.add_(torch.rand(tensor.shape, generator=generator))
    return network.requires_grad_(False)


def lowres_g() -> nn.Module:
    return disturbed(LowresGenerator(36, 64, 1 / 64))


def lowres_d() -> nn.Module:
    return disturbed(LowresDiscriminator(36, 64, 8, 1 / 32))


def superres_g() -> nn.Module:
    return disturbed(SuperresGenerator(LOW, HIGH, 1 / 64))


def superres_d() -> nn.Module:
    return disturbed(SuperresDiscriminator(LOW, HIGH, 2, 1 / 32))


LOWRES = {"height": 36, "width": 64}
SUPERRES = {"lr_height": 9, "lr_width": 16, "hr_height": 18, "hr_width": 32}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict[str, int], dict[str, Any]]] = {
    "lowres_generator": (lowres_g, LOWRES, {"height": 36, "width": 64, "channel_scale": 1 / 64}),
    "lowres_discriminator": (
        lowres_d,
        {**LOWRES, "seq_length": 8},
        {"height": 36, "width": 64, "num_frames": 8, "channel_scale": 1 / 32},
    ),
    "superres_generator": (
        superres_g,
        SUPERRES,
        {"low_size": [9, 16], "high_size": [18, 32], "channel_scale": 1 / 64},
    ),
    "superres_discriminator": (
        superres_d,
        SUPERRES,
        {"low_size": [9, 16], "high_size": [18, 32], "num_frames": 2, "channel_scale": 1 / 32},
    ),
}
INPUTS = {
    "lowres_generator": lambda: (torch.randn(1, 8, noise_frames(4)), 4),
    "lowres_discriminator": lambda: (torch.randn(2, 3, 8, 36, 64),),
    "superres_generator": lambda: (torch.randn(1, 3, 9, *LOW), torch.randn(1, 8)),
    "superres_discriminator": lambda: (torch.randn(2, 3, 2, *LOW), torch.randn(2, 3, 2, *HIGH)),
}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["convert", *map(str, arguments)])


# ---- what is carried


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_converted_network_gives_what_the_release_s_gives_bit_for_bit(kind, tmp_path):
    make, sizes, arguments = NETWORKS[kind]
    network = make()
    source = write(tmp_path / "release.pkl", as_release(network, **sizes))

    answer = run(source, tmp_path / "out.safetensors")

    assert answer.exit_code == 0, answer.output
    role = "generator_ema" if "generator" in kind else "discriminator"
    said = describe_model(tmp_path / "out.safetensors")
    assert (said.networks[role].kind, dict(said.networks[role].arguments)) == (kind, arguments)
    found = load_network(tmp_path / "out.safetensors", role)
    torch.manual_seed(0)
    inputs = INPUTS[kind]()
    with torch.no_grad():
        assert torch.equal(found(*inputs), network(*inputs))
    for name, tensor in network.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_python_3_is_read(protocol, tmp_path):
    network = superres_d()
    source = write(tmp_path / "D.pkl", as_release(network, **SUPERRES), protocol)

    found = convert_checkpoint(source).networks["discriminator"].network

    assert all(torch.equal(found.state_dict()[n], t) for n, t in network.state_dict().items())


def test_a_training_pickle_gives_both_networks_and_says_what_stays_behind(tmp_path):
    generator, discriminator = lowres_g(), lowres_d()
    optimizer = torch.optim.Adam(lowres_d().parameters(), betas=(0.0, 0.99))
    source = write(
        tmp_path / "train.pkl",
        {
            "G": as_release(generator, **LOWRES),
            "D": as_release(discriminator, seq_length=8),  # its size is that of G
            "G_opt": optimizer.state_dict(),
            "D_opt": optimizer.state_dict(),
        },
    )

    answer = run(source, tmp_path / "out.safetensors", "--verbose")

    assert answer.exit_code == 0, answer.output
    assert "not carried: G_opt, D_opt" in answer.output
    assert "temporal_layers.0.weight_1" in answer.output
    assert set(describe_model(tmp_path / "out.safetensors").networks) == {"generator", "discriminator"}
    found = load_network(tmp_path / "out.safetensors", "generator")
    assert torch.equal(found.spatial_input, generator.spatial_input)


def test_the_file_says_where_it_is_from(tmp_path):
    source = write(tmp_path / "mtb-G-ema.pkl", as_release(lowres_g(), **LOWRES))

    assert run(source, tmp_path / "out.safetensors").exit_code == 0

    notes = describe_model(tmp_path / "out.safetensors").notes
    assert notes["source"] == "mtb-G-ema.pkl"
    assert len(notes["source_sha256"]) == 64


def test_tensors_may_be_views_and_parameters_of_any_strides(tmp_path):
    network = superres_d()
    block = network.get_submodule("b8.conv0")
    whole = torch.randn(3, *block.weight.shape[::-1])
    block.weight = nn.Parameter(whole.permute(0, 4, 3, 2, 1)[1], requires_grad=False)
    source = write(tmp_path / "D.pkl", as_release(network, **SUPERRES))

    found = convert_checkpoint(source).networks["discriminator"].network

    assert torch.equal(found.get_submodule("b8.conv0").weight, block.weight)


# ---- sizes


@pytest.mark.parametrize(
    "attributes",
    [
        {"height": np.int64(36), "width": np.int32(64)},
        {"_init_args": (), "_init_kwargs": {"height": 36, "width": 64, "channels": np.arange(3)}},
        {"height": 36, "width": 64, "taps": np.ones((2, 3), np.float32, order="F"), "gain": np.float64(0.5)},
    ],
)
@pytest.mark.parametrize("protocol", [4, 5])
def test_sizes_are_found_among_attributes_and_constructor_arguments(attributes, protocol, tmp_path):
    source = write(tmp_path / "G.pkl", as_release(lowres_g(), **attributes), protocol)

    spec = convert_checkpoint(source).networks["generator_ema"].spec

    assert (spec.arguments["height"], spec.arguments["width"]) == (36, 64)


@pytest.mark.parametrize("spelling", [b"numpy.core", b"numpy._core"])
def test_numbers_of_both_numpy_generations_are_read(spelling, tmp_path):
    value = {"height": np.int16(36), "gain": np.float32(0.5), "flag": np.bool_(True), "array": np.eye(2)}
    written = pickle.dumps(value, 3)  # names stand in it without a length
    now = b"numpy._core" if b"numpy._core" in written else b"numpy.core"
    path = tmp_path / "x.pkl"
    path.write_bytes(written.replace(now, spelling))

    found = read_pickle(path)

    assert {k: found[k] for k in ("height", "gain", "flag")} == {"height": 36, "gain": 0.5, "flag": True}
    assert [type(found[k]) for k in ("height", "gain", "flag")] == [int, float, bool]
    assert type(found["array"]) is StandIn


def test_a_size_that_the_file_does_not_say_is_asked_for(tmp_path):
    source = write(tmp_path / "G.pkl", as_release(lowres_g()))

    refused = run(source, tmp_path / "out.safetensors")
    taken = run(source, tmp_path / "out.safetensors", "--size", "34x64")

    assert refused.exit_code == 1
    assert "the file does not say all sizes of its networks; give --size" in refused.output
    assert taken.exit_code == 0  # its constant is of 3 x 4 as for 36x64
    assert load_network(tmp_path / "out.safetensors", "generator_ema").height == 34


def test_a_size_that_contradicts_the_file_is_refused(tmp_path):
    source = write(tmp_path / "G.pkl", as_release(lowres_g(), **LOWRES))

    answer = run(source, tmp_path / "out.safetensors", "--size", "64x64")

    assert answer.exit_code == 1
    assert "the file says (36, 64) where --size is (64, 64)" in answer.output
    assert not (tmp_path / "out.safetensors").exists()


def test_a_size_that_the_tensors_contradict_is_refused_by_name(tmp_path):
    source = write(tmp_path / "G.pkl", as_release(lowres_g()))

    with pytest.raises(ModelError, match=r"spatial_input is \[1, 8, 1, 3, 4\], not \[1, 8, 1, 4, 4\]"):
        convert_checkpoint(source, Asked(size=(64, 64)))


def test_the_super_res_generator_s_high_size_is_in_its_layers_names(tmp_path):
    source = write(tmp_path / "G.pkl", as_release(superres_g()))

    spec = convert_checkpoint(source, Asked(low_size=LOW)).networks["generator_ema"].spec

    assert spec.arguments["high_size"] == [18, 32]
    with pytest.raises(ReleaseError, match="give --low-size"):
        convert_checkpoint(source)


def test_the_frames_of_the_low_res_discriminator_are_asked_for(tmp_path):
    source = write(tmp_path / "D.pkl", as_release(lowres_d(), **LOWRES))

    with pytest.raises(ReleaseError, match="give --frames"):
        convert_checkpoint(source)
    assert (
        convert_checkpoint(source, Asked(num_frames=8)).networks["discriminator"].spec.arguments["num_frames"]
        == 8
    )


# ---- buffers


def module_at(root: Any, path: str) -> dict[str, Any]:
    """The state of a module within what `as_release` gives."""
    state = root.state
    for name in path.split(".") if path else ():
        child = state["_modules"][name]
        state = child.state if isinstance(child, Persistent) else child.__dict__
    return state


def rules(source: Path, role: str = "generator_ema") -> dict[str, tuple[str, str]]:
    return {row.source: (row.rule, row.target) for row in convert_checkpoint(source).networks[role].rows}


def test_averages_of_other_names_are_matched_by_order_and_that_is_said(tmp_path):
    network = lowres_g()
    root = as_release(network, **LOWRES)
    for i in range(6):
        state = module_at(root, f"temporal_layers.{i}")
        first, second = state["_buffers"].pop("magnitude_ema_0"), state["_buffers"].pop("magnitude_ema_1")
        state["_buffers"]["input_mean_square"] = first  # the second one is in a module of its own
        inner = {"_parameters": {}, "_buffers": {"mean_square": second}, "_modules": {}}
        state["_modules"]["gain"] = Persistent("Gain", inner)
    source = write(tmp_path / "G.pkl", root)

    found = convert_checkpoint(source).networks["generator_ema"]

    placed = {row.source: (row.rule, row.target) for row in found.rows}
    assert placed["temporal_layers.3.input_mean_square"] == (BY_ORDER, "temporal_layers.3.magnitude_ema_0")
    assert placed["temporal_layers.3.gain.mean_square"] == (BY_ORDER, "temporal_layers.3.magnitude_ema_1")
    assert placed["spatial_layers.0.magnitude_ema_0"] == (BY_NAME, "spatial_layers.0.magnitude_ema_0")
    assert all(torch.equal(found.network.state_dict()[n], t) for n, t in network.state_dict().items())
    assert "12 buffers by order" in run(source, tmp_path / "out.safetensors").output


def test_averages_that_are_too_many_for_their_module_are_refused_by_name(tmp_path):
    root = as_release(lowres_g(), **LOWRES)
    buffers = module_at(root, "to_rgb")["_buffers"]
    buffers |= {"one": buffers.pop("magnitude_ema"), "two": torch.ones([])}
    source = write(tmp_path / "G.pkl", root)

    with pytest.raises(ModelError) as refused:
        convert_checkpoint(source)

    for text in (
        "to_rgb.magnitude_ema [] is missing",
        "to_rgb.one [] has no place",
        "to_rgb.two [] has no place",
    ):
        assert text in str(refused.value)


def test_filters_are_compared_with_ours_and_not_carried(tmp_path):
    network = lowres_g()
    root = as_release(network, **LOWRES)
    taps = torch.tensor(triangle())
    module_at(root, "temporal_layers.1")["_buffers"] |= {
        "time_filter": taps * 2,
        "space_filter": torch.outer(taps, taps),
        "other": torch.tensor([1.0, 2.0, 1.0]),
    }
    padded = torch.cat([torch.zeros(5), torch.tensor(LATENT_TAPS), torch.zeros(5)])
    del root.state["_buffers"]["filters"]
    root.state["_buffers"] |= {"bank": network.filters[:, None] * 3, "latent_filter": padded}
    source = write(tmp_path / "G.pkl", root)

    found = rules(source)

    names = ("temporal_layers.1.time_filter", "temporal_layers.1.space_filter", "bank", "latent_filter")
    assert [found[name] for name in names] == [(DERIVED, "")] * 4
    assert found["temporal_layers.1.other"] == (CONSTANT, "")


def test_the_filters_of_the_super_res_layers_are_those_of_the_release(tmp_path):
    source = write(tmp_path / "G.pkl", as_release(superres_g(), **SUPERRES))

    found = [rule for name, (rule, _) in rules(source).items() if name.endswith("_filter")]

    assert found == [DERIVED] * 28


def test_a_filter_with_the_name_of_ours_and_other_values_is_refused(tmp_path):
    root = as_release(superres_g(), **SUPERRES)
    layers = module_at(root, "SG3.synthesis")["_modules"]
    name = next(name for name in layers if name.startswith("L3_"))
    buffers = layers[name].state["_buffers"]
    buffers["up_filter"] = buffers["up_filter"] + torch.arange(len(buffers["up_filter"]))
    source = write(tmp_path / "G.pkl", root)

    with pytest.raises(ReleaseError, match=rf"SG3\.synthesis\.{name}\.up_filter is another filter than ours"):
        convert_checkpoint(source)


def with_parameter(name: str, value: torch.Tensor | None) -> Any:
    """A low-res generator with a parameter changed, added, or (None) taken away."""
    root = as_release(lowres_g(), **LOWRES)
    module, _, last = name.rpartition(".")
    parameters = module_at(root, module)["_parameters"]
    parameters.pop(last, None)
    return root if value is None else (parameters.update({last: nn.Parameter(value)}), root)[1]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("w_to_temp_input.bias", None, r"w_to_temp_input.bias \[8\] is missing"),
        (
            "to_rgb.weight",
            torch.zeros(3, 2, 1, 1, 1),
            r"to_rgb.weight is \[3, 2, 1, 1, 1\], not \[3, 1, 1, 1, 1\]",
        ),
        ("to_rgb.scale", torch.zeros(3), r"to_rgb.scale \[3\] has no place"),
        ("to_rgb.bias", torch.zeros(3).half(), r"to_rgb.bias is of torch.float16"),
        ("spatial_input", torch.zeros(1, 2048, 1, 1, 1), "4 times as wide as the paper's"),
        ("spatial_input", torch.zeros(1), r"spatial_input has the shape \[1\]"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_by_name(name, value, message, tmp_path):
    source = write(tmp_path / "G.pkl", with_parameter(name, value))

    with pytest.raises((ModelError, ReleaseError), match=message):
        convert_checkpoint(source)


@pytest.mark.parametrize(
    "value", [{"G": 1}, [1, 2], {}, "text", nn.ModuleList(), {"state_dict": {"a": torch.ones(2)}}]
)
def test_pickles_without_a_network_are_refused(value, tmp_path):
    with pytest.raises(ReleaseError, match="network"):
        convert_checkpoint(write(tmp_path / "x.pkl", value))


def test_the_release_s_file_is_not_overwritten(tmp_path):
    source = write(tmp_path / "G.pkl", as_release(lowres_g(), **LOWRES))
    before = source.read_bytes()

    assert run(source, source, "--size", "36x64").exit_code == 2
    assert source.read_bytes() == before


# ---- what plain values become


def test_values_of_every_kind_are_read_as_they_are(tmp_path):
    value = {
        "numbers": [0, -1, 255, 65536, 1 << 40, -(1 << 70), 0.5, True, False, None],
        "text": ["", "é", "x" * 300, "y" * 70_000],
        "bytes": [b"", b"z", b"w" * 300],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "set": {"a", "b"},
        "ordered": OrderedDict(a=1, b=2),
        3: {"nested": {}},
    }

    assert read_pickle(write(tmp_path / "x.pkl", value)) == value
    del value["bytes"][0]  # protocol 2 makes an empty one by a call
    assert read_pickle(write(tmp_path / "x.pkl", value, protocol=2)) == value


def test_shared_and_endless_values_stay_so(tmp_path):
    shared: list[Any] = []
    shared.append(shared)

    found = read_pickle(write(tmp_path / "x.pkl", {"a": shared, "b": shared}))

    assert found["a"] is found["b"] is found["a"][0]


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool]
)
def test_tensors_of_every_dtype_are_read(dtype, tmp_path):
    tensor = torch.arange(6).reshape(2, 3).to(dtype)

    found = read_pickle(write(tmp_path / "x.pkl", [tensor, tensor.T, tensor[1:, ::2], tensor[:0]]))

    expected = [tensor, tensor.T, tensor[1:, ::2], tensor[:0]]
    assert all(
        torch.equal(a.load(), b) and a.load().dtype == dtype for a, b in zip(found, expected, strict=True)
    )


# ---- hostile pickles


@pytest.fixture
def marker(tmp_path) -> Path:
    """A file that appears when a payload runs."""
    return tmp_path / "it-ran"


class Calls:
    """An object that pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def refuse(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "hostile.pkl"
    path.write_bytes(data)
    with pytest.raises(PickleError, match=message):
        read_pickle(path)


def text(value: str) -> bytes:
    """The instruction that pushes it."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def named(module: str, name: str) -> bytes:
    """The instructions that push an attribute of a module."""
    return text(module) + text(name) + b"\x93"


def call_of(function: Callable[..., Any], *arguments: Any, protocol: int = 4) -> bytes:
    return pickle.dumps(Calls(function, *arguments), protocol)


#: what would run a command, and what is refused of it
LIVE: dict[str, tuple[Callable[[str], bytes], str]] = {
    "os.system": (lambda c: call_of(os.system, c), r"posix\.system is not allowed"),
    "os.system, protocol 0": (lambda c: f"cos\nsystem\n(V{c}\ntR.".encode(), r"os\.system is not allowed"),
    "INST": (lambda c: b"(" + text(c) + b"ios\nsystem\n.", "the instruction INST is not allowed"),
    "OBJ": (lambda c: b"(" + named("os", "system") + text(c) + b"o.", r"os\.system is not allowed"),
    "eval": (lambda c: call_of(eval, f"__import__('os').system({c!r})"), r"builtins\.eval is not allowed"),
    "exec": (
        lambda c: call_of(exec, f"import os; os.system({c!r})", protocol=2),
        r"__builtin__\.exec is not allowed",
    ),
    "deep inside": (
        lambda c: pickle.dumps({"G": [1, (2, Calls(os.system, c))]}),
        r"posix\.system is not allowed",
    ),
    "a dotted name": (
        lambda c: b"\x80\x04" + named("torch.storage", "torch.os.system") + text(c) + b"\x85R.",
        r"torch\.storage\.torch\.os\.system is not allowed",
    ),
    "in a storage": (
        lambda c: call_of(torch.storage._load_from_bytes, call_of(os.system, c)),
        r"posix\.system is not allowed",
    ),
    "in a storage as torch writes it": (
        lambda c: call_of(torch.storage._load_from_bytes, saved(Calls(os.system, c), as_zip=False)),
        r"posix\.system is not allowed",
    ),
    "in a zip in a storage": (
        lambda c: call_of(torch.storage._load_from_bytes, saved(Calls(os.system, c), as_zip=True)),
        "not allowed|no pickle",
    ),
    "in an array of objects": (
        lambda c: pickle.dumps(np.array([Calls(os.system, c)], dtype=object)),
        "the numpy dtype O8 is not allowed",
    ),
    "in a module's attributes": (
        lambda c: pickle.dumps(with_attribute(Calls(os.system, c))),
        r"posix\.system is not allowed",
    ),
}


def saved(value: Any, as_zip: bool) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=as_zip)
    return stream.getvalue()


def with_attribute(value: Any) -> nn.Module:
    modules = nn.ModuleList()
    modules.__dict__["attribute"] = value
    return modules


@pytest.mark.parametrize("name", LIVE)
def test_a_payload_is_refused_by_name_and_does_not_run(name, marker, tmp_path):
    make, message = LIVE[name]
    data = make(f"touch {marker}")

    refuse(tmp_path, data, message)

    assert not marker.exists()
    with suppress(Exception):
        pickle.loads(data)
    assert marker.exists(), "the payload is none, so that the test shows nothing"


def test_a_registered_extension_is_refused(marker, tmp_path):
    copyreg.add_extension("posix", "system", 200)
    try:
        for opcode in (b"\x82\xc8", b"\x83\xc8\x00", b"\x84\xc8\x00\x00\x00"):
            data = b"\x80\x04" + opcode + text(f"touch {marker}") + b"\x85R."
            refuse(tmp_path, data, r"the instruction EXT\d is not allowed")
            assert not marker.exists()
        pickle.loads(data)
        assert marker.exists()
    finally:
        copyreg.remove_extension("posix", "system", 200)


ORDERED = named("collections", "OrderedDict")
ENCODE = named("_codecs", "encode")
LOAD = named("torch.storage", "_load_from_bytes")
TENSOR = named("torch._utils", "_rebuild_tensor_v2")
MODULES = named("torch.nn.modules.container", "ModuleList")
DTYPE = named("numpy", "dtype")
REFUSED: dict[str, tuple[bytes, str]] = {
    "getattr": (named("builtins", "getattr"), r"builtins\.getattr is not allowed"),
    "import": (named("builtins", "__import__"), r"builtins\.__import__ is not allowed"),
    "a module's globals": (
        named("torch.storage", "_load_from_bytes.__globals__"),
        r"torch\.storage\._load_from_bytes\.__globals__ is not allowed",
    ),
    "an allowed name split elsewhere": (named("torch", "storage._load_from_bytes"), "is not allowed"),
    "copyreg": (named("copyreg", "_reconstructor"), r"copyreg\._reconstructor is not allowed"),
    "torch.load": (named("torch.serialization", "load"), r"torch\.serialization\.load is not allowed"),
    "torch.jit": (named("torch.jit", "load"), r"torch\.jit\.load is not allowed"),
    "another numpy function": (named("numpy", "load"), r"numpy\.load is not allowed"),
    "another module": (named("torch.nn.modules.linear", "Linear"), r"Linear is not allowed"),
    "a storage outside of one": (named("torch", "FloatStorage"), r"torch\.FloatStorage is not allowed"),
    "a name that is no text": (b"K\x01K\x02\x93", "by something that is not text"),
    "a name that writes to the terminal": (named("os", "\x1b[31msystem\n"), r"os\.\\x1b\[31msystem\\n is"),
    "a long name": (named("os", "a" * 100_000), r"os\.a{190,200}\.\.\. is not allowed"),
    "a persistent id": (b"Pid\n", "the instruction PERSID is not allowed"),
    "a binary persistent id": (text("id") + b"Q", "persistent ids are not allowed"),
    "an object": (b"(" + ORDERED + b"o", "the instruction OBJ is not allowed"),
    "an object with keywords": (ORDERED + b")}\x92", "the instruction NEWOBJ_EX is not allowed"),
    "an object of another class": (ORDERED + b")\x81", r"an object of collections\.OrderedDict"),
    "an object with arguments": (MODULES + b"K\x01\x85\x81", "an object of torch.nn.modules"),
    "a buffer out of band": (b"\x97", "the instruction NEXT_BUFFER is not allowed"),
    "a call of a list": (b"])R", "it calls list"),
    "a call of text": (text("os.system") + b")R", "it calls str"),
    "a call of a class": (MODULES + b")R", r"it calls torch\.nn\.modules\.container\.ModuleList"),
    "a call without arguments": (ORDERED + b"NR", r"it calls collections\.OrderedDict"),
    "OrderedDict of something": (ORDERED + b"]\x85R", r"collections\.OrderedDict has arguments"),
    "another codec": (ENCODE + text("a") + text("zip") + b"\x86R", r"_codecs\.encode has arguments"),
    "bytes that are no storage": (LOAD + b"C\x04abcd\x85R", "no pickle"),
    "a storage of text": (LOAD + text("abcd") + b"\x85R", r"_load_from_bytes has arguments"),
    "a tensor of nothing": (TENSOR + b")R", r"_rebuild_tensor_v2 has arguments"),
    "a state for a dict": (b"}}b", "the state of dict"),
    "a state for a list": (b"]}b", "the state of list"),
    "a state for a function": (LOAD + b"}b", r"the state of torch\.storage\._load_from_bytes"),
    "slots for a function": (
        LOAD + b"N}" + text("__code__") + b"Ns\x86b",
        r"the state of torch\.storage\._load_from_bytes",
    ),
    "two states": (MODULES + b")\x81}b}b", "the state of stand-in for torch"),
    "slots for a module": (MODULES + b")\x81N}\x86b", r"ModuleList has arguments or a state"),
    "a state of text": (MODULES + b")\x81" + text("a") + b"b", r"ModuleList has arguments or a state"),
    "a dtype of fields": (DTYPE + text("V8") + b"\x89\x88\x87R", "the numpy dtype V8 is not allowed"),
    "a dtype of any length": (DTYPE + text("U999999999") + b"\x89\x88\x87R", "numpy dtype U999999999"),
    "a tuple as a key": (b"}))s", "a tuple is a key"),
    "a module as a key": (b"}" + MODULES + b")\x81Ns", "a stand-in for torch.* is a key"),
    "a huge number as a key": (b"}\x8a\x09" + b"\x01" * 9 + b"Ns", "a int is a key"),
    "a tuple in a set": (b"\x8f()\x90", "a tuple is a key"),
    "a tuple in a called set": (named("builtins", "set") + b"]" + b")a\x85R", "a tuple is a key"),
    "items for a tuple": (b")K\x01a", "it fills a tuple as if it were a list"),
    "items for a module": (MODULES + b")\x81K\x01a", "it fills a stand-in for torch"),
    "entries for a list": (b"]K\x01K\x01s", "it fills a list as if it were a dict"),
    "half an entry": (b"}(K\x01u", "no pickle"),
    "what was never remembered": (b"h\x07", "it recalls number 7"),
    "more than there is": (b"00", "no pickle"),
    "a mark that is not there": (b"K\x01t", "no pickle"),
    "an unknown instruction": (b"\xff", "no pickle"),
    "1 GB of text": (
        b"X" + struct.pack("<I", 1 << 30) + b"ab",
        "1073741824 bytes are announced where 3 are left",
    ),
    "1 TB of text": (b"\x8d" + struct.pack("<Q", 1 << 40), "1099511627776 bytes are announced"),
    "1 TB of bytes": (b"\x8e" + struct.pack("<Q", 1 << 40), "1099511627776 bytes are announced"),
    "endless bytes": (b"\x8e" + b"\xff" * 8, "no pickle"),
    "1 TB to be filled": (b"\x96" + struct.pack("<Q", 1 << 40), "1099511627776 bytes are announced"),
    "a number of 1 GB": (b"\x8b" + struct.pack("<i", 1 << 30), "1073741824 bytes are announced"),
    "a number of less than nothing": (b"\x8b" + struct.pack("<i", -1), "no pickle"),
    "a line without an end": (b"c" + b"a" * 5000, "no pickle"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_file_of_the_release_has_is_refused_by_name(name, tmp_path):
    instructions, message = REFUSED[name]
    refuse(tmp_path, b"\x80\x04" + instructions + b".", message)


def test_a_memo_of_two_billion_entries_takes_no_memory(tmp_path):
    data = b"\x80\x04}r" + struct.pack("<I", 2**31 - 2) + b"."
    path = tmp_path / "x.pkl"
    path.write_bytes(data)

    assert peak_bytes(lambda: read_pickle(path)) < 1 << 20


def test_a_refusal_takes_no_memory_in_proportion_to_what_is_announced(tmp_path):
    for name in ("1 GB of text", "1 TB of bytes", "1 TB to be filled", "a number of 1 GB"):
        assert peak_bytes(lambda: refuse(tmp_path, b"\x80\x04" + REFUSED[name][0], "announced")) < 1 << 20  # noqa: B023


def peak_bytes(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_values_nested_twenty_thousand_deep_are_read_and_are_no_keys(tmp_path):
    nested = b"\x80\x04)" + b"\x85" * 20_000
    path = tmp_path / "deep.pkl"
    path.write_bytes(nested + b".")

    assert type(read_pickle(path)) is tuple
    refuse(tmp_path, nested.replace(b"\x04)", b"\x04})") + b"Ns.", "a tuple is a key")


def test_a_key_whose_hash_would_take_for_ever_is_refused_at_once(tmp_path):
    doubled = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))

    refuse(tmp_path, b"\x80\x04})" + doubled + b"Ns.", "a tuple is a key")


def test_a_file_of_too_many_instructions_is_refused():
    data = b"N0" * 50 + b"N."

    assert Machine(ALLOWED, max_steps=102).run(io.BytesIO(data)) is None
    with pytest.raises(PickleError, match="it takes too many steps"):
        Machine(ALLOWED, max_steps=101).run(io.BytesIO(data))


def test_sets_made_of_one_list_over_and_over_take_steps(tmp_path):
    items = b"](" + b"".join(b"J" + struct.pack("<i", i) for i in range(1000)) + b"eq\x00"
    again = named("builtins", "set") + b"h\x00\x85R"

    refuse(tmp_path, b"\x80\x04" + items + again * (MAX_STEPS // 1000) + b".", "it takes too many steps")


def test_bytes_made_of_one_text_over_and_over_take_no_memory(tmp_path):
    again = ENCODE + b"h\x00" + text("latin1") + b"\x86R"
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x04" + text("a" * 100_000) + b"q\x00" + again * 1000 + b".")

    assert peak_bytes(lambda: read_pickle(path)) < 4 << 20


# ---- hostile tensors and modules


def storage(key: str = "0", count: int = 4, announced: int = 4, size_bytes: int = 16, kind: str = "FloatStorage",
            system: Any = None, view: Any = None, keys: list[str] | None = None) -> bytes:  # fmt: skip
    """A storage as torch writes it, with anything of it changed."""
    identity = b"\x80\x02(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu")
    identity += pickle.dumps(count, 2)[2:-1] + pickle.dumps(view, 2)[2:-1] + b"tQ."
    header = [
        pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system or {"little_endian": True})
    ]
    rest = pickle.dumps([key] if keys is None else keys, 2) + struct.pack("<q", announced)
    return b"".join(header) + identity + rest + bytes(size_bytes)


def loaded(data: bytes) -> bytes:
    return LOAD + pickle.dumps(data, 4)[2:-1] + b"\x85R"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 1 << 50}, "none of a storage"),
        (
            {"count": 1 << 38, "announced": 1 << 38},
            "announces 274877906944 numbers of torch.float32; it has 24 bytes",
        ),
        ({"announced": 5}, "announces 4 numbers"),
        ({"size_bytes": 15}, "announces 4 numbers"),
        ({"size_bytes": 17}, "announces 4 numbers"),
        ({"kind": "_C._import_dotted_name"}, r"torch\._C\._import_dotted_name is not allowed"),
        ({"kind": "QUInt8Storage"}, r"torch\.QUInt8Storage is not allowed"),
        ({"view": ("0", 0, 4)}, "none of a storage"),
        ({"keys": ["1"]}, "not written as torch writes it"),
        ({"system": {"little_endian": False}}, "not written as torch writes it"),
    ],
)
def test_storages_that_lie_are_refused(changes, message, tmp_path):
    refuse(tmp_path, b"\x80\x04" + loaded(storage(**changes)) + b".", message)


def test_the_storage_above_is_one_when_nothing_is_changed(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x04" + loaded(storage()) + b".")

    found = read_pickle(path)

    assert (found.dtype, found.count) == (torch.float32, 4)


def tensor(offset: int, shape: tuple, strides: tuple) -> bytes:
    """The instructions that push a tensor within four numbers."""
    arguments = b"".join(
        pickle.dumps(value, 4)[2:-1].replace(b"\x94", b"") for value in (offset, shape, strides)
    )
    return TENSOR + b"(" + loaded(storage()) + arguments + b"\x89" + ORDERED + b")RtR"


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (1, (4,), (1,)),  # one number beyond
        (0, (2, 3), (3, 1)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (2,), (1, 1)),
        (0, (-2,), (1,)),
        (1 << 50, (1,), (1,)),
        (0, (2.0,), (1,)),
        (0, (1,) * 17, (1,) * 17),
        (0, (1 << 39, 1 << 39), (0, 0)),
    ],
)
def test_tensors_beyond_their_storage_are_refused(offset, shape, strides, tmp_path):
    refuse(tmp_path, b"\x80\x04" + tensor(offset, shape, strides) + b".", "_rebuild_tensor_v2 has arguments")


def test_a_tensor_that_repeats_its_numbers_is_not_made(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x04" + tensor(0, (1 << 38,), (0,)) + b".")

    with pytest.raises(PickleError, match="repeats 4 numbers"):
        read_pickle(path).load()


def module_state(**modules: Any) -> dict[str, Any]:
    return {"_parameters": {}, "_buffers": {}, "_modules": modules}


def test_a_module_that_holds_itself_is_refused(tmp_path):
    root = nn.ModuleList()
    root.__dict__["_modules"] = {"again": root}
    source = tmp_path / "x.pkl"
    source.write_bytes(pickle.dumps(root))

    with pytest.raises(ReleaseError, match="nested more than 32 deep"):
        convert_checkpoint(source)


def test_modules_that_multiply_are_refused(tmp_path):
    module: Any = Persistent("Leaf", module_state())
    for _ in range(25):
        module = Persistent("Node", module_state(a=module, b=module))

    with pytest.raises(ReleaseError, match="there are more than 10000 modules"):
        convert_checkpoint(write(tmp_path / "x.pkl", module))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "module root has no _parameters"),
        ({**module_state(), "_modules": [1]}, "module root has no _modules"),
        ({**module_state(), "_parameters": {"a": 1}}, "a, one of _parameters, is a int"),
        ({**module_state(), "_modules": {"a": {}}}, "a, one of _modules, is a dict"),
        ({**module_state(), "_buffers": {"\x1b[2J": torch.ones(1)}}, r"has the name '\\\\x1b\[2J'"),
        ({**module_state(), "_buffers": {1: torch.ones(1)}}, "has the name '1'"),
    ],
)
def test_modules_that_are_none_are_refused(state, message, tmp_path):
    with pytest.raises(ReleaseError, match=message):
        convert_checkpoint(write(tmp_path / "x.pkl", Persistent("Module", state)))


# ---- damage


def small_file(path: Path) -> bytes:
    value = {
        "G": Persistent(
            "Net", {**module_state(), "_parameters": OrderedDict(w=nn.Parameter(torch.ones(2, 3)))}
        ),
        "numbers": [np.float32(0.5), np.eye(2), 1.5, {"a", "b"}, nn.Identity()],
    }
    return write(path, value).read_bytes()


def test_a_file_cut_anywhere_is_refused(tmp_path):
    data = small_file(tmp_path / "x.pkl")

    read_pickle(tmp_path / "x.pkl")
    for length in range(0, len(data) - 1, 7):
        refuse(tmp_path, data[:length], "is not read")


@pytest.fixture(scope="module")
def audited() -> list[str]:
    """Names of what Python reports of this process while the first entry is "on"; a hook stays for good."""
    events = ["off"]

    def hook(event: str, _: tuple[Any, ...]) -> None:
        if events[0] == "on" and event.startswith(
            ("import", "exec", "compile", "os.", "subprocess", "pickle.")
        ):
            events.append(event)

    sys.addaudithook(hook)
    return events


def test_changed_files_give_values_or_an_error_and_run_nothing(audited, tmp_path):
    data = small_file(tmp_path / "x.pkl")
    read_pickle(tmp_path / "x.pkl")  # what reading imports is imported
    random = np.random.default_rng(0)
    outcomes = {"read": 0, "refused": 0}

    for _ in range(800):
        changed = bytearray(data)
        for at in random.integers(0, len(data), random.integers(1, 4)):
            changed[at] = random.integers(256)
        stream = io.BytesIO(changed)
        audited[0] = "on"
        try:
            Machine(ALLOWED).run(Bounded(stream, len(changed)))
            outcomes["read"] += 1
        except PickleError:
            outcomes["refused"] += 1
        finally:
            audited[0] = "off"

    assert min(outcomes.values()) > 50
    assert audited == ["off"]


def test_no_unpickler_of_python_or_torch_is_used():
    source = Path(unpickle.__file__).read_text(encoding="utf-8")

    assert not re.search(
        r"^\s*(import|from) pickle\b|torch\.load\(|getattr\(|import_module|eval\(|exec\(", source, re.M
    )
