"""Point clouds: files, generators of shapes and scenes, voxels and data sets."""

from neuromix.data.points.dataset import PointDataset, Views, open_points, open_scenes
from neuromix.data.points.formats import read_points
from neuromix.data.points.value import PointCloud
from neuromix.data.points.voxels import centred, voxelise

__all__ = [
    "PointCloud",
    "PointDataset",
    "Views",
    "centred",
    "open_points",
    "open_scenes",
    "read_points",
    "voxelise",
]
