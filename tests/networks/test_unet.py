"""The U-Nets: what goes in and out, their arithmetic, their start, and that both ways to compute them agree."""

import dataclasses
import re
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from autoseg import compute as computing
from autoseg.compute import Compute
from autoseg.errors import ModelError, OptionError
from autoseg.interop import open_nnunet
from autoseg.networks import NETWORKS, build_network, put_weights
from autoseg.networks.blocks import ResidualBlock, Shortcut
from planners.network_size import feature_map_elements, num_parameters
from planners.plan import Output

PLAIN = Compute(device="cpu", precision="fp32", channels_last=False, threads=2)
FAST = Compute(device="cpu", precision="fp32", channels_last=True, threads=2, native=True)
HALF = Compute(device="cpu", precision="bf16", channels_last=True, threads=2, native=True)

BEFORE_NORM = re.compile(r"coder.*conv\.bias")  # the norm takes such a shift out: its gradient is rounding

CASES = {
    "3d": (((16, 32, 48), [(1, 1, 1), (2, 2, 2), (2, 2, 2)], None), (8, 12, 16)),
    "anisotropic": (
        ((16, 32, 32), [(1, 1, 1), (1, 2, 2), (2, 2, 2)], [(1, 3, 3), (3, 3, 3), (3, 3, 3)]),
        (6, 16, 20),
    ),
    "2d": (((16, 32, 64), [(1, 1), (2, 2), (2, 2)], None), (24, 16)),
    "narrow": (((5, 10), [(1, 1, 1), (2, 2, 2)], None), (8, 8, 6)),
    "two stages": (((16, 32), [(1, 1, 1), (2, 2, 2)], None), (8, 8, 8)),
    "one stage": (((16,), [(1, 1, 1)], None), (6, 7, 8)),
}


@pytest.fixture(params=[(family, name) for family in NETWORKS for name in CASES], ids=" ".join)
def case(request, make_architecture):
    """An architecture of each family and a patch that fits it."""
    family, name = request.param
    arguments, patch = CASES[name]
    return dataclasses.replace(make_architecture(*arguments), family=family), patch


