"""Methods that search sizes before they are trained: candidates per vocabulary, mixed, weighed and chosen from.

Before the search every vocabulary has the same size, and that is what a budget decides. The search sees all
candidates, and ``derive`` says what it is for: to spend the same bytes where they help most, or, as in the papers, to
take the candidate of the largest weight whatever it costs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from mec.checkpoints import Checkpoints
from mec.config import OptimizerConfig
from mec.ctr_model import CtrModel
from mec.data.dataset import EncodedDataset
from mec.embeddings.choosing import best_each, best_within
from mec.embeddings.exact_rows import ExactRows
from mec.embeddings.export import no_bytes
from mec.embeddings.method import Method, MethodInputs, MethodSettings, with_settings
from mec.embeddings.search import alternate
from mec.embeddings.sizing import BudgetError
from mec.embeddings.table_method import SlotOrder, TableMethod, TableSettings
from mec.errors import ConfigError

Choice = tuple[int, ...]
FIRST_SCALE = 0.1  # of normalised rows: at unit variance an FM would start saturated
_LAST_TEMPERATURE = 0.1


class SearchSettings(TableSettings):
    """Settings of methods that search."""

    search_epochs: float = Field(2.0, gt=0, description="passes over the training split that the search takes")
    search_rate: float = Field(0.01, gt=0, description="Adam step size of what is searched")
    derive: Literal["budget", "argmax"] = Field(
        "budget", description="the best sizes within the bytes of the unsearched method, or the best whatever they take"
    )
    found: dict[str, Choice] | None = Field(
        None, description="vocabulary -> what the search chose; null: not searched, the same for all vocabularies"
    )


SettingsT = TypeVar("SettingsT", bound=SearchSettings)


class Supernet(nn.Module):
    """All candidates of one vocabulary, mixed.

    Attributes:
        temperature: Of the noise that a search anneals; supernets without noise ignore it.
        term: A scalar of the last forward that belongs to the training loss, or None.
    """

    temperature: float = 1.0
    term: Tensor | None = None

    def forward(self, ids: Tensor) -> Tensor:
        """(N,) int64 ids -> (N, D + 1) rows."""
        raise TypeError(f"{type(self).__name__} defines no forward")

    def architecture(self) -> list[nn.Parameter]:
        """What learns from validation batches."""
        raise TypeError(f"{type(self).__name__} defines no architecture")

    def scores(self) -> Tensor:
        """(I, N) of N candidates for each of I items that are chosen for, such as one vocabulary; higher is better."""
        raise TypeError(f"{type(self).__name__} defines no scores")


class GumbelSupernet(Supernet):
    """One weight per candidate, softmax of logits and Gumbel noise: Jang, Gu and Poole, ICLR 2017.

    Args:
        num_candidates: N.
    """

    def __init__(self, num_candidates: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_candidates))

    def weights(self) -> Tensor:
        """(N,), noisy in training."""
        if not self.training:
            return torch.softmax(self.logits, dim=0)
        noise = -torch.empty_like(self.logits).exponential_().log()
        return torch.softmax((torch.log_softmax(self.logits, dim=0) + noise) / self.temperature, dim=0)

    def architecture(self) -> list[nn.Parameter]:
        """The logits."""
        return [self.logits]

    def scores(self) -> Tensor:
        """(1, N) log-probabilities."""
        return torch.log_softmax(self.logits.detach(), dim=0)[None]


class SuperEmbedding(Method[MethodSettings]):
    """The embedding of a search: exact rows of small vocabularies, a supernet for each of the others.

    It is a ``Method`` for the training loop's sake, and is never finished or served.

    Args:
        inputs: As of every method.
        settings: Of the method that searches.
        small: Vocabularies with exact rows.
        supernets: Of the other vocabularies, in the layout's order.
        first_rows: Vocabulary -> (V, D + 1) rows that exact rows start from; None draws them.
    """

    name = "search"

    def __init__(
        self,
        inputs: MethodInputs,
        settings: MethodSettings,
        small: Sequence[str],
        supernets: dict[str, Supernet],
        first_rows: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(inputs, settings)
        self.exact = ExactRows(inputs, small, settings.init_std, first_rows) if small else None
        self.supernets = nn.ModuleList(supernets.values())
        self.slots = SlotOrder(inputs.layout, small, list(supernets))

    @classmethod
    def planned_bytes(cls, inputs: MethodInputs, settings: MethodSettings) -> dict[str, int]:
        """Nothing is served."""
        return no_bytes()

    def forward(self, ids: Tensor) -> Tensor:
        """(B, S) int32 ids -> (B, S, D + 1) rows."""
        return self.slots.rows(ids, self.exact, list(self.supernets))

    def regulariser(self, rows: Tensor) -> Tensor | None:
        """The supernets' terms, summed."""
        terms = [net.term for net in self.supernets if isinstance(net, Supernet) and net.term is not None]
        return torch.stack(terms).sum() if terms else None


