"""Fashion-MNIST: 60,000 + 10,000 grey pictures of 28 x 28, ten kinds of clothes; the official test pictures stay the test split.

Source: Xiao, Rasul & Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms" (2017).
https://arxiv.org/abs/1708.07747 (data: MIT, (c) 2017 Zalando SE). Files are downloaded once and checked by MD5.
"""

import gzip
import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

from fallline._core.errors import FalllineError
from fallline._core.files import make_folder, told, write_bytes
from fallline.data.raw import Raw
from fallline.data.sources.place import VARIABLE, cache_folder, find, places

CHECKSUMS = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
MIRRORS = (
    "https://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
)
NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_FOLDER = "fashion-mnist"
_TIMEOUT = 30.0


def read_fashion_mnist(folder: "str | os.PathLike[str] | None", mirrors: tuple[str, ...] = MIRRORS) -> Raw:
    """All 70,000 pictures, uint8 of shape (70000, 1, 28, 28), with the official split."""
    place = find(_FOLDER, tuple(CHECKSUMS), folder)
    notes = []
    if place is None:
        place = (Path(folder) if folder is not None else cache_folder()) / _FOLDER
        looked = ", ".join(f"'{p / _FOLDER}'" for p in places(folder))
        download(place, mirrors, looked)
        notes.append(f"Fashion-MNIST was downloaded to '{place}'")
    parts = [read_idx(place / name, checksum) for name, checksum in CHECKSUMS.items()]
    pictures, labels = np.concatenate([parts[0], parts[2]])[:, None], np.concatenate([parts[1], parts[3]]).astype(np.int64)
    n = len(parts[0])
    notes.append("the 10,000 official test pictures are the test split")
    return Raw(
        "fashion_mnist",
        "pictures",
        pictures,
        labels,
        target="article",
        class_names=dict(enumerate(NAMES)),
        assigned={"train": np.arange(n), "test": np.arange(n, len(pictures))},
        notes=notes,
        recipe="fashion_mnist",
    )


def download(place: Path, mirrors: tuple[str, ...], looked: str) -> None:
    """Fetch the four files into `place`; each is written only when its MD5 is right.

    Raises:
        FalllineError: no mirror gave a good copy of a file.
    """
    make_folder(place)
    for name, checksum in CHECKSUMS.items():
        if (place / name).is_file() and hashlib.md5((place / name).read_bytes(), usedforsecurity=False).hexdigest() == checksum:
            continue
        failures = []
        for mirror in mirrors:
            try:
                with urllib.request.urlopen(mirror + name, timeout=_TIMEOUT) as answer:
                    content = answer.read()
            except (urllib.error.URLError, OSError, ValueError) as error:
                failures.append(f"{mirror}: {getattr(error, 'reason', error)}")
                continue
            if hashlib.md5(content, usedforsecurity=False).hexdigest() == checksum:
                write_bytes(place / name, content)
                break
            failures.append(f"{mirror}: wrong checksum")
        else:
            raise FalllineError(
                f"Fashion-MNIST was not found in {looked}, and {name} could not be downloaded ({'; '.join(failures)}); "
                f"name a folder that has the four files with folder= or the environment variable {VARIABLE}."
            )


def read_idx(path: Path, checksum: str) -> np.ndarray:
    """One idx file, gzipped, as uint8 of the shape that its header tells.

    Raises:
        FalllineError: the file is not the published one.
    """
    with told("read", path):
        packed = path.read_bytes()
    if hashlib.md5(packed, usedforsecurity=False).hexdigest() != checksum:
        raise FalllineError(f"'{path}' is damaged: its MD5 is not {checksum}; delete it, and it is downloaded again.")
    content = gzip.decompress(packed)
    axes = content[3]
    shape = np.frombuffer(content, ">i4", axes, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
