"""Neighbouring codes read as one: their codewords are added up beforehand, so that a look-up has fewer to add."""

from __future__ import annotations

from torch import Tensor, nn

from mec.quantize.fitting import Codebook
from mec.quantize.packing import gather_codes
from mec.quantize.residual import sum_codewords

MAX_MERGED_BITS = 12  # 4,096 rows of 17 floats are 272 KiB, which a core's second cache holds
_SHARE = 16  # merged codewords take at most this part of the codes' bytes


class MergedCodewords(nn.Module):
    """Codewords of g neighbouring codes, added up for each of their combinations.

    Codes of a value lie side by side in the stream, so g codes of b bits read as one of g b bits: 4x64 is looked up as
    2x4096. Nothing of it is stored; a look-up holds it in memory.

    Args:
        codewords: (M, K, W) float32, those of product codes 0 outside their columns.
        bits: b of a single code.
        group: g, a divisor of M with g b <= ``MAX_MERGED_BITS``.
    """

    codewords: Tensor

    def __init__(self, codewords: Tensor, bits: int, group: int) -> None:
        super().__init__()
        num_codes, num_codewords, width = codewords.shape
        assert num_codes % group == 0
        padded = codewords.new_zeros(num_codes, 1 << bits, width)
        padded[:, :num_codewords] = codewords
        merged = padded[::group]  # (M / g, 2^b, W)
        for m in range(1, group):  # code m of a group is above those before it
            merged = (padded[m::group, :, None] + merged[:, None]).flatten(1, 2)
        self.register_buffer("codewords", merged, persistent=False)  # (M / g, 2^(g b), W)
        self.bits = bits * group

    def forward(self, packed: Tensor, places: Tensor) -> Tensor:
        """(N,) places in a packed stream -> (N, W) float32 rows; sums may differ from ``decode`` in the last digit."""
        return sum_codewords(self.codewords, gather_codes(packed, places, len(self.codewords), self.bits))


def merge_codewords(codebook: Codebook, bits: int, num_bytes: int) -> MergedCodewords | None:
    """Merge as many neighbouring codes as pays.

    Args:
        codebook: In float32.
        bits: b of a single code.
        num_bytes: Of the packed codes.

    Returns:
        None where codes cannot be merged, or where the merged codewords would be large beside the codes.
    """
    num_codes = codebook.num_codes
    for group in range(MAX_MERGED_BITS // bits, 1, -1):
        num_bytes_merged = num_codes // group * (1 << bits * group) * codebook.width * 4
        if num_codes % group == 0 and num_bytes_merged * _SHARE <= num_bytes:
            return MergedCodewords(codebook.full_width(), bits, group)
    return None
