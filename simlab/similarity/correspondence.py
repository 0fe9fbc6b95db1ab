"""Whether several streams show the same samples in the same order."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import RandomSampler

MAX_HASHES = 2**16  # samples that are remembered to notice a different order
SWITCH = "; check_order=False switches this check off"


class OrderCheck:
    """Checks batch by batch that several streams show the same samples in the same order.

    Equal labels and equal images prove it. Images that stand in another place in another stream
    disprove it; those that occur more than once prove nothing.
    """

    def __init__(self, sources: Sequence[Iterable[Any]]) -> None:
        self.shuffled = any(
            isinstance(getattr(source, "sampler", None), RandomSampler) for source in sources
        )
        self.all_labelled = True  # until one batch is not
        self.all_identical = True  # the images
        self.classes: set[float] = set()
        self.counts = [Counter[int]() for _ in sources]  # of the images' hashes, by stream
        self.places: dict[int, tuple[int, int]] = {}  # {hash: batch and sample}, where they differ
        self.seen = 0  # samples

    @property
    def verdict(self) -> str:
        """What proves it, in words."""
        proofs = []
        if self.all_labelled and len(self.classes) > 1:  # labels that are all equal prove nothing
            proofs.append("labels")
        if self.all_identical:
            proofs.append("images")
        return "checked by " + " and ".join(proofs) if proofs else "unchecked"

    def add(self, images: Sequence[Tensor], labels: Sequence[Tensor | None], index: int) -> None:
        """Look at one batch of every stream.

        Args:
            images: [n, ...] of each stream.
            labels: [n] of each stream, or None.
            index: of the batch.

        Raises:
            ValueError: the labels differ, or the loaders shuffle and nothing can be proven.
        """
        self._compare_labels(labels, index)
        if self.seen < MAX_HASHES:
            self._compare_images(images, index)
        if self.shuffled and self.verdict == "unchecked":
            self.finish()  # which may know more
            raise ValueError(
                "the loaders shuffle, and neither labels nor images show that they "
                f"do it alike: use shuffle=False, or one loader for all models{SWITCH}"
            )

    def finish(self) -> None:
        """Judge the order by all images, after the last batch.

        Raises:
            ValueError: an image stands elsewhere in another stream.
        """
        moved = []
        for code, place in self.places.items():
            if all(count[code] == 1 for count in self.counts):
                moved.append(place)
        if len(moved) > 1:  # a single one may look like another by chance
            batch, sample = moved[0]
            raise ValueError(
                f"batch {batch}: sample {sample} of one loader stands elsewhere in another, as do "
                f"{len(moved) - 1} more: they are shuffled differently{SWITCH}"
            )

    def _compare_labels(self, labels: Sequence[Tensor | None], index: int) -> None:
        given = [stream.cpu() for stream in labels if stream is not None]
        self.all_labelled &= len(given) == len(labels)
        if not self.all_labelled:
            return
        first = given[0]
        self.classes.update(first.tolist())
        different = max(int((stream != first).sum()) for stream in given)
        if different:
            raise ValueError(
                f"batch {index}: the loaders disagree on {different} of {len(first)} "
                f"labels: are they shuffled differently?{SWITCH}"
            )

    def _compare_images(self, images: Sequence[Tensor], index: int) -> None:
        codes = [_hashes(x) for x in images]
        self.seen += len(codes[0])
        for count, of_stream in zip(self.counts, codes, strict=True):
            count.update(of_stream)
        for other in codes[1:]:
            self.all_identical &= other == codes[0]
            for sample, (code, expected) in enumerate(zip(other, codes[0], strict=True)):
                if code != expected:
                    self.places[code] = index, sample


def _hashes(images: Tensor) -> list[int]:
    return [hash(image.tobytes()) for image in images.float().cpu().numpy()]
