"""Losses equal a plain implementation of their formulas, and their gradients a numerical one."""

import pytest
import torch

from autoseg.targets.losses import LOSSES, sum_voxels
from autoseg.targets.region_losses import REGION_LOSSES


def plain_loss(name, logits, label, weight, batch_dice, known=None):
    """From the formulas, with a one-hot label, in the precision of the logits.

    Classes that are not ``known`` in a sample are merged with background before the softmax (Shi et al. 2021).
    """
    if known is not None:
        hidden = ~known.view(*known.shape, *[1] * (logits.dim() - 2))
        merged = torch.cat([logits[:, :1], logits[:, 1:].masked_fill(~hidden[:, 1:], -torch.inf)], 1).logsumexp(1)
        logits = torch.cat([merged.unsqueeze(1), logits[:, 1:].masked_fill(hidden[:, 1:], -1e9)], 1)
    weight = torch.ones(label.shape) if weight is None else weight
    weight = weight.to(logits.dtype)
    probability = logits.softmax(1)
    onehot = torch.nn.functional.one_hot(label, logits.shape[1]).movedim(-1, 1)
    entropy = -(logits.log_softmax(1) * onehot).sum(1)
    entropy = (entropy * weight).sum() / weight.sum()
    mask = weight.unsqueeze(1)
    axes = tuple(range(2, logits.dim()))
    overlap, p, g = ((value * mask).sum(axes)[:, 1:] for value in (probability * onehot, probability, onehot))
    if batch_dice:
        overlap, p, g = overlap.sum(0), p.sum(0), g.sum(0)
    counted = torch.ones_like(p, dtype=torch.bool)
    if known is not None:
        counted = known[:, 1:].any(0) if batch_dice else known[:, 1:]
    dice = ((2 * overlap + 1e-5) / (p + g + 1e-5).clamp(min=1e-8))[counted].mean()
    return {"dice+cross-entropy": entropy - dice, "dice": -dice, "cross-entropy": entropy}[name]


