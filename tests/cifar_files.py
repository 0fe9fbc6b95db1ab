"""Tiny CIFAR files in their official format, for tests of reading and of downloading them."""

import hashlib
import pickle

import torch
import torchvision


def random_images(number, seed):
    """[number, 3 * 32 * 32] bytes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (number, 3 * 32 * 32), generator=generator, dtype=torch.uint8).numpy()


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def make_cifar(root, number, monkeypatch):
    """Tiny CIFAR batches in their official format, whose MD5 sums torchvision is told of."""
    make = {10: torchvision.datasets.CIFAR10, 100: torchvision.datasets.CIFAR100}[number]
    folder = root / make.base_folder
    folder.mkdir(parents=True)
    names = [f"class {i}" for i in range(number)]
    meta = {"label_names" if number == 10 else "fine_label_names": names}
    (folder / make.meta["filename"]).write_bytes(pickle.dumps(meta))
    monkeypatch.setattr(make, "meta", make.meta | {"md5": md5(folder / make.meta["filename"])})
    key = "labels" if number == 10 else "fine_labels"
    for kind in ("train_list", "test_list"):
        files = []
        for seed, (name, _) in enumerate(getattr(make, kind)):
            pixels = random_images(4, seed)
            batch = {"data": pixels, key: [seed, 1, 2, number - 1]}
            (folder / name).write_bytes(pickle.dumps(batch))
            files.append([name, md5(folder / name)])
        monkeypatch.setattr(make, kind, files)
    return folder
