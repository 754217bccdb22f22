"""The steps of a refresh, in their order.

    arrivals -> count -> extend_vocabulary -> encode -> refresh_pretrain -> recode -> refresh_evaluate -> decision
                                                                                         promote: publish

Count, encode and publish are the train pipeline's own steps. ``new_rows`` gives count and encode their data section.
"""

from mec.refresh.arriving import arrivals_step, new_rows, row_hashes_step
from mec.refresh.deciding import decision_step
from mec.refresh.evaluating import refresh_evaluate_step
from mec.refresh.pretraining import refresh_pretrain_step
from mec.refresh.recode_step import recode_step
from mec.refresh.vocabulary import extend_vocabulary_step

__all__ = [
    "arrivals_step",
    "decision_step",
    "extend_vocabulary_step",
    "new_rows",
    "recode_step",
    "refresh_evaluate_step",
    "refresh_pretrain_step",
    "row_hashes_step",
]