def draw(num_classes, shape, masked, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(3, num_classes, *shape, generator=generator)
    label = torch.randint(num_classes, (3, *shape), generator=generator)
    annotated = torch.rand(3, *shape, generator=generator) < 0.7 if masked else None
    return logits, label if annotated is None else label * annotated, annotated


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("num_classes", "shape"), [(2, (5, 6, 7)), (5, (9, 8))])
def test_equal_to_the_formula(name, batch_dice, masked, num_classes, shape):
    logits, label, weight = draw(num_classes, shape, masked)
    fast, slow = logits.clone().requires_grad_(), logits.double().requires_grad_()
    found = LOSSES[name](fast, label, weight, None, batch_dice)
    wanted = plain_loss(name, slow, label, weight, batch_dice)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    found.backward()
    wanted.backward()
    torch.testing.assert_close(fast.grad.double(), slow.grad, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("masked", [False, True])
def test_every_sum_has_its_gradient(masked):
    logits, label, weight = draw(3, (4, 5), masked)
    directions = [torch.randn(3), torch.randn(3, 3), torch.randn(3, 3)]

    def total(values):
        sums = sum_voxels(values, label, weight)
        return sum((item * direction).sum() for item, direction in zip(sums[:3], directions, strict=True))

    logits.requires_grad_()
    (slope,) = torch.autograd.grad(total(logits), logits)
    step = torch.randn_like(logits)
    with torch.no_grad():
        difference = (total(logits + 1e-2 * step) - total(logits - 1e-2 * step)) / 2e-2
    torch.testing.assert_close((slope * step).sum(), difference, rtol=1e-3, atol=1e-3)


def test_a_perfect_answer_has_the_best_value():
    label = torch.arange(3).view(1, 1, 3).repeat(2, 4, 1)
    logits = torch.nn.functional.one_hot(label, 3).movedim(-1, 1).float() * 100
    assert LOSSES["dice+cross-entropy"](logits, label, None, None, False).item() == pytest.approx(-1.0, abs=1e-4)


def test_an_improbable_label_is_no_infinity():
    logits = torch.tensor([[[200.0], [-200.0]]], requires_grad=True)
    loss = LOSSES["dice+cross-entropy"](logits, torch.ones(1, 1, dtype=torch.long), None, None, False)
    loss.backward()
    assert loss.item() == pytest.approx(400.0, abs=1.0)
    assert logits.grad.flatten().tolist() == pytest.approx([1.0, -1.0], abs=1e-3)


KNOWN = torch.tensor([[True, False, True, False, True], [True] * 5, [True, True, False, True, True]])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_classes_that_may_hide_in_background(name, batch_dice, masked):
    logits, label, weight = draw(5, (6, 5, 4), masked)
    known = KNOWN.gather(1, label.flatten(1)).view_as(label)
    label = label * known
    fast, slow = logits.clone().requires_grad_(), logits.double().requires_grad_()
    found = LOSSES[name](fast, label, weight, KNOWN, batch_dice)
    wanted = plain_loss(name, slow, label, weight, batch_dice, KNOWN)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    found.backward()
    wanted.backward()
    torch.testing.assert_close(fast.grad.double(), slow.grad, rtol=1e-4, atol=1e-8)


def test_a_hidden_class_is_as_right_as_background():
    label, known = torch.zeros(1, 1, dtype=torch.long), torch.tensor([[True, True, False]])
    surprise = [
        LOSSES["cross-entropy"](torch.eye(3)[:, :, None][k : k + 1] * 200, label, None, known, False).item()
        for k in range(3)
    ]
    assert surprise == pytest.approx([0, 200, 0], abs=1)


def plain_region_loss(name, logits, found, weight, counted, batch_dice):
    weight = torch.ones(len(found), 1, *found.shape[2:]) if weight is None else weight.unsqueeze(1)
    weight = weight.to(logits) * torch.ones_like(logits) * counted.view(*counted.shape, *[1] * (logits.dim() - 2))
    truth, probability = found.to(logits), logits.sigmoid()
    entropy = -(truth * probability.log() + (1 - truth) * (1 - probability).log())
    entropy = (entropy * weight).sum() / weight.sum()
    axes = tuple(range(2, logits.dim()))
    overlap, p, g = ((value * weight).sum(axes) for value in (probability * truth, probability, truth))
    if batch_dice:
        overlap, p, g, counted = overlap.sum(0), p.sum(0), g.sum(0), counted.any(0)
    dice = ((2 * overlap + 1e-5) / (p + g + 1e-5).clamp(min=1e-8))[counted].mean()
    return entropy, dice


@pytest.mark.parametrize("name", REGION_LOSSES)
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("partly", [False, True])
@pytest.mark.parametrize("shape", [(4, 6, 5), (9, 8)])
def test_region_losses_equal_the_formulas(name, batch_dice, masked, partly, shape):
    logits, label, weight = draw(3, shape, masked)
    found = torch.stack([label > 0, label > 1, label == 1], 1)
    counted = torch.tensor([[True, False, True], [True] * 3, [False, True, True]]) if partly else None
    fast, slow = logits.clone().requires_grad_(), logits.double().requires_grad_()
    value = REGION_LOSSES[name](fast, found, weight, counted, batch_dice)
    everything = torch.ones(3, 3, dtype=torch.bool)
    entropy, dice = plain_region_loss(name, slow, found, weight, everything if counted is None else counted, batch_dice)
    if masked:  # nnU-Net's form: regions are added up, not averaged
        entropy = entropy * 3
    wanted = {"dice+cross-entropy": entropy - dice, "dice": -dice, "cross-entropy": entropy}[name]
    torch.testing.assert_close(value.double(), wanted, rtol=1e-5, atol=1e-6)
    value.backward()
    wanted.backward()
    torch.testing.assert_close(fast.grad.double(), slow.grad, rtol=1e-4, atol=1e-8)


def test_an_improbable_region_is_no_infinity():
    logits = torch.tensor([[[200.0], [-200.0]]], requires_grad=True)
    found = torch.tensor([[[False], [True]]])
    loss = REGION_LOSSES["cross-entropy"](logits, found, None, None, False)
    loss.backward()
    assert loss.item() == pytest.approx(200.0)
    assert logits.grad.flatten().tolist() == pytest.approx([0.5, -0.5])
