"""Routing attention: equal to full attention in the limit, causal where it says so, and not where it does not."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.observe import record
from neuromix.mixers.routing_heads import RoutingHeads, RoutingHeadsConfig
from neuromix.mixers.sequence import Tokens, make_sequence_mixer

LENGTH = 24


def heads(**options):
    torch.manual_seed(0)
    return RoutingHeads(RoutingHeadsConfig(**options), 2, 8).double().eval()


def inputs(count=2, length=LENGTH, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, length, 2, 8, dtype=torch.float64, generator=generator) for _ in range(count)]


def full(q, k, v, scale):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale).transpose(1, 2)


def test_one_cluster_of_everything_is_full_attention():
    q, v = inputs()
    layernorm = heads(clusters=1, window=LENGTH, strict=False, normalise="layernorm")
    normal = F.layer_norm(q, (8,), eps=1e-6)
    torch.testing.assert_close(
        layernorm(q, None, v) * 1.01, full(normal, normal, v, 1.0), rtol=1e-6, atol=1e-6
    )
    q, k, v = inputs(3)
    apart = heads(clusters=1, window=LENGTH, strict=False, shared_qk=False)
    apart.memory_keys.data.fill_(0.0)
    apart.memory_keys.data[..., 0] = -1e6  # a slot that nobody looks at
    q[..., 0], k[..., 0] = 1.0, 0.0
    torch.testing.assert_close(apart(q, k, v) * (1 + 1e-5), full(q, k, v, 8**-0.5), rtol=1e-6, atol=1e-6)


def test_strict_with_one_cluster_is_full_attention():
    q, v = inputs()
    strict = heads(clusters=1, window=LENGTH, normalise="layernorm")
    normal = F.layer_norm(q, (8,), eps=1e-6)
    count = torch.zeros(2, dtype=torch.int64)
    o, _ = strict.go_on(q, v, None, count, Tokens())
    torch.testing.assert_close(o, full(normal, normal, v, 1.0))


def by_definition(strict, q, v):
    """The strict way, token by token."""
    routed = strict.centroids(q.transpose(1, 2))
    o = torch.zeros_like(v)
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            for t in range(q.shape[1]):
                mine = routed.nearest_BHL[b, h, t]
                earlier = [s for s in range(t) if routed.nearest_BHL[b, h, s] == mine][
                    -strict.config.window :
                ]
                keys = routed.tokens_BHLK[b, h, [*earlier, t]]
                logits = keys @ q[b, t, h] * 8**-0.5
                logits[-1] = -5e4
                o[b, t, h] = logits.softmax(0) @ v[b, [*earlier, t], h]
    return o


def test_strict_is_what_it_says():
    strict, (q, v) = heads(clusters=3, window=4), inputs()
    o, _ = strict.go_on(q, v, None, torch.zeros(2, dtype=torch.int64), Tokens())
    torch.testing.assert_close(o, by_definition(strict, q, v))


def changed_pasts(spec, trials=20):
    """In how many trials other last tokens change what comes before them."""
    changed = 0
    for seed in range(trials):
        torch.manual_seed(seed)
        mixer = make_sequence_mixer(spec, 16).double().eval()
        x = torch.randn(1, LENGTH, 16, dtype=torch.float64)
        other = x.clone()
        other[:, -4:] = torch.randn(1, 4, 16, dtype=torch.float64)
        with torch.no_grad():
            changed += bool((mixer(x)[:, :-4] - mixer(other)[:, :-4]).abs().max() > 1e-9)
    return changed


def test_the_past_depends_on_the_future_as_published_and_not_if_strict():
    options = {"heads": 2, "local_heads": 0, "clusters": 4, "window": 6}
    assert changed_pasts(Spec("routing", options)) == 0
    assert changed_pasts(Spec("routing", {**options, "strict": False})) > 10
    local = {**options, "local_heads": 2, "strict": False}
    assert changed_pasts(Spec("routing", local), 3) == 0


@pytest.mark.parametrize("causal", [True, False])
def test_local_heads_see_their_blocks(causal):
    mixer = (
        make_sequence_mixer(
            Spec("routing", {"heads": 2, "local_heads": 2, "window": 4, "causal": causal, "strict": causal}),
            16,
        )
        .double()
        .eval()
    )
    x = torch.randn(1, 19, 16, dtype=torch.float64)
    with torch.no_grad():
        y = mixer(x)
        for t in (0, 5, 11, 18):
            other = x.clone()
            other[:, t] += 1
            moved = ((mixer(other) - y).abs().amax((0, 2)) > 1e-12).nonzero().flatten().tolist()
            block = t // 4
            first = t if causal else max(0, (block - 1) * 4)
            assert moved == list(range(first, min(19, (block + 2) * 4)))


def test_padding_is_seen_by_nobody():
    mixer = (
        make_sequence_mixer(
            Spec(
                "routing",
                {
                    "heads": 4,
                    "local_heads": 2,
                    "clusters": 1,
                    "window": 12,
                    "local_window": 4,
                    "strict": False,
                },
            ),
            16,
        )
        .double()
        .eval()
    )
    x = torch.randn(2, 12, 16, dtype=torch.float64)
    mask = torch.arange(12).expand(2, -1) < 9
    with torch.no_grad():
        padded = mixer(x, tokens=Tokens(mask))[:, :9]
        torch.testing.assert_close(padded, mixer(x[:, :9]))


def test_clusters_and_loss_can_be_looked_at():
    mixer = make_sequence_mixer(
        Spec("routing", {"heads": 4, "local_heads": 2, "clusters": 3, "window": 4}), 16
    )
    with record(mixer, "clusters") as clusters, record(mixer, "aux_loss") as losses:
        mixer(torch.randn(2, 10, 16))
    (found,), (loss,) = clusters["routing.clusters"], losses["routing.aux_loss"]
    assert found.shape == (2, 2, 10) and found.min() >= 0 and found.max() < 3
    assert loss.requires_grad and loss.shape == ()


@pytest.mark.parametrize(
    "options",
    [
        {"relative": 3, "local_relative": 5, "rotary": False, "normalise": "layernorm"},
        {"heads": 2, "local_heads": 0},
        {"local_heads": 4, "look_back": 2},
        {"window": 40},
    ],
    ids=["relative", "routing only", "local only", "wide"],
)
def test_steps_equal_the_whole_with_other_options(options):
    torch.manual_seed(0)
    spec = Spec("routing", {"heads": 4, "local_heads": 2, "clusters": 3, "window": 3, **options})
    mixer = make_sequence_mixer(spec, 16).double().eval()
    x = torch.randn(2, 17, 16, dtype=torch.float64)
    mask = torch.arange(17).expand(2, -1) >= torch.tensor([[0], [6]])
    with torch.no_grad():
        whole, state, steps = mixer(x), mixer.initial_state(x[:, 0]), []
        for x_t in x.unbind(1):
            y_t, state = mixer.step(x_t, state)
            steps.append(y_t)
        torch.testing.assert_close(torch.stack(steps, 1), whole)
        torch.testing.assert_close(mixer(x, tokens=Tokens(mask))[1, 6:], mixer(x[1:, 6:])[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shared_qk": False}, "strict routing shares"),
        ({"memory_slots": 2}, "no memory slots"),
        ({"causal": False}, "strict routing is causal"),
        ({"local_heads": 9}, "local_heads must be in"),
        ({"heads": 3, "local_heads": 1}, "needs a width that they divide"),
        ({"heads": 16}, "even width"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        make_sequence_mixer(Spec("routing", options), 16)


def test_the_published_way_has_no_state():
    mixer = make_sequence_mixer(Spec("routing", {"heads": 4, "local_heads": 2, "strict": False}), 16)
    with pytest.raises(ShapeError, match="strict=True"):
        mixer(torch.randn(1, 5, 16), return_state=True)
    with pytest.raises(ShapeError, match="strict=True"):
        mixer(torch.randn(1, 5, 16), tokens=Tokens(segments_BL=torch.zeros(1, 5, dtype=torch.int64)))
