"""The Routing Transformer as a whole: options of the release, steps, what it refuses, and that it learns."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import neuromix
from neuromix.core.errors import ConfigError, NeuromixError, ShapeError
from neuromix.core.observe import record
from neuromix.models.language.routing_reading import model_values

TINY = {"vocab_size": 31, "dim": 16, "depth": 2, "heads": 4, "max_length": 16, "window": 4}
RELEASE = {
    "num_tokens": 31,
    "dim": 16,
    "depth": 2,
    "max_seq_len": 16,
    "heads": 4,
    "dim_head": 4,
    "window_size": 4,
}


def build(**options):
    torch.manual_seed(0)
    return neuromix.create_model("routing_transformer", **{**TINY, **options})


@settings(max_examples=8, deadline=None)
@given(
    causal=st.booleans(),
    local=st.sampled_from([0, 2, [2, 4], [0, 3]]),
    options=st.fixed_dictionaries(
        {},
        optional={
            "emb_dim": st.just(8),
            "ff_glu": st.just(True),
            "reversible": st.just(True),
            "tie_embedding": st.just(True),
            "use_rezero": st.just(True),
            "use_scale_norm": st.just(True),
            "shift_tokens": st.just(True),
            "num_mem_kv": st.just(2),
            "shared_qk": st.booleans(),
            "local_attn_window_size": st.just(3),
        },
    ),
)
def test_weights_of_the_release_with_any_options(causal, local, options):
    config = {**RELEASE, "causal": causal, "n_local_attn_heads": local, **options}
    model = neuromix.create_model("routing_transformer", **model_values(config))
    theirs = model.layouts(model.config)["pytorch"].to_theirs(model.state_dict())
    again = neuromix.from_reference("routing-transformer", config, theirs)
    ids = torch.randint(31, (2, 13))
    with torch.no_grad():
        found = again(ids)
        assert found.isfinite().all()
        torch.testing.assert_close(found, model.eval()(ids))
    stem = "routing_transformer.fn.layers" if "emb_dim" in options else "routing_transformer.layers"
    stem += ".blocks.0.f.net" if "reversible" in options else ".layers.0.0"
    assert any(name.startswith(stem) for name in theirs)
    assert ("out.tensor" in theirs) == ("tie_embedding" in options)


def test_options_that_the_release_drops_work_here():
    assert build(ffn_ratio=2.0).layers[0].ffn.branch.expand.out_features == 32
    ids = torch.randint(31, (2, 12))
    losses = []
    for commitment in (1e-4, 1e-2):
        model = build(commitment=commitment)
        with record(model, "aux_loss") as seen, torch.no_grad():
            model(ids)
        losses.append(sum(loss for each in seen.values() for loss in each))
    torch.testing.assert_close(losses[1], 100 * losses[0])


@pytest.mark.parametrize("length", [1, 3, 13, 16])
def test_any_length_up_to_the_largest(length):
    model = build().eval()
    assert model(torch.randint(31, (2, length))).shape == (2, length, 31)


def test_padding_and_packing():
    model = build(strict=True, token_shift=True).double().eval()
    ids = torch.randint(31, (1, 10))
    with torch.no_grad():
        mask = torch.arange(10)[None] >= 4
        torch.testing.assert_close(model(ids, mask)[:, 4:], model(ids[:, 4:]))
        segments = (torch.arange(10)[None] >= 6).long()
        apart = torch.cat([model(ids[:, :6]), model(ids[:, 6:])], 1)
        torch.testing.assert_close(model(ids, None, segments), apart)


@pytest.mark.parametrize(
    "options", [{"token_shift": True}, {"share_layers": True, "reversible": True}, {"norm": "rezero"}]
)
def test_steps_equal_the_whole(options):
    model = build(strict=True, **options).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    ids, net, state, steps = torch.randint(31, (2, 21)), neuromix.stream(model), None, []
    with torch.no_grad():
        for ids_B in ids.unbind(1):
            y, state = net.step(ids_B, state)
            steps.append(y)
        torch.testing.assert_close(torch.stack(steps, 1), model(ids))


def test_the_published_form_cannot_be_stepped():
    with pytest.raises(ConfigError, match="stream_axis"):
        neuromix.stream(build())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 5}, "window must divide max_length"),
        ({"local_heads": (1, 2, 3)}, "local_heads needs 1 or 2 numbers"),
        ({"share_layers": True, "local_heads": (1, 2)}, "same local_heads"),
        ({"local_heads": (5,)}, "local_heads must be in"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(NeuromixError, match=message):
        build(**options)


def test_wrong_inputs_are_refused():
    with pytest.raises(ShapeError, match="rows of up to 16 tokens, got 17"):
        build()(torch.zeros(1, 17, dtype=torch.int64))
    with pytest.raises(ShapeError, match="int64"):
        build()(torch.zeros(1, 7))
    with pytest.raises(ConfigError, match="moe_layers"):
        neuromix.from_reference("routing-transformer", {**RELEASE, "moe_layers": [1]}, {})
    with pytest.raises(ConfigError, match="unknown constructor values"):
        neuromix.from_reference("routing-transformer", {**RELEASE, "flash": 1}, {})


@pytest.mark.parametrize("name", neuromix.list_models(pattern="routing_transformer_*"))
def test_published_variants_can_be_built(name):
    with torch.device("meta"):
        model = neuromix.create_model(name)
    assert model.num_parameters() > 500_000


def test_layers_left_out_in_training():
    model, ids = build(layer_dropout=0.5).train(), torch.randint(31, (1, 8))
    with torch.no_grad():
        seen = {float(model(ids).sum()) for _ in range(30)}
        torch.testing.assert_close(model.eval()(ids), build().eval()(ids))
    assert len(seen) == 3  # both, the first, the second; never none


@pytest.mark.slow
def test_it_learns_with_its_auxiliary_loss():
    model = build(strict=True)
    ids = torch.arange(16).expand(8, -1) % 5
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        with record(model, "aux_loss") as seen:
            loss = F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        (loss + sum(x for each in seen.values() for x in each)).backward()
        optimiser.step()
        optimiser.zero_grad()
        model.after_step()
    assert loss < 0.1
