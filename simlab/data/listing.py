"""Which image files are below a folder: a tree, and what was left out of it."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .notes import Notes, count

ENDINGS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
# what lies beside images without being one; it is counted, but nobody is warned of it
TEXT_ENDINGS = frozenset(
    {".txt", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".md", ".html", ".pdf", ".log"}
    | {".py", ".ipynb", ".sh", ".toml", ".ini", ".db"}
)
BROKEN_LINK = "broken link"
CYCLE = "link to a folder above it"

Identity = tuple[int, int]  # of a folder, by whatever name: device and inode


@dataclass
class Folder:
    """A folder that holds images, and the folders in it that do.

    Attributes:
        path: where it is.
        files: names of the images right in it.
        folders: the folders right in it with images at any depth, by their names.
        left_out: how many files and links below it are not taken, by their kind.
    """

    path: Path
    files: list[str] = field(default_factory=list)
    folders: dict[str, "Folder"] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def images(self) -> Iterator[Path]:
        """Every image in it at any depth, in the order of their names."""
        for name in sorted([*self.files, *self.folders]):
            if name in self.folders:
                yield from self.folders[name].images()
            else:
                yield self.path / name

    def __len__(self) -> int:
        return len(self.files) + sum(map(len, self.folders.values()))


def list_images(root: Path) -> Folder:
    """The images below `root`. Links are followed, and cut where they lead back up.

    Hidden files and folders are not the user's images but some program's, and are passed over.

    Raises:
        FileNotFoundError: where there is no such folder, or no image in it.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    folder = _list_folder(root, frozenset())
    if not len(folder):
        seen = f": {left_out_text(folder.left_out)}" if folder.left_out else ""
        raise FileNotFoundError(
            f"{root} holds no images ({', '.join(sorted(ENDINGS))}){seen}; "
            "expected them in it, or in one folder for each class"
        )
    return folder


def image_paths(root: Path) -> list[Path]:
    """The image files below `root`, as `list_images` has them, in the order of their names."""
    return list(list_images(root).images())


def note_left_out(folder: Folder, notes: Notes) -> None:
    """Say what is below the folder and is not taken; warn unless it is text alone."""
    if not folder.left_out:
        return
    text = f"{folder.path}: {left_out_text(folder.left_out)}"
    if set(folder.left_out) <= TEXT_ENDINGS:
        notes.say(text)
    else:
        notes.warn(text)


def left_out_text(left_out: Counter[str]) -> str:
    """Such as "15 files left out: 10 .avif, 5 .heic"."""
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in left_out.most_common())
    return f"{count(left_out.total(), 'file')} left out: {kinds}"


def _list_folder(path: Path, above: frozenset[Identity]) -> Folder:
    """The tree below `path`, which lies in the folders `above`."""
    folder = Folder(path)
    status = os.stat(path)
    here = above | {(status.st_dev, status.st_ino)}
    with os.scandir(path) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in visible:
        kind = _kind(entry, here)
        if kind == "folder":
            inner = _list_folder(path / entry.name, here)
            folder.left_out += inner.left_out
            if len(inner):
                folder.folders[entry.name] = inner
        elif kind == "image":
            folder.files.append(entry.name)
        else:
            folder.left_out[kind] += 1
    return folder


def _kind(entry: os.DirEntry[str], above: frozenset[Identity]) -> str:
    """folder, image, or as what an entry is left out: its ending, or a link that leads nowhere."""
    try:
        if entry.is_dir():
            status = entry.stat() if entry.is_symlink() else None
            is_cycle = status is not None and (status.st_dev, status.st_ino) in above
            return CYCLE if is_cycle else "folder"
        if not entry.is_file():
            return BROKEN_LINK if entry.is_symlink() else "special file"
    except OSError:  # a link to itself
        return BROKEN_LINK
    ending = os.path.splitext(entry.name)[1].lower()
    if ending in ENDINGS:
        return "image"
    return ending or "without an ending"
