"""The curiosity function: a network that scores every frontier slot with the same weights.

It knows candidates and context as numbers; which environment or path they come from is not its
business. Saved without pickle, refused where the feature schema differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from kncl_env.observation import CANDIDATE_FEATURES, CONTEXT_FEATURES, FEATURE_SCHEMA
from kncl_env.taste import Taste
from train_lm.checked.arrays import reason
from train_lm.checked.digests import sealed, unsealed_file
from train_lm.checked.records import Fields
from train_lm.checked.tensors import load_tensors
from train_lm.files import (
    hash_file,
    hash_json,
    read_json,
    replacing_folder,
    write_json,
    write_tensors,
)
from train_lm.inputs import note_input

# As sb3-contrib's MaskableCategorical: large, but finite, so that a softmax never sees inf - inf.
CLOSED = -1e8

# Log-odds of consolidation against all expansions together before any training: 1 in 20.
RARE = -3.0


@dataclass(frozen=True)
class CuriosityConfig:
    """Size of the curiosity function.

    Attributes:
        width: Units D of a slot's embedding.
        heads: Heads of the attention over slots.
        seed: Seed of the initial weights.
    """

    width: int = 64
    heads: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.width < 1 or self.heads < 1 or self.width % self.heads:
            raise ValueError(
                f"expected a width that {self.heads} heads divide evenly, got {self.width}"
            )


class CuriosityNetwork(nn.Module):
    """Pointer-style scores over a set of slots (Vinyals et al. 2015), and a value.

    Every slot is embedded with its context, looks at the others once (Lee et al. 2019, Set
    Transformer), and is scored by shared weights, so a permutation of slots permutes the scores.
    The last action, consolidation, is scored from the pooled set.
    """

    def __init__(self, config: CuriosityConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        # Every candidate feature twice: as it is, and against the other slots.
        n_inputs = 2 * len(CANDIDATE_FEATURES) + len(CONTEXT_FEATURES)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.embed = nn.Sequential(
                nn.Linear(n_inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
            )
            self.project = nn.Linear(width, 3 * width)  # queries, keys and values
            self.merge = nn.Linear(width, width)
            self.norm = nn.LayerNorm(width)
            self.score = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 1))
            pooled = width + len(CONTEXT_FEATURES)
            self.consolidate = nn.Sequential(
                nn.Linear(pooled, width), nn.ReLU(), nn.Linear(width, 1)
            )
            self.value = nn.Sequential(nn.Linear(pooled, width), nn.ReLU(), nn.Linear(width, 1))
            for head in (self.score, self.consolidate, self.value):
                _last(head).weight.data.mul_(0.1)
            _last(self.consolidate).bias.data.fill_(RARE)

    def forward(self, candidates: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and value.

        Args:
            candidates: (B, K, F); rows of empty slots are 0.
            context: (B, G).

        Returns:
            logits (B, K + 1), empty slots at `CLOSED`; value (B, 1).
        """
        filled = candidates[..., 0] > 0.5  # (B, K)
        tiled = context[:, None].expand(-1, candidates.shape[1], -1)
        against = _against_others(candidates, filled)
        own = self.embed(torch.cat([candidates, tiled, against], -1))  # (B, K, D)
        both = torch.cat([own, self.norm(own + self._seen(own, filled))], -1)  # (B, K, 2D)
        logits = self.score(both).squeeze(-1).masked_fill(~filled, CLOSED)
        weight = filled.float() / filled.sum(1, keepdim=True).clamp(min=1)
        pooled = torch.cat([(own * weight[..., None]).sum(1), context], -1)
        # Consolidation competes with all slots together: its odds do not hang on how large or how
        # many the scores are that cloning happened to arrive at.
        together = torch.logsumexp(logits, 1, keepdim=True)
        together = torch.where(filled.any(1, keepdim=True), together, torch.zeros_like(together))
        rehearse = together + self.consolidate(pooled)
        return torch.cat([logits, rehearse], -1), self.value(pooled)

    def _seen(self, own: Tensor, filled: Tensor) -> Tensor:
        """(B, K, D) what each slot sees of the filled slots, by multi-head attention."""
        B, K, D = own.shape
        heads = self.config.heads
        query, key, value = (
            self.project(own).view(B, K, 3, heads, D // heads).permute(2, 0, 3, 1, 4)
        )
        # Attention over nothing is undefined: a slot of an empty frontier sees the empty rows.
        visible = filled | ~filled.any(1, keepdim=True)
        seen = F.scaled_dot_product_attention(
            query, key, value, attn_mask=visible[:, None, None].expand(B, 1, K, K)
        )
        return self.merge(seen.transpose(1, 2).reshape(B, K, D))

    def silence(self, candidate_features: list[int], context_features: list[int]) -> None:
        """Zero the input weights of features that were never seen to vary.

        Their initial weights are noise; without this a cloned policy would react to features
        (the learner's, say) that its demonstrations could not show.
        """
        n, m = len(CANDIDATE_FEATURES), len(CONTEXT_FEATURES)
        columns = [*candidate_features, *(n + i for i in context_features)]
        columns += [n + m + i for i in candidate_features]
        with torch.no_grad():
            self.first_weight[:, columns] = 0.0

    def sharpen(self, factor: float) -> None:
        """Multiply the scores of slots: the ranking stays, sampling follows it more closely."""
        if not factor > 0:
            raise ValueError(f"expected a factor above 0, got {factor}")
        with torch.no_grad():
            for parameter in _last(self.score).parameters():
                parameter.mul_(factor)

    @property
    def first_weight(self) -> Tensor:
        """(D, 2F + G) input weights: candidate features, context, candidates against others."""
        layer = self.embed[0]
        assert isinstance(layer, nn.Linear)
        return layer.weight


def _against_others(candidates: Tensor, filled: Tensor) -> Tensor:
    """(B, K, F) features standardised over the filled slots of each row; 0 where all are alike.

    What matters of most features is how a slot compares: the closest of the offered topics, not
    the ones closer than 0.3.
    """
    weight = filled.float() / filled.sum(1, keepdim=True).clamp(min=1)  # (B, K)
    mean = (candidates * weight[..., None]).sum(1, keepdim=True)
    centred = (candidates - mean) * filled[..., None]
    spread = (centred.square() * weight[..., None]).sum(1, keepdim=True).sqrt()
    return centred / (spread + 1e-3)


def _last(head: nn.Sequential) -> nn.Linear:
    layer = head[-1]
    assert isinstance(layer, nn.Linear)
    return layer


class CuriosityPolicy:
    """A curiosity function that acts: SB3's `predict` without SB3.

    Args:
        network: Scores slots.
        provenance: How it came to be; kept in its directory.
        taste: Which passages of the neighbourhoods that it chooses it reads; all, if None.
    """

    def __init__(
        self,
        network: CuriosityNetwork,
        provenance: Mapping[str, object] | None = None,
        seed: int = 0,
        taste: Taste | None = None,
    ) -> None:
        self.taste = taste
        self.network = network.eval()
        self.provenance = dict(provenance or {})
        self._generator = np.random.default_rng(seed)

    @torch.inference_mode()
    def logits(self, observation: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
        """(K + 1,) scores of one observation."""
        candidates = torch.from_numpy(observation["candidates"])[None]
        context = torch.from_numpy(observation["context"])[None]
        return self.network(candidates, context)[0][0].numpy().astype(np.float64)

    def predict(
        self,
        observation: Mapping[str, NDArray[np.float32]],
        state: None = None,
        episode_start: None = None,
        deterministic: bool = True,
        action_masks: NDArray[np.bool_] | None = None,
    ) -> tuple[int, None]:
        """The action to take; the same signature as `MaskablePPO.predict` for one environment."""
        logits = self.logits(observation)
        if action_masks is not None:
            logits = np.where(action_masks, logits, CLOSED)
        if not deterministic:
            return int(np.argmax(logits + self._generator.gumbel(size=logits.shape))), None
        # Expansion or rehearsal first, then which: many equal slots must not lose to rehearsal
        # one by one while they are the likelier choice together.
        slots = logits[:-1]
        together = np.logaddexp.reduce(slots) if len(slots) else CLOSED
        return (len(slots) if logits[-1] > together else int(np.argmax(slots))), None

    def save(self, folder: Path, *, over: bool = False) -> None:
        """Write `policy.safetensors` and `policy.json`.

        Args:
            over: Whether the folder is the policy's own, and appears, or is replaced, as a whole;
                else the two join what it holds.
        """
        if over or not folder.exists():
            with replacing_folder(folder, over=over) as part:
                self._write(part)
        else:
            self._write(folder)

    def _write(self, folder: Path) -> None:
        weights = folder / "policy.safetensors"
        write_tensors(weights, self.network.state_dict())
        card = {
            "format": "kncl-policy",
            "feature_schema": FEATURE_SCHEMA,
            "candidate_features": CANDIDATE_FEATURES,
            "context_features": CONTEXT_FEATURES,
            "network": asdict(self.network.config),
            "weights_sha256": hash_file(weights),
            "provenance": self.provenance,
            "taste": None if self.taste is None else self.taste.to_json(),
        }
        write_json(folder / "policy.json", sealed(card))

    @classmethod
    def load(cls, folder: str | Path, seed: int = 0) -> CuriosityPolicy:
        """Open a policy directory; no code of it is run.

        Raises:
            FileNotFoundError: No policy there.
            ValueError: Truncated, edited, foreign, or of another feature schema; says which.
        """
        folder = Path(folder)
        if not (folder / "policy.json").is_file():
            raise FileNotFoundError(
                f"expected a policy directory at {folder}, found no policy.json there: "
                "make one with `kncl-policy pretrain` or `train`"
            )
        card = read_json(folder / "policy.json")
        if not isinstance(card, dict) or card.get("format") != "kncl-policy":
            raise ValueError(f"expected a KNCL policy in {folder}, got another kind of policy.json")
        if card.get("feature_schema") != FEATURE_SCHEMA:
            raise ValueError(
                f"expected a policy for feature schema {FEATURE_SCHEMA}, got one for schema "
                f"{card.get('feature_schema')} in {folder}: train it again with this version"
            )
        place = folder / "policy.json"
        fields = Fields.of(card, place, "the policy is edited or damaged")
        features = [*CANDIDATE_FEATURES, *CONTEXT_FEATURES]
        found = [*fields.texts("candidate_features"), *fields.texts("context_features")]
        if found != features:
            differs = sorted(set(found) ^ set(features)) or ["their order"]
            raise ValueError(
                f"expected a policy for the features of this version, got one in {folder} that "
                f"differs in {', '.join(differs[:5])}: train it again"
            )
        unsealed_file(card, place, "a policy")
        weights = folder / "policy.safetensors"
        if not weights.is_file():
            raise ValueError(f"expected {weights}, found none: the policy is incomplete")
        if hash_file(weights) != fields.text("weights_sha256"):
            raise ValueError(
                f"expected the weights that policy.json of {folder} was written with, got others: "
                "the file is truncated or edited"
            )
        network = _network(load_tensors(weights)[0], fields.inner("network"), folder)
        taste = card.get("taste")
        if taste is not None:
            taste = Taste.from_json(taste, place)
        note_input(folder, hash_json(card), "a policy", checked=True)
        provenance = fields.inner("provenance").values if "provenance" in fields else None
        return cls(network, provenance, seed, taste)


def _network(weights: Mapping[str, Tensor], size: Fields, folder: Path) -> CuriosityNetwork:
    # What is claimed must not take more memory than what is there.
    largest = max((max(w.shape, default=1) for w in weights.values()), default=1)
    try:
        config = CuriosityConfig(
            size.whole("width", 1, largest), size.whole("heads", 1, largest), size.whole("seed")
        )
        network = CuriosityNetwork(config)
        network.load_state_dict(weights)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"expected the weights of a policy in {folder}, got {reason(error)}"
        ) from None
    return network
