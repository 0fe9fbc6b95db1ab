"""What options of other programs are called here; docs/coming_from.md has the tables."""

from collections.abc import Sequence

# {value}: what stood behind the option, in lower case where a name of ours is meant
HERE = {
    "arch": "--method {name}",  # of ahmdtaha/simsiam; elsewhere it is the encoder, see below
    "backbone": "--encoder {name}",
    "model": "--encoder {name}",
    "set": "--data {name}",
    "dataset": "--data {name}",
    "data_dir": "--data {value} for a folder of images, --data-folder {value} for a named dataset",
    "train_data_path": "--data {value}",
    "wd": "--weight-decay {value}",
    "learning_rate": "--lr {value}, which is for 256 images",
    "base_lr": "--lr {value}, which is for 256 images",
    "max_epochs": "--epochs {value}",
    "lr_policy": "--schedule {value}",
    "warmup_length": "--warmup-epochs {value}",
    "emb_dim": '--method "simsiam proj_dim={value}"',
    "proj_hidden_dim": '--method "simsiam proj_dim={value}"',
    "proj_output_dim": '--method "simsiam proj_dim={value}"',
    "test_interval": "--monitor-every {value}",
    "save_every": "--keep-checkpoints {value}; there is a checkpoint after every epoch",
    "print_freq": "--log-every {value}",
    "num_threads": "--threads {value}, or --decoding-threads {value}",
    "num_workers": "--decoding-threads {value}",
    "workers": "--decoding-threads {value}",
    "world_size": "torchrun --nproc_per_node={value} -m simlab ...",
    "gpus": "torchrun --nproc_per_node={value} -m simlab ...",
    "base_gpu": "CUDA_VISIBLE_DEVICES={value},... before the command: the GPUs that it may use",
    "gpu": "--device cuda:{value}",
    "resume": "nothing: the same command resumes its run; --continue RUN goes on from another one",
    "pretrained": "--init RUN to fine-tune, simlab probe RUN to evaluate",
    "log_dir": "SIMLAB_RUNS={value} before the command",
}
ENCODERS = ("resnet", "vit", "wide", "swin", "convnext")  # what an encoder's name begins with


def hints(arguments: Sequence[str]) -> list[str]:
    """Say what the options of other programs among a command's words are called here.

    Args:
        arguments: The words behind the command: --name value, or --name=value.

    Returns:
        A line for each option that is known.
    """
    lines = []
    for i, word in enumerate(arguments):
        if not word.startswith("--"):
            continue
        option, has_value, value = word.partition("=")
        if not has_value and i + 1 < len(arguments) and not arguments[i + 1].startswith("-"):
            value = arguments[i + 1]
        meant = _here(option.removeprefix("--").replace("-", "_").lower(), value)
        if meant:
            lines.append(f"{option} is an option of other programs; did you mean {meant}?")
    return lines


def _here(name: str, value: str) -> str:
    """The option of ours, with its value; "" where the name is not known."""
    if name == "arch" and value.lower().startswith(ENCODERS):
        name = "backbone"
    word = value or "VALUE"
    return HERE.get(name, "").format(value=word, name=word.lower() if value else word)
