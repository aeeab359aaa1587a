"""Where each data set's files officially are, and how to know them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fewlabel.data.archives import content_digest, file_digest
from fewlabel.errors import UserError


@dataclass(frozen=True)
class Source:
    """One file to download.

    Attributes:
        name: the official file name.
        url: the official address.
        digest: of an archive the content digest of the members that ``counted`` matches (see `archives`), of a plain
            file (``counted`` empty) the sha256 of its bytes; or the beginning of either.
        counted: regular expression of the member paths that count.
        md5: of the official file's bytes, where it is published.
        folder: the folder of a mirror that holds the file, when it is not the top.
        also: other names that a mirror may have it under.
    """

    name: str
    url: str
    digest: str
    counted: str = ""
    md5: str | None = None
    folder: str = ""
    also: tuple[str, ...] = ()

    def verify(self, path: Path, official: bool = False) -> None:
        """Raise `UserError` when the file at ``path`` is not this one; ``official``: its md5 must be right too."""
        if official and self.md5 and file_digest(path, "md5") != self.md5:
            raise UserError(f"{path}: not the official file, or damaged: its md5 is not {self.md5}")
        found = content_digest(path, self.counted) if self.counted else file_digest(path)
        if not found.startswith(self.digest):
            raise UserError(f"{path}: wrong or damaged content: its digest is {found[:16]}, not {self.digest[:16]}")


_LAKE = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
_VINYALS = "https://raw.githubusercontent.com/jakesnell/prototypical-networks/master/data/omniglot/splits/vinyals/"
_VINYALS_DIGESTS = {
    "train": "984522c194c30fb678ce53304a160a42faf5403ad4f9a67010f32dd3a35738e0",
    "val": "11f99e54faee3e26f53d3231c1cceac5bf7b8730e9be31cb6dab256551dc0c1a",
    "test": "845264cc5c156180828ccf17915668b17ee21424d0170df6e7d81676aa5d1204",
}

SOURCES: dict[str, tuple[Source, ...]] = {
    "omniglot": (
        Source(
            name="images_background.zip",
            url=_LAKE + "images_background.zip",
            md5="68d2efa1b9178cc56df9314c21c6e718",
            digest="7c563fb7d98dbd312c5e0ccb87230ca9d7e8a13d672e5de6186245e7905ed43e",
            counted=r"images_background/.+\.png",
        ),
        Source(
            name="images_evaluation.zip",
            url=_LAKE + "images_evaluation.zip",
            md5="6b91aef0f799c5bb55b94e3f2daec811",
            digest="e5a69b751aa33f555bdc92febd48220b69a811b2ff01de32bf4d1bca47bd1809",
            counted=r"images_evaluation/.+\.png",
        ),
        *(
            Source(f"{name}.txt", f"{_VINYALS}{name}.txt", digest, folder="vinyals_splits")
            for name, digest in _VINYALS_DIGESTS.items()
        ),
        Source(
            name="all_runs.zip",
            url=_LAKE + "one-shot-classification/all_runs.zip",
            digest="437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325",
        ),
    ),
    "cifar10": (
        Source(
            name="cifar-10-binary.tar.gz",
            url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            md5="c32a1d4ab5d03f1284b67883e8d87530",
            digest="18f7d3fbad1c4630f799b7d9bb34b171c8f0285556f1373e187052cc967642d0",
            counted=r"cifar-10-batches-bin/[^/]+\.bin",
            also=("cifar-10-binary.tar.xz",),
        ),
    ),
    "hymenoptera": (
        Source(
            name="hymenoptera_data.zip",
            url="https://download.pytorch.org/tutorial/hymenoptera_data.zip",
            digest="748cc68f0a29690ae2aae4f27d3d7f52acc2cd797f905c98be4057b0eb5a5130",
            counted=r"hymenoptera_data/(train|val)/.+",
        ),
    ),
}
