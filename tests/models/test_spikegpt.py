"""SpikeGPT: sizes, released weights, streaming with a state that does not grow, padding, spikes, how it starts.

Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import neuromix
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.registry import find
from neuromix.core.state import state_bytes
from neuromix.layers.logit_penalty import LogitPenalty
from neuromix.layers.token_neuron import TokenNeuron
from neuromix.models.language.spikegpt import SpikeGPT
from neuromix.neurons.lif import LIF


def small(seed=0, **options) -> SpikeGPT:
    torch.manual_seed(seed)
    model = neuromix.create_model("spikegpt", **{"dim": 16, "layers": 2, "vocab_size": 31, **options})
    assert isinstance(model, SpikeGPT)
    with torch.no_grad():  # as drawn, a net as small as this sends no spike
        for block in model.blocks:
            for mixer in (block.time.branch.mixer, block.channel.branch.mixer):
                (mixer.output if hasattr(mixer, "output") else mixer.value).weight.mul_(12)
    return model


def random_ids(batch=2, length=12, seed=0, size=31):
    return torch.randint(size, (batch, length), generator=torch.Generator().manual_seed(seed))


def test_weights_under_the_names_of_the_release_fit():
    _, config = find("model", "spikegpt_216m")
    with torch.device("meta"):
        model = SpikeGPT(config)
    theirs = model.layouts(config)["authors"].to_theirs(model.state_dict())
    assert sum(tensor.numel() for tensor in theirs.values()) == 215_399_424
    assert theirs["blocks.17.att.time_mix_v"].shape == (1, 1, 768)
    assert theirs["blocks.3.ffn.key.weight"].shape == (4 * 768, 768)
    assert {"emb.weight", "blocks.0.ln0.bias", "ln_out.weight", "head.weight"} <= theirs.keys()


@pytest.mark.parametrize("kind", ["RWKV", "RWKV-ffnPre"])
def test_released_weights_load_strictly(kind):
    first = "wkv_channel" if kind == "RWKV-ffnPre" else "wkv"
    model = small(first=first)
    theirs = model.layouts(model.config)["authors"].to_theirs(model.state_dict())
    assert (
        ("blocks.0.ffnPre.key.weight" in theirs)
        == (first == "wkv_channel")
        != ("blocks.0.att.time_decay" in theirs)
    )
    values = {"vocab_size": 31, "ctx_len": 64, "n_layer": 2, "n_embd": 16, "model_type": kind}
    again = neuromix.from_reference("spikegpt", values, theirs)
    ids = random_ids()
    with torch.no_grad():
        assert torch.equal(again(ids), model.eval()(ids))
    with pytest.raises(neuromix.NeuromixError, match="missing"):
        neuromix.from_reference("spikegpt", values, {n: t for n, t in theirs.items() if n != "head.weight"})


def test_strange_constructor_values_are_refused():
    with pytest.raises(ConfigError, match="model_type"):
        neuromix.from_reference(
            "spikegpt", {"vocab_size": 3, "n_layer": 1, "n_embd": 4, "model_type": "GPT"}, {}
        )
    with pytest.raises(ConfigError, match="surrogate"):
        neuromix.from_reference(
            "spikegpt", {"vocab_size": 3, "n_layer": 1, "n_embd": 4, "surrogate": "Sine"}, {}
        )


@pytest.mark.parametrize("first", ["wkv", "wkv_channel"])
def test_token_by_token_is_the_whole(first):
    model, ids = small(first=first).double().eval(), random_ids(length=30)
    net = neuromix.stream(model)
    with torch.no_grad():
        whole = model(ids)
        session = net.session()
        stepped = torch.stack([session.step(ids_B) for ids_B in ids.unbind(1)], 1)
    torch.testing.assert_close(stepped, whole, rtol=1e-6, atol=1e-9)


def test_the_state_is_seven_numbers_a_channel_and_layer_at_any_length():
    model = small().eval()
    net, sizes = neuromix.stream(model), []
    for length in (64, 1024):
        with torch.no_grad():
            _, state = net.prefill(random_ids(3, length))
        sizes.append(state_bytes(state))
    assert sizes == [4 * 7 * 2 * 16 * 3] * 2


def test_a_padded_row_gives_what_it_gives_alone():
    model, ids = small().double().eval(), random_ids(2, 9)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, :4] = False
    net = neuromix.stream(model)
    with torch.no_grad():
        y, state = net.prefill(ids, None, mask=mask)
        alone, after = net.prefill(ids[1:, 4:])
        torch.testing.assert_close(y[1:, 4:], alone)
        later = random_ids(2, 3, seed=5)
        torch.testing.assert_close(net.prefill(later, state)[0][1:], net.prefill(later[1:], after)[0])


def test_sequences_in_one_row_do_not_meet():
    model, ids = small().double().eval(), random_ids(1, 10)
    segments = torch.tensor([[4] * 3 + [1] * 7])
    with torch.no_grad():
        packed = model(ids, None, segments)
        torch.testing.assert_close(packed, torch.cat([model(ids[:, :3]), model(ids[:, 3:])], 1))


def test_branches_add_spikes():
    model = small().train()
    seen = []
    for module in model.modules():
        if isinstance(module, TokenNeuron):
            module.register_forward_hook(lambda _, __, y: seen.append(y))
    model(random_ids(4, 20))
    assert len(seen) == 4 and all(((y == 0) | (y == 1)).all() for y in seen)
    assert any(y.any() for y in seen)


def test_a_binary_embedding_is_told_by_signs_and_trains():
    model, ids = small(dropout=0.0), random_ids()
    with torch.no_grad():
        before = model(ids)
        model.embedding.weight.mul_(0.01)
        torch.testing.assert_close(model(ids), before)
    F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
    assert model.embedding.weight.grad.abs().sum() > 0
    with torch.no_grad():
        real = small(binary_embedding=False)
        assert not torch.allclose(real(ids), small()(ids))


def test_the_pull_on_logits_ignores_what_the_loss_is_multiplied_by():
    logits = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    largest = logits.max(-1, keepdim=True)
    pull = torch.zeros_like(logits).scatter(-1, largest.indices, 0.1 / 6 * largest.values)
    for scale in (1.0, 64.0):
        x = logits.clone().requires_grad_()
        y = LogitPenalty(0.1).train()(x)
        assert torch.equal(y, logits)
        (scale * y.sum()).backward()
        torch.testing.assert_close(x.grad, scale + pull)
    x = logits.clone().requires_grad_()
    LogitPenalty(0.1).eval()(x).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_how_rwkv_starts():
    model = small(init="rwkv", first="wkv_channel", dim=8, vocab_size=40)
    gram = model.embedding.weight.T @ model.embedding.weight
    torch.testing.assert_close(gram, torch.eye(8) * 1e-8 * 40)
    gram = model.head.weight.T @ model.head.weight
    torch.testing.assert_close(gram, torch.eye(8) * 0.25 * 5)
    first, second = (block.time.branch.mixer for block in model.blocks)
    assert first.key.weight.any() and not first.value.weight.any() and not first.receptance.weight.any()
    assert second.value.weight.any() and not any(
        m.weight.any() for m in (second.key, second.receptance, second.output)
    )
    torch.testing.assert_close(first.key.weight.T @ first.key.weight, 4 * torch.eye(8))


def test_how_the_vectors_start():
    mixer = small(layers=3, dim=4).blocks[1].time.branch.mixer
    i, left, depth = torch.arange(4.0), 1 - 1 / 3, 0.5
    torch.testing.assert_close(mixer.time_decay, -5 + 8 * (i / 3) ** (0.7 + 1.3 * depth))
    torch.testing.assert_close(
        mixer.time_first, torch.tensor(0.3).log() + torch.tensor([0.0, 0.5, -0.5, 0.0])
    )
    torch.testing.assert_close(mixer.mix_k, (i / 4) ** left)
    torch.testing.assert_close(mixer.mix_v, (i / 4) ** left + 0.3 * depth)
    torch.testing.assert_close(mixer.mix_r, (i / 4) ** (left / 2))
    assert all(p.isfinite().all() for p in small(layers=1, dim=1).parameters())


def test_a_report_of_rates_and_operations():
    model = small().eval()
    seen = neuromix.profile(model, random_ids(4, 20))
    assert {neuron.path for neuron in seen.neurons} >= {"blocks.1.channel.branch.neuron.neuron"}
    matrices = 2 * 13 * 16 * 16 + 31 * 16
    assert seen.macs_dense == 20 * matrices and seen.energy


def test_neurons_over_padded_and_packed_tokens():
    """Any mask and any segments: each sequence by itself, step by step."""
    generator = torch.Generator().manual_seed(3)
    x_BLC = torch.randn(3, 15, 4, generator=generator, dtype=torch.float64) * 2
    mask = torch.rand(3, 15, generator=generator) < 0.6
    segments = torch.randint(2, (3, 15), generator=generator)
    neuron = TokenNeuron(LIF(surrogate="atan"))
    start = neuron.initial_state(x_BLC[:, 0])._replace(
        v=torch.rand(3, 4, generator=generator, dtype=torch.float64)
    )
    y_BLC, last = neuron(x_BLC, start, mask_BL=mask, segments_BL=segments, return_state=True)
    for b in range(3):
        state, previous = type(start)(start.v[b : b + 1]), None
        for t in mask[b].nonzero()[:, 0].tolist():
            if previous is not None and segments[b, t] != segments[b, previous]:
                state = neuron.initial_state(x_BLC[b : b + 1, 0])
            y, state = neuron.step(x_BLC[b : b + 1, t], state)
            assert torch.equal(y[0], y_BLC[b, t])
            previous = t
        torch.testing.assert_close(state.v[0], last.v[b])


def test_what_is_no_text_is_refused():
    with pytest.raises(ShapeError, match="ids"):
        small()(torch.zeros(2, 3))
    with pytest.raises(ShapeError, match="mask"):
        small()(random_ids(), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ConfigError, match="layers"):
        small(layers=0)
    with pytest.raises(ConfigError, match="first"):
        small(first="attention")


def test_a_classifier_reads_real_tokens_only():
    torch.manual_seed(0)
    model = neuromix.create_model(
        "spikegpt_classifier", dim=16, layers=2, vocab_size=31, hidden=8, num_classes=3
    )
    model, ids = model.double().eval(), random_ids(2, 9)
    mask = torch.arange(9).expand(2, -1) >= torch.tensor([[0], [4]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids, mask)[1:], model(ids[1:, 4:]))
        torch.testing.assert_close(model(ids, mask)[:1], model(ids[:1]))
    with pytest.raises(ConfigError, match="num_classes"):
        model.config.replace(num_classes=0)
