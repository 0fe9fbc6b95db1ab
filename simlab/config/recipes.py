"""Complete published configurations, for `simlab pretrain --recipe NAME` and `make_config`."""

from typing import Any

_CIFAR = {
    "data": "cifar10",
    "encoder": "resnet18",
    "augment": "simsiam-cifar",
    "view_size": 32,
    "epochs": 800,
    "batch_size": 512,
    "lr": 0.03,
    "weight_decay": 5e-4,
    "monitor_every": 10,
}
RECIPES: dict[str, dict[str, Any]] = {
    # SimSiam, appendix D
    "cifar-paper": _CIFAR
    | {"method": "simsiam proj_layers=2 proj_dim=2048 pred_dim=512 pred_lr=1"},
    # the same with SimCLR's loss and a smaller head
    "cifar-simclr": _CIFAR | {"method": "simclr proj_layers=2 proj_dim=512"},
    # SimSiam, section 4: a folder of ImageNet's images is `--data PATH`
    "imagenet-paper": _CIFAR
    | {
        "data": "imagenet",
        "image_size": 256,
        "encoder": "resnet50",
        "augment": "simsiam-imagenet",
        "view_size": 224,
        "epochs": 100,
        "lr": 0.05,
        "weight_decay": 1e-4,
        "method": "simsiam proj_layers=3 proj_dim=2048 pred_dim=512 pred_lr=1",
    },
}
