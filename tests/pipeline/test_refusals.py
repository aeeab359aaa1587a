"""A person's mistake gets one clear line and a non-zero exit, and leaves nothing half-written."""

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.pipeline


def refused(done, *words: str) -> None:
    """One line on stderr, holding the words; exit code 2."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    for word in words:
        assert word in done.stderr


def nothing_in(folder: Path) -> None:
    assert not folder.exists() or not any(folder.rglob("*"))


def test_an_unknown_parameter(clone) -> None:
    clone.set(**{"  learn_inner_lr: true    #": "  learn_inner_lrr: true    #"})
    refused(clone.stage("stages.download", "omniglot", ok=False), "maml.learn_inner_lrr", "maml.learn_inner_lr")
    nothing_in(clone.folder / "data" / "raw")


def test_cuda_on_a_machine_without(clone) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    clone.set(**{"device: auto": "device: cuda"})
    arguments = ("maml", "lake", "--task", "5w1s", "--seed", "0")
    refused(clone.stage("stages.meta_train", *arguments, ok=False), "device = 'cuda'", "device: auto")
    nothing_in(clone.folder / "results")


def test_a_cell_that_does_not_exist(clone) -> None:
    for arguments, told in (
        (("prototypes", "lake", "--seed", "-1"), "argument --seed: invalid seed value: '-1'"),
        (("prototypes", "lake", "--seed", str(2**31)), "argument --seed: invalid seed value"),
        (("maml", "lake", "--task", "1" * 30 + "w1s"), "no task; one is written like 5w1s"),
    ):
        done = clone.stage("stages.evaluate", *arguments, ok=False)
        assert done.returncode == 2
        assert told in done.stderr.splitlines()[-1]
    nothing_in(clone.folder / "results")


def test_a_way_larger_than_the_classes_there_are(clone) -> None:
    clone.stage("stages.download", "omniglot")
    clone.stage("stages.prepare", "omniglot")
    clone.set(**{"[5w1s, 5w5s, 10w5s, 20w1s, 20w5s, all-5s]": "[5w1s, 5w5s, 900w1s]"})
    refused(clone.stage("stages.episodes", "lake", ok=False), "test task 900w1s of lake", "900-way")
    clone.set(**{"900w1s": "5w1s1q-upright"})
    refused(clone.stage("stages.episodes", "lake", ok=False), "all of its test classes are upright")
    nothing_in(clone.folder / "data" / "episodes")


def test_no_archive_anywhere(clone) -> None:
    clone.set(**{"source: embedded": "source: official"})
    done = clone.run(
        ["python", "-m", "stages.download", "hymenoptera"],
        ok=False,
        FEWLABEL_TRACKING="off",
        FEWLABEL_MIRROR=str(clone.folder / "nowhere"),
        HTTPS_PROXY="http://127.0.0.1:9",
        HTTP_PROXY="http://127.0.0.1:9",
    )
    refused(done, "hymenoptera_data.zip", "FEWLABEL_MIRROR", "embedded")
    nothing_in(clone.folder / "data" / "raw")


def test_a_truncated_archive(clone, mirror) -> None:
    whole = (mirror / "images_evaluation.zip").read_bytes()
    broken = clone.folder / "mirror"
    broken.mkdir()
    (broken / "images_background.zip").write_bytes(whole[: len(whole) // 2])
    clone.set(**{"source: embedded": "source: official"})
    done = clone.run(
        ["python", "-m", "stages.download", "omniglot"],
        ok=False,
        FEWLABEL_TRACKING="off",
        FEWLABEL_MIRROR=str(broken),
        HTTPS_PROXY="http://127.0.0.1:9",
    )
    refused(done, "images_background.zip")
    nothing_in(clone.folder / "data" / "raw")


def test_a_corrupt_image(clone) -> None:
    clone.stage("stages.download", "hymenoptera")
    archive = clone.folder / "data" / "raw" / "hymenoptera" / "hymenoptera_data.zip"
    with zipfile.ZipFile(archive) as old:
        members = {name: old.read(name) for name in old.namelist()}
    victim = next(name for name in members if name.endswith(".jpg"))
    members[victim] = members[victim][:200]
    with zipfile.ZipFile(archive, "w") as new:
        for name, content in members.items():
            new.writestr(name, content)
    refused(clone.stage("stages.prepare", "hymenoptera", ok=False), archive.name, "not what source.json says")
    source = archive.with_name("source.json")  # an archive that was so when it came
    told = json.loads(source.read_text())
    told["files"][archive.name]["sha256"] = hashlib.sha256(archive.read_bytes()).hexdigest()
    source.write_text(json.dumps(told))
    refused(clone.stage("stages.prepare", "hymenoptera", ok=False), Path(victim).name)
    nothing_in(clone.folder / "data" / "prepared")
