"""Centres of clusters: they move in after_step and nowhere else, once a step."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from neuromix.layers.kmeans import CountingCentroids, SphericalCentroids

CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def make(kind, **options):
    torch.manual_seed(0)
    return kind(2, 3, 4, **{"decay": 0.9, "commitment": 0.1, **options}).double().train()


def tokens(batch=4, seed=1):
    return torch.randn(batch, 2, 10, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


KINDS = pytest.mark.parametrize("kind", [SphericalCentroids, CountingCentroids])


@KINDS
def test_forward_moves_nothing(kind):
    centroids = make(kind)
    before = {name: t.clone() for name, t in centroids.state_dict().items()}
    centroids(tokens())
    assert all(torch.equal(t, before[name]) for name, t in centroids.state_dict().items())
    centroids.after_step()
    moved = centroids.means.clone()
    assert not torch.equal(moved, before["means"])
    centroids.after_step()  # nothing was gathered since
    assert torch.equal(centroids.means, moved)
    centroids.eval()(tokens())
    centroids.after_step()
    assert torch.equal(centroids.means, moved)


@KINDS
def test_a_pass_run_again_in_backward_does_not_count(kind):
    once, again, x = make(kind), make(kind), tokens().requires_grad_()
    once(x)
    checkpoint(lambda x: again(x).error_BHL, x, use_reentrant=False).sum().backward()
    for centroids in (once, again):
        centroids.after_step()
    torch.testing.assert_close(again.means, once.means, **CLOSE)


def test_a_batch_in_parts_counts_as_one():
    whole, parts = make(CountingCentroids), make(CountingCentroids)
    whole(tokens())
    for part in tokens().split(1):
        parts(part)
    for centroids in (whole, parts):
        centroids.after_step()
    torch.testing.assert_close(parts.means, whole.means, **CLOSE)
    torch.testing.assert_close(parts.ema_count, whole.ema_count, **CLOSE)
    spherical, twice = make(SphericalCentroids), make(SphericalCentroids)
    for centroids, times in ((spherical, 1), (twice, 2)):
        centroids.calibrate(tokens(seed=2))
        for _ in range(times):
            centroids(tokens())
        centroids.after_step()
    torch.testing.assert_close(twice.means, spherical.means, **CLOSE)


def test_padding_is_not_counted():
    alone, padded, x = make(CountingCentroids), make(CountingCentroids), tokens()
    alone(x[:, :, 3:])
    padded(x, torch.arange(10).expand(4, -1) >= 3)
    for centroids in (alone, padded):
        centroids.after_step()
    torch.testing.assert_close(padded.means, alone.means, **CLOSE)


def test_the_first_step_makes_centres_from_tokens():
    centroids = make(SphericalCentroids)
    directions = torch.nn.functional.normalize(torch.randn(2, 3, 4, dtype=torch.float64), dim=-1)
    x = directions[:, torch.arange(30) % 3].unsqueeze(0) * 3
    centroids(x)
    centroids.after_step()
    assert bool(centroids.initialised)
    with torch.no_grad():
        assert centroids.eval()(x).error_BHL.max() < 1e-12
    again = make(SphericalCentroids)
    again.calibrate(x)
    torch.testing.assert_close(again.means, centroids.means, **CLOSE)


def test_an_empty_cluster_keeps_its_centre():
    centroids = make(SphericalCentroids)
    centroids.initialised.fill_(True)
    before = centroids.means.clone()
    centroids(before[:, :1].expand(2, 5, 4)[None] * 2)
    centroids.after_step()
    torch.testing.assert_close(centroids.means[:, 1:], before[:, 1:], **CLOSE)


def test_gradients_reach_tokens_only():
    centroids, x = make(SphericalCentroids), tokens().requires_grad_()
    centroids(x).error_BHL.mean().backward()
    assert x.grad.abs().sum() > 0 and not centroids.means.requires_grad
