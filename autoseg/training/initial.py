"""A training that starts from a trained model: open the model, fit its weights to the plan, keep them in the run.

The weights are fitted once, to ``RUN/init/CONFIGURATION.safetensors``; every fold starts from that file, whose digest
stands in the plan. One fold of the model is taken: the mean of several networks is no network.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from autoseg import planning
from autoseg.errors import ModelError
from autoseg.interop.nnunet import is_nnunet, open_nnunet
from autoseg.networks import build_network, load_weights, put_weights, save_weights
from autoseg.networks.checkpoint import weights_digest
from autoseg.networks.transfer import Row, describe_match, match_weights
from autoseg.options import RunOptions
from autoseg.progress import say
from autoseg.run_folder import RunFolder
from autoseg.training.fold_record import trained_folds
from autoseg.training.start import freeze
from planners import records
from planners.fingerprint import Fingerprint
from planners.identity import identity_json
from planners.plan import Configuration, Plan, Reason

RULE = "fine-tuning"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of one configuration of a model.

    Attributes:
        source: the fold they come from, for people.
        digest: of the file that holds them.
        load: reads them, by parameter name.
    """

    source: str
    digest: str
    load: Callable[[], Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class TrainedModel(planning.Model):
    """A model that is opened to start from; weights by configuration, those that come first in its plan first."""

    weights: Mapping[str, Weights]


def open_model(place: Path) -> TrainedModel:
    """Open a trained model to start from.

    Args:
        place: a run folder, one of its folds' folders, a model folder of nnU-Net v2, or one of its checkpoints. Where
            it holds several folds, the first that is trained is taken.

    Raises:
        ModelError: nothing trained is there; the message says what is missing.
    """
    if is_nnunet(place):
        plan, weights = _open_nnunet(place)
    else:
        plan, weights = _open_run(place)
    kept = _trained(plan, weights)
    identity = records.digest([identity_json(kept), {name: item.digest for name, item in weights.items()}])
    return TrainedModel(plan=kept, name=str(place), identity=identity, weights=weights)


def decide(run: RunFolder, fingerprint: Fingerprint, options: RunOptions) -> Plan:
    """Give the run's plan (as ``planning.decide``), with weights to start from where ``options.init`` names a model.

    Raises:
        ModelError: the model cannot be opened, or nothing of it fits.
        PlanError: the plan is not possible, or freezes what the network does not have.
    """
    if options.init is None:
        return planning.decide(run, fingerprint, options)
    model = open_model(options.init)
    plan = planning.decide(run, fingerprint, options, model)
    return keep_initial_weights(run, plan, model, options.configurations)


def keep_initial_weights(run: RunFolder, plan: Plan, model: TrainedModel, names: Sequence[str] = ()) -> Plan:
    """Fit a model's weights to a plan's networks and keep them in the run, where that is not done yet.

    Args:
        run: gets ``init/CONFIGURATION.safetensors``, and the digests in its plan.
        plan: of the run.
        model: where the weights come from.
        names: the configurations that will be trained; default: all. Those that feed them get weights too.

    Returns:
        The plan with the digests.
    """
    asked = names or [item.name for item in plan.configurations]
    reasons, changed = [], {}
    for name, _ in planning.training_order(plan, asked, (0,), 1):
        item = plan.configuration(name)
        source = _source_of(item, model)
        digest = _keep_one(run, plan, name, model, source)
        if item.training.frozen:
            freeze(_network(item), item.training.frozen, f"{name}.training.frozen")  # a wrong name is told before all
        because = f"starts from {source} of {model.weights[source].source}; kept in {run.initial_weights(name).name}"
        reasons.append(Reason(about=f"{name}.training.initial_weights", rule=RULE, because=because))
        changed[name] = replace(item, training=replace(item.training, initial_weights=digest))
    new = replace(plan, configurations=tuple(changed.get(item.name, item) for item in plan.configurations))
    return plan if new == plan else planning.write_by_program(run, new, *reasons)


def _open_nnunet(place: Path) -> tuple[Plan, dict[str, Weights]]:
    plan, given = open_nnunet(place)
    weights: dict[str, Weights] = {}
    for name, fold in given:
        if name not in weights:
            file = given.files[name, fold]
            load = partial(given.__getitem__, (name, fold))
            weights[name] = Weights(source=str(file), digest=weights_digest(file), load=load)
    return plan, weights


def _open_run(place: Path) -> tuple[Plan, dict[str, Weights]]:
    """Open a run folder, or the folder of one fold (``RUN/folds/CONFIGURATION/fold_0``)."""
    run, only = RunFolder(place), None
    if (place / "weights_last.safetensors").exists() and len(place.parents) > 2:
        run, only = RunFolder(place.parents[2]), place
    if not run.plan_file.exists():
        what = "does not exist" if not place.exists() else "holds neither a plan.json nor a model of nnU-Net v2"
        raise ModelError(
            f"{place} {what}. Give a run folder of autoseg, or a model folder or checkpoint (.pth) of nnU-Net v2"
        )
    plan, weights = run.read(Plan, run.plan_file), dict[str, Weights]()
    for item in plan.configurations:
        folds = [fold for _, fold in trained_folds(run, item.name) if only is None or fold.root == only]
        if folds:
            path = folds[0].weights_last
            load = partial(_read, path)
            weights[item.name] = Weights(source=str(folds[0].root), digest=weights_digest(path), load=load)
    if not weights:
        raise ModelError(f"{place} holds no fold that is trained to its end. Finish `autoseg run` there first")
    return plan, weights


def _read(path: Path) -> Mapping[str, Tensor]:
    return load_weights(path)[0]


def _trained(plan: Plan, weights: Mapping[str, Weights]) -> Plan:
    """Leave out of a plan what is not trained, but for what a trained configuration is fed by."""
    needed = {name for name, _ in planning.training_order(plan, list(weights), (0,), 1)}
    kept = tuple(item for item in plan.configurations if item.name in needed)
    return plan if len(kept) == len(plan.configurations) else replace(plan, configurations=kept)


def _source_of(item: Configuration, model: TrainedModel) -> str:
    """Choose the model's configuration whose weights a configuration starts from: of its name, else of its kind."""
    if item.name in model.weights:
        return item.name
    alike = [name for name in model.weights if model.plan.configuration(name).dimensions == item.dimensions]
    if not alike:
        raise ModelError(
            f"{model.name} has no weights that {item.name} could start from, only {', '.join(model.weights)}. "
            f"Train what it has (--configurations), or give another --init"
        )
    return alike[0]


def _keep_one(run: RunFolder, plan: Plan, name: str, model: TrainedModel, source: str) -> str:
    """Fit and keep the weights of one configuration, unless the file there was made of the same; give its digest."""
    item, path = plan.configuration(name), run.initial_weights(name)
    given = model.weights[source]
    network = [item.architecture, identity_json(item.inputs), item.target, item.training.seed]
    made_from = records.digest([network, plan.channels, plan.labels, given.digest])
    if path.exists() and load_weights(path)[1].get("made_from") == made_from:
        return weights_digest(path)
    if path.exists() and run.is_begun(name):
        say(f"  {name}: {given.source} or the plan has changed since its training began; the weights kept then stay")
        return weights_digest(path)
    weights, rows = match_weights(given.load(), model.plan, source, plan, name)
    built = _network(item)
    put_weights(built, weights, given.source)
    save_weights(path, built, {"made_from": made_from, "from": given.source})
    _say(run, name, f"{source} of {given.source}", rows)
    return weights_digest(path)


def _network(item: Configuration) -> nn.Module:
    return build_network(item.architecture, item.num_input_channels, item.target.num_outputs, item.training.seed)


def _say(run: RunFolder, name: str, source: str, rows: Sequence[Row]) -> None:
    counts = [f"{sum(row.status == kind for row in rows)} {kind}" for kind in ("matched", "adapted", "new")]
    say(f"  {name} starts from {source}: {', '.join(counts)}")
    say(describe_match(rows))
    run.log("initial weights", configuration=name, source=source, rows=list(rows))
