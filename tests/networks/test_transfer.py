"""Weights carried to another network: what is copied, what is fitted, what is drawn anew, and how it is told."""

import dataclasses

import pytest
import torch

from autoseg.errors import ModelError
from autoseg.networks import build_network, put_weights
from autoseg.networks.transfer import describe_match, match_weights
from planners.fingerprint import Channel
from planners.labels import LabelClass, Labels, Region
from planners.plan import Input, MemoryBudget, Plan, Target

ENTRANCE = {"plain-unet": "encoder.0.0.conv.weight", "residual-encoder-unet": "encoder.0.stem.conv.weight"}


@pytest.fixture(params=ENTRANCE)
def family(request):
    return request.param


@pytest.fixture
def make_plan(make_architecture, make_configuration):
    """Give a function that makes a plan of one configuration from channels, classes and the network's widths."""

    def make(family, channels=("T1", "T2"), classes=("background", "tumour"), previous=False, **fields):
        widths = fields.pop("widths", (4, 8, 8))
        kernels = fields.pop("kernels", None)
        architecture = make_architecture(widths, [(1, 1), *[(2, 2)] * (len(widths) - 1)], kernels, blocks=1)
        architecture = dataclasses.replace(architecture, family=family)
        labels = Labels(classes=tuple(LabelClass(name=name, value=value) for value, name in enumerate(classes)))
        inputs = (Input(channels=len(channels)),)
        shared = {"num_channels": len(channels), "num_outputs": len(classes), "architecture": architecture, **fields}
        made = [make_configuration((8, 8), name="low", **shared)]
        if previous:
            inputs += (Input(kind="previous", name="low", channels=len(classes) - 1),)
        made.append(
            make_configuration((8, 8), name="main", inputs=inputs, previous="low" if previous else None, **shared)
        )
        return Plan(
            dataset="made",
            planner="default",
            budget=MemoryBudget(),
            axis_order=(0, 1, 2),
            channels=tuple(Channel(name=name) for name in channels),
            labels=labels,
            configurations=tuple(made),
        )

    return make


def trained(plan, name="main"):
    """Weights that no start could have."""
    item = plan.configuration(name)
    start = build_network(item.architecture, item.num_input_channels, item.target.num_outputs, seed=9).state_dict()
    generator = torch.Generator().manual_seed(5)
    return {name: value + torch.randn(value.shape, generator=generator) for name, value in start.items()}


def fate(rows):
    return {row.name: row.status for row in rows}


def test_the_same_network_is_copied_whole(family, make_plan):
    plan = make_plan(family)
    weights = trained(plan)
    made, rows = match_weights(weights, plan, "main", plan, "main")
    assert list(made) == list(weights)
    assert all(torch.equal(made[name], weights[name]) for name in weights)
    assert set(fate(rows).values()) == {"matched"}
    assert describe_match(rows).splitlines() == [
        "  encoder 0 – 2                matched",
        "  upsample 0 – 1               matched",
        "  decoder 0 – 1                matched",
        "  heads 0 – 1                  matched",
    ]


def test_channels_are_matched_by_name_and_keep_the_sum_of_the_response(family, make_plan):
    source, target = make_plan(family), make_plan(family, channels=("FLAIR", "t2", "T1"))
    weights = trained(source)
    made, rows = match_weights(weights, source, "main", target, "main")
    name = ENTRANCE[family]
    before, after = weights[name], made[name]
    torch.testing.assert_close(after[:, 1], before[:, 1] * 2 / 3)
    torch.testing.assert_close(after[:, 2], before[:, 0] * 2 / 3)
    torch.testing.assert_close(after[:, 0], before.mean(1) * 2 / 3)
    torch.testing.assert_close(after.sum(1), before.sum(1))
    group = name.removesuffix(".conv.weight")
    assert fate(rows)[group] == "adapted"
    assert {status for other, status in fate(rows).items() if other != group} == {"matched"}
    assert "t2, t1 as in the source; flair from the mean of its channels" in describe_match(rows)
    put_weights(build_network(target.configuration("main").architecture, 3, 2), made, "the match")


def test_fewer_channels_stay_as_they_were(make_plan):
    source, target = make_plan("plain-unet"), make_plan("plain-unet", channels=("T2",))
    weights = trained(source)
    made, rows = match_weights(weights, source, "main", target, "main")
    assert torch.equal(made[ENTRANCE["plain-unet"]], weights[ENTRANCE["plain-unet"]][:, 1:])
    assert rows[0].because == "t2 as in the source; t1 unused"


def test_channels_of_one_name_are_told_apart(make_plan):
    source = make_plan("plain-unet", channels=("MR", "MR"))
    weights = trained(source)
    made, _ = match_weights(weights, source, "main", source, "main")
    assert torch.equal(made[ENTRANCE["plain-unet"]], weights[ENTRANCE["plain-unet"]])


def test_a_cascade_starts_as_the_network_without_it(family, make_plan):
    """Weights of a new kind of input start at zero: the same logits, whatever the previous segmentation says."""
    source, target = make_plan(family), make_plan(family, previous=True)
    weights = trained(source)
    made, rows = match_weights(weights, source, "main", target, "main")
    small, large = (
        build_network(item.configuration("main").architecture, channels, 2)
        for item, channels in ((source, 2), (target, 3))
    )
    put_weights(small, weights, "source")
    put_weights(large, made, "target")
    image, previous = torch.randn(1, 2, 8, 8), torch.randint(2, (1, 1, 8, 8)).float()
    torch.testing.assert_close(large(torch.cat((image, previous), 1))[0], small(image)[0])
    assert rows[0].because == "t1, t2 as in the source; tumour from zero"