def build_awake(architecture):
    """A network with two inputs and three outputs, whose residual blocks do not start as their shortcut."""
    network = build_network(architecture, 2, 3, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for block in network.modules():
            if isinstance(block, ResidualBlock):
                block.second.norm.weight.uniform_(0.2, 0.8, generator=generator)
                block.second.norm.bias.uniform_(-0.2, 0.2, generator=generator)
    return network


def test_every_network_gives_every_output(case):
    architecture, patch = case
    network = build_awake(architecture)
    x = torch.randn(2, 2, *patch)
    outputs = network(x)
    shapes = [
        [size // step for size, step in zip(patch, output.stride, strict=True)] for output in architecture.outputs
    ]
    assert [list(output.shape) for output in outputs] == [[2, 3, *shape] for shape in shapes]
    sum(output.float().square().mean() for output in outputs).backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    without = [
        name
        for name, gradient in gradients.items()
        if gradient is None or not gradient.isfinite().all() or not (gradient.any() or BEFORE_NORM.search(name))
    ]
    assert not without, "gradient reaches every parameter"
    network.eval()
    with torch.no_grad():
        only = network(x)
    assert len(only) == 1
    torch.testing.assert_close(only[0], outputs[0], rtol=1e-4, atol=1e-4)


def test_arithmetic_equals_a_count_by_hooks(case):
    architecture, patch = case
    network = build_network(architecture, 2, 3)
    assert sum(p.numel() for p in network.parameters()) == num_parameters(architecture, 2, 3)
    counted = []
    kinds = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    shortcuts = [module for module in network.modules() if isinstance(module, Shortcut)]
    inside = {module for shortcut in shortcuts for module in shortcut.modules()}
    changing = [shortcut for shortcut in shortcuts if shortcut.project is not None or max(shortcut.stride) > 1]
    for module in [*changing, *(m for m in network.modules() if isinstance(m, kinds) and m not in inside)]:
        module.register_forward_hook(lambda _, __, output: counted.append(output.numel()))
    with torch.no_grad():
        network.eval()(torch.zeros(1, 2, *patch))
    assert sum(counted) == feature_map_elements(architecture, patch, 3)


def test_prediction_gives_what_training_would(case):
    architecture, patch = case
    network = build_awake(architecture).eval()
    x = torch.randn(2, 2, *patch, generator=torch.Generator().manual_seed(3))
    kept = network(x)  # with gradients: every map is kept
    with torch.no_grad():
        freed = network(x)
    assert len(kept) == len(freed) == 1
    torch.testing.assert_close(freed[0], kept[0].detach(), rtol=0, atol=0)


def test_prediction_frees_every_map_with_its_last_use(make_architecture):
    network = build_network(make_architecture((16, 32, 48), [(1, 1, 1), (2, 2, 2), (2, 2, 2)]), 1, 2).eval()
    joined, alive = [], []
    network.upsample[0].register_forward_hook(lambda _, __, output: joined.append(weakref.ref(output)))
    network.decoder[0][1].register_forward_pre_hook(lambda *_: alive.append(joined[0]() is not None))
    with torch.no_grad():
        network(torch.zeros(1, 1, 8, 8, 8))
    assert alive == [False], "the joined maps are gone when the second convolution begins"


def test_the_usual_network_has_its_known_number_of_parameters(make_architecture):
    strides = [(1, 1, 1)] + [(2, 2, 2)] * 5
    network = build_network(make_architecture((32, 64, 128, 256, 320, 320), strides), 1, 2)
    assert (
        sum(p.numel() for p in network.parameters()) == 31_195_594
    )  # printed by nnU-Net v2 for one channel, two labels


@pytest.mark.usefixtures("compiled")
def test_the_compiled_way_equals_torch(case):
    architecture, patch = case
    x = torch.randn(2, 2, *patch, generator=torch.Generator().manual_seed(3))
    answers = []
    for compute in (PLAIN, FAST):
        network = computing.place(build_awake(architecture), compute)
        outputs = network(computing.place(x, compute))
        sum(output.square().mean() for output in outputs).backward()
        with torch.no_grad():
            only = network.eval()(computing.place(x, compute))
        answers.append(([*outputs, *only], {name: p.grad for name, p in network.named_parameters()}))
    for slow, fast in zip(answers[0][0], answers[1][0], strict=True):
        assert (slow - fast).abs().max() < 1e-3 * slow.std()
    for name, slow in answers[0][1].items():
        scale = 1.0 if BEFORE_NORM.search(name) else slow.norm()
        assert (slow - answers[1][1][name]).norm() <= 1e-2 * scale, name


@pytest.mark.usefixtures("compiled")
def test_half_precision_stays_close(case):
    architecture, patch = case
    x = torch.randn(2, 2, *patch)
    exact = build_awake(architecture).eval()
    half = computing.place(build_awake(architecture), HALF).eval()
    with torch.no_grad(), computing.autocast(HALF):
        found = half(computing.place(x, HALF))[0]
    with torch.no_grad():
        wanted = exact(x)[0]
    assert found.dtype == torch.bfloat16
    assert (found.float() - wanted).abs().mean() < 0.05 * wanted.std()


def test_the_residual_preset_has_its_known_number_of_parameters(make_architecture):
    """Counted once in dynamic_network_architectures 0.4.4's network: one channel, two labels."""
    plain = make_architecture((32, 64, 128, 256, 320, 320), [(1, 1, 1)] + [(2, 2, 2)] * 5, decoder_blocks=1)
    depths = (1, 3, 4, 6, 6, 6)
    stages = [dataclasses.replace(stage, num_blocks=n) for stage, n in zip(plain.stages, depths, strict=True)]
    architecture = dataclasses.replace(plain, family="residual-encoder-unet", stages=tuple(stages))
    with torch.device("meta"):
        network = build_network(architecture, 1, 2)
    assert sum(p.numel() for p in network.parameters()) == 102_349_770 == num_parameters(architecture, 1, 2)


def test_a_residual_network_starts_as_its_shortcuts(make_architecture):
    architecture = make_architecture((16, 32), [(1, 1, 1), (2, 2, 2)])
    network = build_network(dataclasses.replace(architecture, family="residual-encoder-unet"), 1, 2, seed=0)
    block, x = network.encoder[1][1], torch.rand(1, 32, 4, 4, 4)
    assert torch.equal(block(x), x), "nothing is added, and the activation keeps what is positive"
    assert network.encoder[0].stem.conv.weight.shape == (16, 1, 3, 3, 3)
    assert not [name for name, _ in network.named_parameters() if "shortcut" in name and name.endswith("conv.bias")]


def test_start_is_drawn_from_the_seed_alone(make_architecture):
    architecture = make_architecture((8, 16), [(1, 1, 1), (2, 2, 2)])
    before = torch.get_rng_state()
    first, again, other = (build_network(architecture, 1, 2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    weights = [dict(network.named_parameters())["encoder.0.1.conv.weight"] for network in (first, other)]
    assert not torch.equal(*weights)


def test_start_is_kaiming_normal(make_architecture):
    network = build_network(make_architecture((64, 128), [(1, 1, 1), (2, 2, 2)]), 1, 2, seed=0)
    parameters = dict(network.named_parameters())
    weight = parameters["encoder.1.1.conv.weight"]
    deviation = (2 / (1 + 0.01**2) / (128 * 27)) ** 0.5
    assert abs(weight.std() / deviation - 1) < 0.02
    assert abs(parameters["upsample.0.conv.weight"].std() / (2 / (1 + 0.01**2) / (64 * 8)) ** 0.5 - 1) < 0.02
    assert all((p == 0).all() for name, p in parameters.items() if name.endswith("bias"))


def test_impossible_architectures_are_refused(make_architecture):
    architecture = make_architecture((8, 16), [(1, 1, 1), (2, 2, 2)])
    with pytest.raises(ModelError, match="strides"):
        build_network(dataclasses.replace(architecture, outputs=(Output(stride=(2, 2, 2), loss_weight=1.0),)), 1, 2)
    with pytest.raises(ModelError, match="option 'dropout'"):
        build_network(dataclasses.replace(architecture, options={"dropout": 0.1}), 1, 2)
    with pytest.raises(OptionError, match="did you mean 'plain-unet'"):
        build_network(dataclasses.replace(architecture, family="plane-unet"), 1, 2)


def test_training_steps_are_equal_bit_for_bit(make_architecture):
    """Same seed, same threads: the same weights after some steps."""
    architecture = make_architecture((16, 32), [(1, 1, 1), (2, 2, 2)])

    def train():
        generator = torch.Generator().manual_seed(0)
        network = computing.place(build_network(architecture, 1, 2, seed=0), FAST)
        optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.99, nesterov=True, weight_decay=3e-5)
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            x = computing.place(torch.randn(2, 1, 12, 12, 8, generator=generator), FAST)
            sum(output.square().mean() for output in network(x)).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
            optimizer.step()
        return network.state_dict()

    first, second = train(), train()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.data
def test_a_network_trained_by_nnunet_gives_its_logits(golden_folder, data_folder):
    """Weights by name, and one image that one window covers; nnU-Net's float16 sums differ by 0.06 in 1 of 1000."""
    import SimpleITK

    folder = golden_folder / "nnunet_hippocampus"
    plan, weights = open_nnunet(folder / "model")
    network = build_network(plan.configuration("3d_fullres").architecture, 1, 3)
    put_weights(network, weights["3d_fullres", 0], "the kept model")

    with np.load(folder / "logits.npz") as file:
        index, wanted = (file[f"hippocampus_007.plain.{key}"] for key in ("index", "logits"))
    file = data_folder / "hippocampus" / "imagesTs" / "hippocampus_007_0000.nii.gz"
    image = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file))).astype(np.float32)
    image = (image - image.mean()) / image.std()
    room = [size - edge for size, edge in zip((40, 56, 40), image.shape, strict=True)]
    padded = torch.from_numpy(np.pad(image, [(gap // 2, gap - gap // 2) for gap in room]))
    box = tuple(slice(gap // 2, gap // 2 + edge) for gap, edge in zip(room, image.shape, strict=True))
    for compute in (PLAIN, FAST):
        with torch.no_grad():
            logits = computing.place(network, compute).eval()(computing.place(padded[None, None], compute))[0][0]
        found = logits[(slice(None), *box)].flatten(1)[:, index].numpy()
        difference = np.abs(found - wanted)
        assert np.quantile(difference, 0.99) < 0.02
        assert difference.max() < 0.5
