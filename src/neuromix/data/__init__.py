"""Data: batches, the resumable loader, image data sets and augmentation."""

from neuromix.core.batch import Batch, Ragged, collate
from neuromix.data.dataset import Dataset, Loader, Sample, sample_generator
from neuromix.data.images import ImageDataset, open_images

__all__ = [
    "Batch",
    "Dataset",
    "ImageDataset",
    "Loader",
    "Ragged",
    "Sample",
    "collate",
    "open_images",
    "sample_generator",
]