def test_previous_channels_are_matched_by_class(make_plan):
    source = make_plan("plain-unet", classes=("background", "liver", "tumour"), previous=True)
    target = make_plan("plain-unet", classes=("background", "tumour", "liver"), previous=True)
    weights = trained(source)
    made, _ = match_weights(weights, source, "main", target, "main")
    name = ENTRANCE["plain-unet"]
    assert torch.equal(made[name], weights[name][:, [0, 1, 3, 2]])


def test_heads_are_matched_by_class(family, make_plan):
    source = make_plan(family, classes=("background", "Liver", "cyst"))
    target = make_plan(family, classes=("background", "tumour", "liver"))
    weights = trained(source)
    made, rows = match_weights(weights, source, "main", target, "main")
    item = target.configuration("main")
    start = build_network(item.architecture, 2, 3, seed=item.training.seed).state_dict()
    for kind in ("weight", "bias"):
        name = f"heads.1.conv.{kind}"
        assert torch.equal(made[name][[0, 2]], weights[name][[0, 1]])
        assert torch.equal(made[name][1], start[name][1]), "a new class is drawn from the seed"
    assert fate(rows)["heads.0"] == "adapted"
    assert "background, liver as in the source; tumour new; cyst unused" in describe_match(rows)


def test_regions_are_matched_by_name(make_plan):
    def regions(plan, names):
        labels = dataclasses.replace(plan.labels, regions=tuple(Region(name=name, values=(1,)) for name in names))
        made = [
            dataclasses.replace(item, target=Target(name="regions", num_outputs=len(names)))
            for item in plan.configurations
        ]
        return dataclasses.replace(plan, labels=labels, configurations=tuple(made))

    plan = make_plan("plain-unet")
    source, target = regions(plan, ("WT", "TC", "ET")), regions(plan, ("ET", "WT", "TC"))
    weights = trained(source)
    made, _ = match_weights(weights, source, "main", target, "main")
    assert torch.equal(made["heads.0.conv.weight"], weights["heads.0.conv.weight"][[2, 0, 1]])


def test_what_has_another_shape_is_new_with_all_that_belongs_to_it(family, make_plan):
    source, target = make_plan(family, widths=(4, 8, 8)), make_plan(family, widths=(4, 8, 12, 12))
    weights = trained(source)
    made, rows = match_weights(weights, source, "main", target, "main")
    item = target.configuration("main")
    start = build_network(item.architecture, 2, 2, seed=item.training.seed).state_dict()
    told = fate(rows)
    assert {told[name] for name in ("upsample.0", "decoder.0.0", "decoder.1.1", "heads.0", "heads.1")} == {"matched"}
    fresh = [name for name, status in told.items() if status == "new"]
    assert {name.split(".", 2)[1] for name in fresh if name.startswith("encoder")} == {"2", "3"}
    assert {"upsample.1", "upsample.2", "decoder.2.0", "heads.2"} <= set(fresh)
    for name, value in made.items():
        group = name.rsplit(".", 2)[0]
        assert torch.equal(value, start[name] if group in fresh else weights[name]), name
    assert any("the source has no such part" in row.because for row in rows)
    assert any(row.because == "8 × 8 channels in the source, 12 × 8 here" for row in rows)


def test_another_kernel_takes_its_norm_along(make_plan):
    kernels = [(1, 3), (3, 3), (3, 3)]
    source, target = make_plan("plain-unet"), make_plan("plain-unet", kernels=kernels)
    made, rows = match_weights(trained(source), source, "main", target, "main")
    assert fate(rows)["encoder.0.0"] == "new"
    assert rows[0].because == "kernel 3 × 3 in the source, 1 × 3 here"
    assert (made["encoder.0.0.norm.weight"] == 1).all()


def test_the_seed_decides_what_is_new(make_plan):
    source = make_plan("plain-unet")
    answers = []
    for seed in (1, 1, 2):
        target = make_plan("plain-unet", classes=("background", "other"), seed=seed)
        answers.append(match_weights(trained(source), source, "main", target, "main")[0]["heads.0.conv.weight"])
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0][0], answers[2][0])
    assert not torch.equal(answers[0][1], answers[2][1])


def test_another_family_shares_its_decoder(make_plan):
    source, target = make_plan("plain-unet"), make_plan("residual-encoder-unet")
    _, rows = match_weights(trained(source), source, "main", target, "main")
    told = fate(rows)
    assert told["encoder.0.stem"] == "new"
    assert told["decoder.0.0"] == "matched"
    assert rows[0].because == "the source has no such part; it is a plain-unet"


def test_nothing_in_common_is_an_error(make_plan):
    source, target = make_plan("plain-unet"), make_plan("plain-unet", widths=(6, 10), classes=("background", "x"))
    with pytest.raises(ModelError, match="nothing of main of made fits main of made: 4 × 2 channels in the source"):
        match_weights(trained(source), source, "main", target, "main")


def test_weights_of_another_plan_are_an_error(make_plan):
    source, other = make_plan("plain-unet"), make_plan("plain-unet", channels=("T1",))
    with pytest.raises(ModelError, match="takes 1 channels, its plan names 2"):
        match_weights(trained(other), source, "main", source, "main")
