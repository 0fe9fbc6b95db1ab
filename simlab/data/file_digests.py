"""The content of many files as a digest, read once: later calls read only what was changed.

The digest of each file is cached under its path, size and times of change. The cache lies beside
the downloads; where it can't be written, all files are read each time.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm.auto import tqdm

from .downloads import download_folder

THREADS = 4
SLOW = 2.0  # seconds after which a bar is shown, and the time is said
# a file that was changed this shortly ago may change again within the clock's resolution
SETTLED = 2 * 10**9  # nanoseconds

Entry = list[int | str]  # size, times of change of content and of inode, digest


def file_digests(paths: Sequence[Path]) -> list[str]:
    """Return the SHA-256 of each file's content, as hexadecimal digits.

    The first call says how long it took, where it took long.
    """
    start = time.monotonic()
    files = [os.path.abspath(path) for path in paths]
    cache_path = _cache_path(files)
    cache = _read_cache(cache_path)
    stamps = [_stamp(file) for file in files]
    changed = []
    for file, stamp in zip(files, stamps, strict=True):
        if cache.get(file, [])[:-1] != stamp:
            changed.append(file)
    new = dict(zip(changed, _read(changed), strict=True))
    digests = [new.get(file) or str(cache[file][-1]) for file in files]
    if new:
        now = time.time_ns()
        entries: dict[str, Entry] = {}
        for file, stamp, digest in zip(files, stamps, digests, strict=True):
            if now - max(stamp[1:]) > SETTLED:
                entries[file] = [*stamp, digest]
        _write_cache(cache_path, entries)
    seconds = time.monotonic() - start
    if new and seconds > SLOW:
        print(f"read {len(new)} images for their digest, once, in {seconds:.0f} s", flush=True)
    return digests


def _stamp(file: str) -> list[int]:
    """What changes with a file's content: its size, and the times in nanoseconds."""
    status = os.stat(file)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _read(files: list[str]) -> list[str]:
    """The digests of files, by threads, with a bar where it takes long."""
    bar = tqdm(total=len(files), desc="digest", unit=" images", delay=SLOW, leave=False)
    digests = []
    with ThreadPoolExecutor(THREADS) as pool, bar:
        for digest in pool.map(_digest_of_file, files):
            digests.append(digest)
            bar.update()
    return digests


def _digest_of_file(file: str) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


# ------------------------------------------------------------------------------------- the cache


def _cache_path(files: list[str]) -> Path:
    folders = sorted({os.path.dirname(file) for file in files})
    name = hashlib.sha256("\n".join(folders).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return download_folder() / "digests" / f"{name}.json"


def _read_cache(path: Path) -> dict[str, Entry]:
    try:
        cache = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return cache if isinstance(cache, dict) else {}


def _write_cache(path: Path, entries: dict[str, Entry]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(entries), encoding="utf-8")
        os.replace(temporary, path)
    except OSError:  # a cache is worth no error
        return