class SearchedMethod(TableMethod[SettingsT]):
    """Base of methods that search."""

    def __init__(self, inputs: MethodInputs, settings: SettingsT) -> None:
        self.check_found(inputs, settings)
        if settings.found is None:  # candidates that rows are too short for are refused before anything is trained
            for name in self.split(inputs, settings)[0]:
                self.item_bytes(name, inputs, settings)
        super().__init__(inputs, settings)
        self.inputs = inputs

    @classmethod
    def candidates(cls, vocabulary: str, inputs: MethodInputs, settings: SettingsT) -> list[Choice]:
        """What there is to choose from, the same for all items of a vocabulary."""
        raise TypeError(f"{cls.__name__} defines no candidates")

    @classmethod
    def unsearched(cls, vocabulary: str, inputs: MethodInputs, settings: SettingsT) -> Choice:
        """What each item has before the search; need not be a candidate."""
        raise TypeError(f"{cls.__name__} defines no unsearched")

    @classmethod
    def num_items(cls, vocabulary: str, inputs: MethodInputs, settings: SettingsT) -> int:
        """I, how many choices a vocabulary takes."""
        return 1

    @classmethod
    def choice_bytes(cls, vocabulary: str, inputs: MethodInputs, settings: SettingsT, choice: Choice) -> dict[str, int]:
        """Bytes by part of a vocabulary that takes one choice; see ``TableMethod.table_bytes``."""
        raise TypeError(f"{cls.__name__} defines no choice_bytes")

    @classmethod
    def item_bytes(cls, vocabulary: str, inputs: MethodInputs, settings: SettingsT) -> NDArray[np.int64]:
        """(I, N) bytes of each item with each candidate; what items share may be left out.

        To be overridden, as ``table_bytes``, where a vocabulary takes several choices.
        """
        candidates = cls.candidates(vocabulary, inputs, settings)
        return np.array([[sum(cls.choice_bytes(vocabulary, inputs, settings, c).values()) for c in candidates]])

    @classmethod
    def table_bytes(cls, vocabulary: str, inputs: MethodInputs, settings: SettingsT) -> dict[str, int]:
        """See ``TableMethod.table_bytes``."""
        return cls.choice_bytes(vocabulary, inputs, settings, cls.choices(vocabulary, inputs, settings)[0])

    def make_supernet(self, vocabulary: str, inputs: MethodInputs, settings: SettingsT) -> Supernet:
        """All candidates of one vocabulary."""
        raise TypeError(f"{type(self).__name__} defines no make_supernet")

    @classmethod
    def choices(cls, vocabulary: str, inputs: MethodInputs, settings: SettingsT) -> list[Choice]:
        """The choice of each item: what was found, or what there is before the search."""
        num_items, start = cls.num_items(vocabulary, inputs, settings), cls.unsearched(vocabulary, inputs, settings)
        if settings.found is None:
            return [start] * num_items
        flat, width = settings.found[vocabulary], len(start)
        return [flat[i * width : (i + 1) * width] for i in range(num_items)]

    @classmethod
    def for_budget(cls, inputs: MethodInputs, budget_bytes: int, base: SettingsT | None = None) -> SettingsT:
        """See ``Method.for_budget``; sizes that were found already are kept.

        Raises:
            BudgetError: They, or the smallest size of an unsearched method, are over the budget.
        """
        if base is None or base.found is None:
            return super().for_budget(inputs, budget_bytes, base)
        needed = sum(cls.planned_bytes(inputs, base).values())
        if needed > budget_bytes:
            raise BudgetError(
                f"the sizes in {cls.name}'s setting found take {needed:,} bytes",
                found=f"a budget of {budget_bytes:,} bytes",
                fix="raise the budget, or remove the setting and search again",
            )
        return base

    def search(
        self, model: CtrModel, dataset: EncodedDataset, settings: OptimizerConfig, checkpoints: Checkpoints | None
    ) -> Self:
        """Train all candidates, weights on ``train`` and mixture on ``valid``, and choose; see ``Method.search``.

        A method whose sizes were found already comes back as it is, and so does one all of whose candidates are beyond
        the bytes. Where only one choice fits, it is taken, and nothing trained.
        """
        if self.settings.found is not None or not self.large:
            return self
        inputs, own = self.inputs, self.settings
        least = self._chosen({name: -self.item_bytes(name, inputs, own).astype(float) for name in self.large})
        if least is None:
            return self
        if not self._has_others(least):
            return type(self)(inputs, with_settings(own, found=least))
        supernets = {name: self.make_supernet(name, inputs, own) for name in self.large}
        small = [name for name, _ in inputs.layout.vocabularies if name not in supernets]
        mixed = model.reading(SuperEmbedding(inputs, own, small, supernets, self.first_rows(inputs, own)))
        architecture = [parameter for net in supernets.values() for parameter in net.architecture()]
        for passed in alternate(
            mixed,
            architecture,
            dataset,
            settings,
            epochs=own.search_epochs,
            learning_rate=own.search_rate,
            seed=inputs.seed,
            checkpoints=checkpoints,
        ):
            for net in supernets.values():
                net.temperature = 1 + passed * (_LAST_TEMPERATURE - 1)
        scores = {name: net.eval().scores().double().cpu().numpy() for name, net in supernets.items()}
        return type(self)(inputs, with_settings(own, found=self.derived(scores)))

    def derived(self, scores: dict[str, NDArray[np.float64]]) -> dict[str, Choice]:
        """Vocabulary -> (I, N) scores to vocabulary -> the chosen candidates of its items, one after the other.

        Where no choice fits the bytes of the unsearched method, that method's own sizes come back.
        """
        inputs, own = self.inputs, self.settings
        found = self._chosen(scores)
        if found is not None:
            return found
        return {name: self.unsearched(name, inputs, own) * len(scores[name]) for name in scores}

    def _has_others(self, least: dict[str, Choice]) -> bool:
        """Whether a choice fits that is not the smallest one, by what one item more costs."""
        inputs, own = self.inputs, self.settings
        allowed = math.inf if own.derive == "argmax" else sum(self.planned_bytes(inputs, own).values())
        for name, smallest in least.items():
            options, width = self.candidates(name, inputs, own), len(self.unsearched(name, inputs, own))
            for start in range(0, len(smallest), width):
                for option in options:
                    changed = smallest[:start] + option + smallest[start + width :]
                    found = with_settings(own, found={**least, name: changed})
                    if changed != smallest and sum(self.planned_bytes(inputs, found).values()) <= allowed:
                        return True
        return False

    def _chosen(self, scores: dict[str, NDArray[np.float64]]) -> dict[str, Choice] | None:
        inputs, own = self.inputs, self.settings
        options = {name: self.candidates(name, inputs, own) for name in scores}
        items = [(name, item) for name in scores for item in range(len(scores[name]))]
        flat = [scores[name][item] for name, item in items]

        def named(picked: Sequence[int]) -> dict[str, Choice]:
            found: dict[str, Choice] = dict.fromkeys(scores, ())
            for (name, _), index in zip(items, picked, strict=True):
                found[name] += options[name][index]
            return found

        if own.derive == "argmax":
            return named(best_each(flat))
        sizes = [row for name in scores for row in self.item_bytes(name, inputs, own)]
        allowed = limit = sum(self.planned_bytes(inputs, own).values())
        while (picked := best_within(flat, sizes, limit)) is not None:
            found = named(picked)
            over = sum(self.planned_bytes(inputs, with_settings(own, found=found)).values()) - allowed
            if over <= 0:
                return found
            limit -= over  # what no item has for itself, such as exact rows and projections
        return None

    @classmethod
    def check_found(cls, inputs: MethodInputs, settings: SettingsT) -> None:
        """Refuse found sizes of other vocabularies, or of another number.

        Raises:
            ConfigError: They are not those of these inputs.
        """
        if settings.found is None:
            return
        unsearched = with_settings(settings, found=None)
        large, _ = cls.split(inputs, unsearched)
        wanted = {
            name: cls.num_items(name, inputs, unsearched) * len(cls.unsearched(name, inputs, unsearched))
            for name in large
        }
        if {name: len(choice) for name, choice in settings.found.items()} != wanted:
            raise ConfigError(
                f"the sizes in {cls.name}'s setting found are of other vocabularies",
                found=settings.found,
                fix=f"remove it and search again, or give these numbers of sizes: {wanted}",
            )
