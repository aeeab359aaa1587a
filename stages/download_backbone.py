"""Put the ImageNet weights of ``transfer.backbone`` into ``data/raw/backbone``, from an installed package, a mirror
folder or the official address."""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from fewlabel import params as parameters
from fewlabel import tracking
from fewlabel.data import archives, download
from fewlabel.data.sources import Source
from fewlabel.networks import backbones
from fewlabel.results import whole_folder, write_json
from fewlabel.stage import launch

OUT = Path("data/raw/backbone")


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    params = parameters.load()
    name = params.transfer.backbone
    with tracking.start("download_backbone", {"backbone": name}), whole_folder(OUT) as folder:
        weights = folder / "weights.pth"
        if packaged := backbones.packaged_weights(name):
            shutil.copyfile(packaged, weights)
            source = "package"
        else:
            url = backbones.weights_url(name)
            file = PurePosixPath(urlsplit(url).path).name  # as resnet18-f37072fd.pth, with the beginning of its sha256
            digest = re.search(r"-([0-9a-f]{8,})\.", file)
            wanted = Source(file, url, digest[1] if digest else "")
            way_out = f"set transfer.backbone={backbones.LITE0}, whose weights come with a package"
            source, path = download.obtain(wanted, folder, download.mirror_folder(params.data.mirror), way_out)
            path.rename(weights)
        facts = {"backbone": name, "source": source, "sha256": archives.file_digest(weights)}
        write_json(folder / "source.json", facts)
    print(f"{name}: ImageNet weights, {facts['sha256'][:16]}, source {source}")


if __name__ == "__main__":
    launch(main)
