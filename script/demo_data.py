"""Write scikit-learn's digits (real 8x8 scans) as class folders: a source and a target task.

usage: python script/demo_data.py OUT

OUT/source/{train,val}/{0..4} is an ImageNet layout for pre-training and IMP, and
OUT/target/{train,test}/{5..9} a folder data set for transfer. A fifth of each class is held out.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

TASKS = {"source": (range(5), "val"), "target": (range(5, 10), "test")}


def main(out: Path) -> None:
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    for task, (classes, held_out) in TASKS.items():
        for label in classes:
            indices = np.flatnonzero(digits.target == label)
            train = len(indices) - len(indices) // 5
            for split, part in (("train", indices[:train]), (held_out, indices[train:])):
                folder = out / task / split / str(label)
                folder.mkdir(parents=True, exist_ok=True)
                for index in part:
                    write(folder / f"{index:04d}.png", images[index])


def write(path: Path, image: np.ndarray) -> None:
    """Write an image, whole or not at all, unless it is there: a run may be reading it."""
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        Image.fromarray(image).save(temporary, format="png")
        temporary.replace(path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python script/demo_data.py OUT")
    main(Path(sys.argv[1]))
