import pytest
import torch

from fewlabel import device

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "expected"), [("fpu avx512f avx512_bf16 sse", "bf16"), ("fpu avx512f sse", "fp32"), ("", "fp32")]
)
def test_half_precision_where_the_processor_has_it(monkeypatch, flags: str, expected: str) -> None:
    monkeypatch.setattr(device, "_cpuinfo", lambda key: flags)
    device._multiplies_bfloat16.cache_clear()
    try:
        assert device.precision(device.pick("cpu")) == expected
        assert device.precision(device.pick("cpu", "fp32")) == "fp32"
    finally:
        device._multiplies_bfloat16.cache_clear()
        device.pick("cpu")


def test_the_block_says_the_type_of_products(monkeypatch) -> None:
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        monkeypatch.setattr(device, "precision", lambda _, name=name: name)
        with device.autocast(CPU):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
