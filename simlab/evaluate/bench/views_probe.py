"""The papers' linear probe: the encoder is frozen, every image is cropped and flipped anew.

SGD with momentum 0.9, learning rate 30 for a batch of 256, no weight decay, a cosine over 90
epochs; the accuracy after the last one, on clean images (SimSiam, arXiv 2011.10566, appendix A,
after MoCo, arXiv 1911.05722, section 4.1; SimSiam's own table has LARS instead, which gave a point
more). Nothing is chosen, so no image is held out.
"""

import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from simlab.augment import parse_augment, view
from simlab.data import Dataset
from simlab.evaluate import Features, SGDProbe, counted
from simlab.evaluate.labels import fraction_right

from .frozen import Row
from .inputs import Prepared, unchanged
from .settings import Settings


def measure_sgd_probe(
    module: Prepared,
    data: Dataset,
    clean: Features,
    seed: int,
    settings: Settings,
    progress: bool = True,
) -> Row:
    """Train a linear classifier on views of the training images, and test it on clean ones.

    Args:
        module: The encoder behind its preprocessing; it stays in evaluation mode.
        data: The images.
        clean: Their features.
        seed: Of the classifier's weights, the order and the views.
        settings: Epochs, crop and flip.
        progress: Show a bar.
    """
    images = counted(data.train.labels, data.test.labels, data.classes)
    classes, target = data.train.labels[images.train].unique(return_inverse=True)
    train = unchanged(data).train
    generator = torch.Generator().manual_seed(seed)
    layer = _zero_mean_layer(clean.train.shape[1], len(classes), generator).to(train.device)
    n = len(images.train)
    batch_size = min(SGDProbe.BATCH_SIZE, n)
    steps = n // batch_size  # images that do not fill a batch wait for another epoch
    rate = SGDProbe.LEARNING_RATE * batch_size / SGDProbe.BATCH_SIZE
    optimizer = torch.optim.SGD(layer.parameters(), lr=rate, momentum=0.9)
    total = settings.probe_epochs * steps
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)

    recipe = parse_augment(settings.augment)
    draws = torch.Generator(train.device).manual_seed(seed)
    size = module.expects.size
    assert train.normalize is not None
    epochs = tqdm(range(settings.probe_epochs), "sgd-probe", leave=False, disable=not progress)
    for _ in epochs:
        order = torch.randperm(n, generator=generator)[: steps * batch_size]
        index = images.train[order.to(images.train.device)]
        batches = train.batches(index, batch_size)
        for places, (_, batch) in zip(order.split(batch_size), batches, strict=True):
            x = view(batch, recipe, train.normalize, size, draws)  # [B, C, size, size] in 0 .. 1
            with torch.no_grad():
                features = module.of_views(x).float()  # [B, D]
            loss = F.cross_entropy(layer(features), target[places.to(target.device)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    test_labels = data.test.labels[images.test].cpu()
    with torch.no_grad():
        logits = layer(clean.test[images.test.cpu()].to(train.device))
    if not bool(logits.isfinite().all()):
        raise FloatingPointError("sgd-probe diverged: its outputs are NaN or infinite")
    predicted = classes[logits.argmax(1)].cpu()
    return {
        "accuracy": fraction_right(predicted, test_labels),
        "labels": n,
        "tested": len(test_labels),
        "epochs": settings.probe_epochs,
        "rate": SGDProbe.LEARNING_RATE,
    }


def _zero_mean_layer(width: int, classes: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with weights of standard deviation 0.01; the global seed is left alone."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, width, classes)
    nn.init.normal_(layer.weight, std=0.01, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
