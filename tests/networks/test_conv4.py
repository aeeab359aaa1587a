import pytest
import torch
from torch.testing import assert_close

from fewlabel.networks.conv4 import Conv4


@pytest.mark.parametrize("downsample", ["stride", "pool"])
@pytest.mark.parametrize("size", [2, 9])  # in parts of so many queries, the last one smaller, or all at once
def test_a_gpus_way_to_one_query_at_a_time_gives_what_a_cpus_does(downsample: str, size: int) -> None:
    torch.manual_seed(0)
    network = Conv4(3, downsample, outputs=4, running_statistics=False).double()
    for norm in network.norms:
        torch.nn.init.uniform_(norm.weight, 0.5, 2.0)
        torch.nn.init.normal_(norm.bias)
    support, queries = (torch.rand(n, 1, 28, 28, dtype=torch.float64) for n in (6, 7))
    ways = (network._one_at_a_time_mapped, network._one_at_a_time_by_parts)
    mapped, parts = (way(network.weights(), support, queries, size) for way in ways)
    assert_close(mapped, parts)
    with torch.no_grad():
        alone = torch.stack([network.features_of(torch.cat([support, query[None]]))[-1] for query in queries])
    assert_close(mapped, alone)
