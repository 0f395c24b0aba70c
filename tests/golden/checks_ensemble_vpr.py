"""Checks of the Ensemble VPR fixtures: the circuit with and without learning, and the released evaluation.

Shapes: I inputs, N neurons, P places, Q queries, S spikes.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

import neuromix
from neuromix.data.patch_norm import as_bytes, patch_normalised
from neuromix.layers.votes import assign, hyperactive, mean_response, place_scores, responses
from neuromix.measure.retrieval import distance_matrix, precision_recall, ranking, recall_at
from neuromix.models.vision.ensemble_vpr import EnsembleVPR
from neuromix.ops.diehl_cook import advance, initial_state, steps_of
from neuromix.ops.synapses import Events, FrozenInput, PlasticInput, Plasticity
from tests.golden.compare import assert_close, assert_equal
from tests.golden.fixtures import Fixture

WATCHED = 10  # steps between two looks at the state


def check_simulation(fixture: Fixture) -> None:
    known = {"counts", "theta_final", "w_final", "v", "ge", "gi"}
    known |= {f"{population}_spike_{what}" for population in "ei" for what in ("step", "index")}
    assert fixture.outputs.keys() <= known, f"no check for {sorted(fixture.outputs.keys() - known)}"
    _check_circuit(_model(fixture), fixture)
    if fixture.config["train"]:
        _check_learning(_model(fixture), fixture)
    else:
        _check_test_mode(_model(fixture), fixture)


def _model(fixture: Fixture) -> EnsembleVPR:
    model = neuromix.from_reference(fixture.slug, fixture.config, fixture.state, kind=fixture.kind).double()
    assert isinstance(model, EnsembleVPR)
    with torch.no_grad():
        model.circuits.delay.copy_(fixture.inputs["delay_steps"][None])
        model.circuits.theta.copy_(fixture.inputs["theta0_exact"][None])
    return model


def _check_circuit(model: EnsembleVPR, fixture: Fixture) -> None:
    """All the steps in pieces of ten, between which the state is looked at."""
    learns, begins = fixture.config["train"], _begins(fixture)
    steps = begins[-1] + model.circuits.period
    weight, theta_M1N = model.circuits.weight.detach().clone(), model.circuits.theta.detach().clone()[:, None]
    never = torch.full_like(weight, -torch.inf), torch.full_like(theta_M1N, -torch.inf)
    events = _events(fixture)
    source = (
        PlasticInput(weight, model.circuits.delay, events, steps, Plasticity(), *never)
        if learns
        else FrozenInput(weight, model.circuits.delay, events, 1, steps)
    )
    state = initial_state(model.circuits.circuit, 1, 1, weight.shape[-1], weight)
    traces: dict[str, list[Tensor]] = {"v": [], "ge": [], "gi": []}
    spikes = []
    stops = sorted({*range(0, steps, WATCHED), *begins, steps})
    for begin, end in itertools.pairwise(stops):
        if begin in begins and learns:
            weight *= model.circuits.column_sum / weight.sum(1, keepdim=True)
        if begin % WATCHED == 0:
            for name, now in zip(traces, (state.v, *state.g), strict=True):
                traces[name].append(now[0, 0, 0])
        state, fired = advance(model.circuits.circuit, state, theta_M1N, source, begin, end, adapt=learns)
        spikes.append(fired)
    step, population, _, _, neuron = torch.cat(spikes).unbind(1)
    for number, name in enumerate("ei"):
        _compare(fixture, f"{name}_spike_step", step[population == number], exactly=True)
        _compare(fixture, f"{name}_spike_index", neuron[population == number], exactly=True)
    for name, values in traces.items():
        _compare(fixture, name, torch.stack(values, 1))
    _check_learnt(fixture, weight[0], theta_M1N[0, 0])


def _check_learning(model: EnsembleVPR, fixture: Fixture) -> None:
    """The same, an example at a time, as training does it."""
    memory, counts = model.circuits.begin(), []
    for begin in _begins(fixture):
        events = _events(fixture, begin, model.circuits.example_steps)
        counts.append(model.circuits.learn(events, torch.tensor([0]), memory, Plasticity())[0])
    _compare(fixture, "counts", torch.stack(counts), exactly=True)
    _check_learnt(fixture, model.circuits.weight[0], model.circuits.theta[0])


def _check_learnt(fixture: Fixture, weight_IN: Tensor, theta_N: Tensor) -> None:
    for name, actual in (("w_final", weight_IN), ("theta_final", theta_N)):
        if name in fixture.outputs:
            assert_close(actual, fixture.outputs[name], name=name, rtol=0.0, atol=1e-9)


def _check_test_mode(model: EnsembleVPR, fixture: Fixture) -> None:
    parts = [_events(fixture, begin, model.circuits.example_steps) for begin in _begins(fixture)]
    step = torch.cat([part.step for part in parts])
    row = torch.cat([part.row + image for image, part in enumerate(parts)])
    order = step.argsort(stable=True)
    events = Events(step[order], row[order], torch.cat([part.input for part in parts])[order])
    _compare(fixture, "counts", model.circuits.respond_in_turn(events, len(parts))[0], exactly=True)


def _begins(fixture: Fixture) -> list[int]:
    """The first step of each example."""
    usual = {"initial_rest_ms": 500, "example_ms": 350, "rest_ms": 150}
    initial, example, rest = (steps_of(fixture.config.get(name, value)) for name, value in usual.items())
    return [initial + number * (example + rest) for number in range(fixture.config["n_examples"])]


def _events(fixture: Fixture, begin: int = 0, steps: int | None = None) -> Events:
    step, source = fixture.inputs["spike_step"], fixture.inputs["spike_index"]
    inside = (step >= begin) & (step < (begin + steps if steps is not None else step.max() + 1))
    return Events(step[inside] - begin, torch.zeros_like(step[inside]), source[inside])


def check_evaluation(fixture: Fixture) -> None:
    config, inputs, outputs = fixture.config, fixture.inputs, fixture.outputs
    places = config["modules"] * config["places_per_module"]
    response = [
        mean_response(counts.double(), labels, places)
        for counts, labels in zip(inputs["train_counts"], inputs["train_labels"], strict=True)
    ]
    assignment = assign(torch.cat(response))
    _compare(fixture, "assignments", assignment, exactly=True)
    count = responses(inputs["reference_counts"])
    _compare(fixture, "reference_response_count", count, exactly=True)
    labels = assignment.unique()
    _compare(fixture, "unique_labels", labels, exactly=True)
    for name, threshold in (("all", 0), ("regularised", config["hyperactive_threshold"])):
        counts = inputs["query_counts"].double().masked_fill(hyperactive(count, threshold), 0)
        # A row for each assigned place, and one before them where neurons never fired: places counted from there.
        scores = place_scores(counts, assignment - labels[0], places - int(labels[0]))
        _check_scores(scores[:, labels - labels[0]].T, labels, name, fixture)
    if "image" in inputs:
        normalised = patch_normalised(inputs["image"], config.get("patch", 7))
        _compare(fixture, "patch_norm", normalised)
        _compare(fixture, "patch_uint8", as_bytes(normalised), exactly=True)
    known = {"assignments", "reference_response_count", "unique_labels", "patch_norm", "patch_uint8"}
    scored = ("summed_rates", "ranking", "recall_at_1_5_10", "precision", "recall_curve", "auc_pr")
    known |= {f"{way}/{what}" for way in ("all", "regularised") for what in scored}
    assert outputs.keys() <= known, f"no check for {sorted(outputs.keys() - known)}"


def _check_scores(scores_RQ: Tensor, labels_R: Tensor, way: str, fixture: Fixture) -> None:
    _compare(fixture, f"{way}/summed_rates", scores_RQ, exactly=True)
    scores, labels = scores_RQ.numpy(), labels_R.numpy()
    ranked = ranking(scores, labels)
    theirs = fixture.outputs[f"{way}/ranking"].numpy().astype(int)
    # Equal scores have no order of their own: both rankings give every query the same scores in the same places.
    row_of = {label: row for row, label in enumerate(labels.tolist())}
    for query in range(scores.shape[1]):
        if not scores[:, query].any():
            assert (ranked[:, query] == theirs[:, query]).all()
            continue
        ours, other = (
            [scores[row_of[label], query] for label in order[:, query]] for order in (ranked, theirs)
        )
        assert ours == other, f"{way}/ranking of query {query}"
    distance = distance_matrix(scores)
    # As released, row k stands for place k.
    rows, queries = np.arange(scores.shape[0]), np.arange(scores.shape[1])
    expected = fixture.outputs[f"{way}/recall_at_1_5_10"]
    for value, number in zip(expected.tolist(), (1, 5, 10), strict=True):
        least, most = _tie_interval(distance, number)
        assert least <= value <= most
        assert least <= recall_at(distance, rows, queries, [number])[0] <= most
    curve = precision_recall(distance, rows, queries)
    _compare(fixture, f"{way}/precision", torch.from_numpy(curve.precision))
    _compare(fixture, f"{way}/recall_curve", torch.from_numpy(curve.recall))
    # It was rounded to float32.
    area = torch.tensor(curve.area, dtype=torch.float64)
    assert_close(area, fixture.outputs[f"{way}/auc_pr"], name="auc_pr", atol=1e-6)


def _tie_interval(distance_RQ: np.ndarray, number: int) -> tuple[float, float]:
    """Recall@N where the right row comes last, and first, among equals."""
    queries = np.arange(distance_RQ.shape[1])
    inside = queries < len(distance_RQ)
    own = np.where(inside, distance_RQ[np.minimum(queries, len(distance_RQ) - 1), queries], np.inf)
    nearer, not_farther = (distance_RQ < own).sum(0), (distance_RQ <= own).sum(0)
    return ((not_farther <= number) & inside).mean() - 1e-12, ((nearer < number) & inside).mean() + 1e-12


def _compare(fixture: Fixture, name: str, actual: Tensor, *, exactly: bool = False) -> None:
    if name in fixture.outputs:
        (assert_equal if exactly else assert_close)(actual, fixture.outputs[name], name=name)


CHECKS = {
    ("ensemble-vpr", "simulation"): check_simulation,
    ("ensemble-vpr", "modular_evaluation"): check_evaluation,
}
