"""Images for a command line, and what it would train with."""

import numpy as np
from PIL import Image

from simlab import train
from simlab.cli import main


def save_images(folder, seed=0, number=10):
    """Two classes of `number` random images each."""
    generator = np.random.default_rng(seed)
    for name in ("ant", "bee"):
        (folder / name).mkdir(parents=True)
        for i in range(number):
            image = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / name / f"{i}.png")


def trained_with(monkeypatch, *words):
    """The configuration and options that the command line would train with."""
    arguments = {}

    def spy(config, **options):
        arguments.update(config=config, **options)
        raise ValueError("enough")

    monkeypatch.setattr(train, "pretrain", spy)
    assert main(["pretrain", *words]) == 2
    return arguments
