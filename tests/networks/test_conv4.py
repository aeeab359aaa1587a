import pytest
import torch
from torch.testing import assert_close

from fewlabel.networks.conv4 import Conv4
from fewlabel.params import Network
from tests.conftest import a_network


@pytest.mark.parametrize("downsample", ["stride", "pool"])
@pytest.mark.parametrize("size", [2, 9])  # in parts of so many queries, the last one smaller, or all at once
def test_a_gpus_way_to_one_query_at_a_time_gives_what_a_cpus_does(downsample: str, size: int) -> None:
    torch.manual_seed(0)
    conv4 = Conv4(Network(**a_network(3, downsample)), outputs=4, running_statistics=False).double()
    for norm in conv4.norms:
        torch.nn.init.uniform_(norm.weight, 0.5, 2.0)
        torch.nn.init.normal_(norm.bias)
    support, queries = (torch.rand(n, 1, 28, 28, dtype=torch.float64) for n in (6, 7))
    ways = (conv4._one_at_a_time_mapped, conv4._one_at_a_time_by_parts)
    mapped, parts = (way(conv4.weights(), support, queries, size) for way in ways)
    assert_close(mapped, parts)
    with torch.no_grad():
        alone = torch.stack([conv4.features_of(torch.cat([support, query[None]]))[-1] for query in queries])
    assert_close(mapped, alone)


def test_other_widths_load_only_their_own_weights() -> None:
    narrow, wide = (Conv4(Network(widths=widths, downsample="pool")) for widths in ([2, 3, 4, 5], [2, 3, 4, 6]))
    assert (narrow.features, wide.features) == (5, 6)
    with pytest.raises(RuntimeError, match="size mismatch"):
        wide.load_state_dict(narrow.state_dict())
