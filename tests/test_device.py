import torch

from fewlabel import device

CPU = torch.device("cpu")


def test_a_cpu_computes_in_full() -> None:
    assert device.precision(device.pick("cpu")) == "fp32"


def test_the_block_says_the_type_of_products(monkeypatch) -> None:
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        monkeypatch.setattr(device, "precision", lambda _, name=name: name)
        with device.autocast(CPU):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
