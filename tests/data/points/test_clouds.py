"""Voxels, surfaces, generators and data sets of point clouds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from neuromix.core.errors import ConfigError, DataError, UnknownNameError
from neuromix.data.dataset import sample_generator
from neuromix.data.points import PointCloud, Views, centred, open_points, open_scenes, voxelise
from neuromix.data.points.scenes import CLASSES, scene_cloud
from neuromix.data.points.shapes import FOUR, TEN, shape_cloud
from neuromix.data.points.surface import drawn, on_triangles

FINITE = st.floats(-50, 50, allow_nan=False, width=32)


@settings(max_examples=100, deadline=None)
@given(arrays(np.float64, st.tuples(st.integers(1, 40), st.just(3)), elements=FINITE), st.integers(0, 99))
def test_each_voxel_has_one_point_and_each_point_its_voxel(xyz, seed):
    for chance in (None, np.random.default_rng(seed)):
        coords, rows = voxelise(xyz, 0.5, chance)
        every = np.floor(xyz / 0.5) - np.floor(xyz / 0.5).min(0)
        assert np.array_equal(coords, np.unique(every, axis=0)) and coords.min(0).tolist() == [0, 0, 0]
        assert np.array_equal(every[rows], coords)
        if chance is None:
            assert all(not (every[:row] == every[row]).all(1).any() for row in rows), "the first point"


def test_any_point_stands_for_its_voxel_in_training():
    xyz = np.zeros((5, 3))
    chance = np.random.default_rng(0)
    assert {int(voxelise(xyz, 1.0, chance).rows_M[0]) for _ in range(60)} == set(range(5))


def test_wrong_voxels_are_refused():
    for xyz in (np.zeros((0, 3)), np.array([[np.nan, 0, 0]]), np.array([[np.inf, 0, 0]])):
        with pytest.raises(DataError, match="finite"):
            voxelise(xyz, 1.0)
    with pytest.raises(DataError, match="take larger voxels"):
        voxelise(np.array([[0.0, 0, 0], [1e12, 0, 0]]), 0.01)
    for voxel in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="positive"):
            voxelise(np.zeros((1, 3)), voxel)


def test_centred():
    xyz = centred(np.random.default_rng(0).random((50, 3)) * 9 + 4)
    assert np.allclose(xyz.mean(0), 0) and np.linalg.norm(xyz, axis=1).max() == pytest.approx(1)
    assert np.array_equal(centred(np.array([[3.0, 4.0, 5.0]])), np.zeros((1, 3))), "one point"


def test_points_lie_evenly_on_triangles():
    corners = np.array([[0.0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 1]])
    faces = np.array([[0, 1, 2], [0, 1, 3]])  # of area 2 and 1, across z and y
    xyz, normal = on_triangles(corners, faces, 30_000, np.random.default_rng(0))
    flat = normal[:, 2] == 1
    assert flat.mean() == pytest.approx(2 / 3, abs=0.01) and np.array_equal(
        normal[~flat, 1], -np.ones((~flat).sum())
    )
    assert np.allclose(xyz[flat, 2], 0) and (xyz[flat, :2].sum(1) <= 2).all()
    assert np.allclose(xyz[flat].mean(0), [2 / 3, 2 / 3, 0], atol=0.02), "the centroid"


def test_points_of_clouds_and_meshes():
    chance = np.random.default_rng(0)
    cloud = PointCloud(
        np.random.rand(9, 3), label=np.arange(9), strength=np.arange(9), normal=np.ones((9, 3))
    )
    assert drawn(cloud, None, chance) is cloud and drawn(cloud, 9, chance) is cloud
    few = drawn(cloud, 4, chance)
    assert len(few) == 4 and np.array_equal(few.xyz_N3, cloud.xyz_N3[few.label_N])
    mesh = PointCloud(np.eye(3), faces=[[0, 1, 2]])
    assert len(drawn(mesh, 5, chance)) == 5 and len(drawn(mesh, None, chance)) == 4096
    with pytest.raises(DataError, match="no area"):
        drawn(PointCloud(np.zeros((3, 3)), faces=[[0, 1, 2]]), 5, chance)


@pytest.mark.parametrize("name", TEN)
def test_shapes_are_closed_and_their_normals_point_outwards(name):
    xyz, normal = TEN[name](4000, np.random.default_rng(1))
    assert xyz.shape == normal.shape == (4000, 3)
    assert np.allclose(np.linalg.norm(normal, axis=1), 1)
    # Over a closed surface the normals cancel out, and x.n adds up to three times the volume.
    assert np.abs(normal.mean(0)).max() < 0.05
    assert (xyz * normal).sum(1).mean() > 0.05
    if name != "torus":
        assert (((xyz - xyz.mean(0)) * normal).sum(1) > 0).all(), "convex"


def test_shapes_differ_in_proportions_and_turn():
    clouds = [shape_cloud(FOUR["cube"], 32, 0.0, np.random.default_rng(seed)) for seed in range(2)]
    assert not np.allclose(*(cloud.xyz_N3.max(0) for cloud in clouds))


def test_scenes():
    scene = scene_cloud(1000, 0.01, np.random.default_rng(0))
    assert len(scene) == 1000 and (scene.label_N == 0).sum() == 400
    solids = set(np.unique(scene.label_N)) - {0}
    assert solids and solids <= set(range(1, len(CLASSES)))
    assert np.abs(scene.xyz_N3[scene.label_N == 0, 2]).max() < 0.1, "the ground"


@pytest.mark.parametrize(("opened", "data"), [(open_points, "shapes"), (open_scenes, "scenes")])
def test_a_sample_is_a_function_of_index_and_generator(opened, data):
    whole = opened(data)
    for dataset in (
        whole,
        whole.split("train", augment=True),
        whole.split("train", augment=True, fresh=True),
    ):
        one, again, other = (dataset.sample(3, sample_generator(0, e, 3))["cloud"] for e in (0, 0, 1))
        assert torch.equal(one.values, again.values) and torch.equal(
            one.extras["coords"], again.extras["coords"]
        )
        changes = dataset is not whole
        assert (
            one.values.shape != other.values.shape or not torch.equal(one.values, other.values)
        ) == changes


def test_shapes_as_a_data_set():
    shapes = open_points("shapes")
    assert (
        shapes.classes == ("sphere", "cube", "cone", "torus") and len(open_points("shapes-10").classes) == 10
    )
    assert [len(shapes.split(part)) for part in ("train", "validation", "test")] == [1000, 200, 400]
    rows = [set(shapes.splits[part].tolist()) for part in ("train", "validation", "test")]
    assert len(set.union(*rows)) == 1600
    labels = [shapes.split("test").sample(i, torch.Generator())["label"] for i in range(8)]
    assert labels == [0, 1, 2, 3] * 2
    sample = shapes.sample(0, torch.Generator())["cloud"]
    assert sample.values.shape[1] == shapes.channels == 6 and sample.values.dtype == torch.float32
    assert sample.extras["coords"].dtype == torch.int64 and sample.size == 1
    norm = sample.values[:, 3:].norm(dim=1)
    torch.testing.assert_close(norm, torch.ones_like(norm))
    assert open_points("shapes", normals=False).channels == 3
    with pytest.raises(UnknownNameError):
        shapes.split("tests")


def test_scenes_as_a_data_set():
    scenes = open_scenes("scenes", Views(points=300, voxel=0.2, centre=False))
    sample = scenes.sample(0, torch.Generator())
    assert scenes.features == ("xyz", "strength") and sample["cloud"].values.shape[1] == 4
    assert len(sample["label"].values) == len(sample["cloud"].values)
    assert sample["label"].values.max() < len(scenes.classes)


@pytest.fixture
def folder(tmp_path):
    """Two classes of meshes, as ModelNet lays them out."""
    for name, height in (("flat", 0.1), ("tall", 3.0)):
        for part, count in (("train", 6), ("test", 2)):
            (tmp_path / name / part).mkdir(parents=True)
            for number in range(count):
                points = f"0 0 0\n1 0 0\n0 1 0\n0 0 {height + 0.01 * number}\n"
                text = f"OFF\n4 4 0\n{points}3 0 2 1\n3 0 1 3\n3 1 2 3\n3 0 3 2\n"
                (tmp_path / name / part / f"{name}_{number}.off").write_text(text)
    return tmp_path


def test_class_folders_of_meshes(folder):
    clouds = open_points(folder, Views(points=64))
    assert clouds.classes == ("flat", "tall") and clouds.features == ("xyz", "normal")
    assert [len(clouds.split(part)) for part in ("train", "validation", "test")] == [10, 2, 4]
    test = {clouds.source.files[row].parent.name for row in clouds.splits["test"]}
    assert test == {"test"}
    same = [clouds.split("test").sample(0, sample_generator(seed, 0, 0))["cloud"].values for seed in (0, 1)]
    assert torch.equal(*same), "the points of a test mesh are the same in every run"


def test_broken_files_are_told_or_left_out(folder):
    (folder / "flat" / "train" / "flat_1.off").write_text("OFF\n9 9 9\n")
    with pytest.raises(DataError, match="flat_1"):
        clouds = open_points(folder)
        for index in range(len(clouds)):
            clouds.sample(index, torch.Generator())
    assert open_points(folder, skip_broken=True).skipped == 1


def test_clouds_that_lack_what_the_first_has(folder):
    (folder / "tall" / "test" / "tall_0.off").write_text("OFF\n2 0 0\n0 0 0\n1 1 1\n")
    clouds = open_points(folder).split("test")
    with pytest.raises(DataError, match="has no normal, which the first cloud has"):
        for index in range(len(clouds)):
            clouds.sample(index, torch.Generator())


def test_a_cloud_of_one_point(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(3):
            np.save(tmp_path / name / f"{number}.npy", np.full((1, 3), -7.0))
    for dataset in (open_points(tmp_path), open_points(tmp_path).split("train", augment=True)):
        cloud = dataset.sample(0, torch.Generator())["cloud"]
        assert cloud.values.shape == (1, 3) and cloud.extras["coords"].tolist() == [[0, 0, 0]]


def test_scene_folders(tmp_path):
    chance = np.random.default_rng(0)
    for part, count in (("train", 5), ("test", 2)):
        (tmp_path / part).mkdir()
        for number in range(count):
            np.savez(
                tmp_path / part / f"{number}.npz",
                xyz=chance.random((30, 3)),
                label=chance.integers(-1, 3, 30),
            )
    scenes = open_scenes(tmp_path)
    assert scenes.classes == ("0", "1", "2") and [len(s) for s in scenes.splits.values()] == [4, 1, 2]
    (tmp_path / "classes.txt").write_text("road\ncar\ntree\npole\n")
    assert open_scenes(tmp_path).classes == ("road", "car", "tree", "pole")
    np.savez(tmp_path / "test" / "0.npz", xyz=np.zeros((1, 3)), label=[4])
    with pytest.raises(DataError, match="has the class 4; expected 0 to 3"):
        open_scenes(tmp_path).split("test").sample(0, torch.Generator())
    np.savez(tmp_path / "train" / "0.npz", xyz=np.zeros((1, 3)))
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(DataError, match="no class for each point"):
        open_scenes(tmp_path)


def test_wrong_data_are_refused(tmp_path):
    with pytest.raises(DataError, match="did you mean shapes"):
        open_points("shape")
    with pytest.raises(DataError, match="no such folder"):
        open_scenes("scene")
    with pytest.raises(DataError, match="no class folders"):
        open_points(tmp_path)
    with pytest.raises(DataError, match="holds no scenes"):
        open_scenes(tmp_path)
    (tmp_path / "only").mkdir()
    np.save(tmp_path / "only" / "a.npy", np.zeros((1, 3)))
    with pytest.raises(DataError, match="one class only"):
        open_points(tmp_path)
    for views in ({"voxel": 0.0}, {"points": 0}, {"scale": 1.0}, {"shift": -1.0}):
        with pytest.raises(ConfigError):
            Views(**views)
