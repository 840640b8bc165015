"""Low-rank adapters: a frozen base, and a few numbers beside it that train; the one door to peft.

LoRA (Hu et al. 2021, arXiv 2106.09685) adds scale B A x to what a frozen matrix W makes of x, with
A (r, in), B (out, r) and scale = alpha / r. B begins at zero, so that a fresh adapter changes
nothing. ReLoRA (Lialin et al. 2023, arXiv 2307.05695) merges it into W now and then, and begins a
fresh one.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from train_lm.checked.arrays import reason
from train_lm.checked.tensors import digest_of

if TYPE_CHECKING:
    from pathlib import Path

    from peft import LoraConfig

OURS = "default"  # peft's name for the adapter that trains
OUTER = "base_model.model."  # what peft puts before the name of a module
BASE = "base."  # of a merged base's weights, in a snapshot
DIGEST = "base_digest"
CYCLE = "cycle"  # adapters merged, update of the last merge, updates of the warm-up after it
# Ways of merging adapters into one, by peft's names.
MERGES = ("linear", "ties", "dare_linear", "dare_ties", "magnitude_prune", "svd", "cat")
PRUNING = ("ties", "dare_linear", "dare_ties", "magnitude_prune")


@dataclass(frozen=True)
class AdapterConfig:
    """An adapter's shape.

    Attributes:
        rank: Of what it adds to each matrix.
        alpha: Times rank's inverse, the factor of what it adds.
        targets: Names of the layers it stands beside, or their ends; all linear layers but the
            head, if none is named.
        dropout: Share of its inputs that are left out in training; not exact in snapshots, which
            hold no generator, and not for a bank.
        seed: Of its initial weights, of 32 bits.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ()
    dropout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 < self.alpha < math.inf or not 0 <= self.dropout < 1:
            raise ValueError(
                "expected rank >= 1, a finite alpha > 0 and 0 <= dropout < 1, got "
                f"{self.rank}, {self.alpha} and {self.dropout}"
            )

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclass(frozen=True)
class Site:
    """A matrix with an adapter beside it.

    Attributes:
        weight: The matrix' name in the plain model.
        down: Name of A (r, in) in the model with the adapter.
        up: Name of B (out, r) there.
        turned: Whether the matrix is stored as (in, out).
    """

    weight: str
    down: str
    up: str
    turned: bool

    def delta(self, numbers: Mapping[str, Tensor], scale: float) -> Tensor:
        """What the adapter adds to the matrix when it is merged."""
        product = (numbers[self.up] @ numbers[self.down]) * scale
        return product.T if self.turned else product


@dataclass(frozen=True, eq=False)
class Adapter:
    """The numbers of an adapter, apart from any model.

    Attributes:
        config: Its shape; `targets` name every layer.
        weights: By peft's names, as in `adapter_model.safetensors`.
        base: Digest of the base it was trained on; empty where that is not known.
        about: What its writer says of it.
    """

    config: AdapterConfig
    weights: Mapping[str, Tensor]
    base: str = ""
    about: Mapping[str, object] = field(default_factory=dict)

    def deltas(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Scaled A (r, in) and B (out, r) of each layer: B A x is added to what it makes of x."""
        found = {}
        for name, down in self.weights.items():
            if name.endswith("lora_A.weight"):
                layer = name.removesuffix(".lora_A.weight")
                found[layer] = self.config.scale * down, self.weights[f"{layer}.lora_B.weight"]
        return found


class Adapted:
    """A model whose weights stand still, with one adapter that trains.

    Args:
        model: Its layers are replaced in place; its own parameters are frozen.
        config: The adapter's shape.

    Attributes:
        model: As peft wraps it; its trainable parameters are the adapter's.
        sites: The matrices that have the adapter beside them.
        cycles: Adapters that were merged into the base so far.

    Raises:
        ValueError: peft finds nothing in the model to put an adapter to.
    """

    def __init__(self, model: nn.Module, config: AdapterConfig) -> None:
        self.config = config
        self.model = _wrapped(model, config)
        self.sites = sites_of(self.model)
        self.cycles = 0
        self._numbers = dict(self.model.named_parameters())
        self.frozen = {plain(n): p for n, p in self._numbers.items() if "lora_" not in n}
        self._born: dict[str, Tensor] = {}  # what merges have changed, as it was before

    @cached_property
    def digest(self) -> str:
        """Of the base as it was before any merge."""
        return digest_of({**self.frozen, **self._born}, {})

    def merged(self) -> dict[str, Tensor]:
        """All weights of the plain model with the adapter merged in, by their plain names."""
        found = {n: p.detach().clone() for n, p in self.frozen.items()}
        with torch.no_grad():
            for site in self.sites:
                delta = site.delta(self._numbers, self.config.scale)
                found[site.weight] = found[site.weight] + delta
        return found

    @torch.no_grad()
    def merge_and_redraw(self) -> None:
        """Add the adapter to the base, and begin a fresh one."""
        self.digest  # noqa: B018 (of the base as it is now, while it is)
        for site in self.sites:
            weight = self.frozen[site.weight]
            self._born.setdefault(site.weight, weight.detach().clone())
            weight.add_(site.delta(self._numbers, self.config.scale))
        self.cycles += 1
        self.redraw()

    @torch.no_grad()
    def redraw(self) -> None:
        """Begin a fresh adapter; each cycle has one of its own."""
        drawn = fresh(self.sites, self._numbers, self.config.seed, self.cycles)
        for name, value in drawn.items():
            self._numbers[name].copy_(value)

    @torch.no_grad()
    def unwrap(self) -> nn.Module:
        """The plain model with the adapter merged in; what peft wrapped is no more."""
        weights = self.merged()
        of_peft: Any = self.model
        found: nn.Module = of_peft.unload()
        for name, parameter in found.named_parameters():
            parameter.copy_(weights[name])
            parameter.requires_grad_(True)
        return found

    @torch.no_grad()
    def rebase(self, weights: Mapping[str, Tensor]) -> None:
        """Take other weights of the plain model, by their plain names, and a fresh adapter."""
        for name, value in self.frozen.items():
            value.copy_(weights[name])
        self._born, self.cycles = {}, 0
        self.__dict__.pop("digest", None)
        self.redraw()

    def state(self) -> dict[str, Tensor]:
        """What a snapshot has to know of the base: whose it is, and what merges made of it."""
        changed = self._born if self.cycles else ()
        found = {f"{BASE}{n}": self.frozen[n].detach().clone() for n in changed}
        return {**found, DIGEST: packed_digest(self.digest)}

    @torch.no_grad()
    def restore(self, snapshot: Mapping[str, Tensor], cycles: int) -> None:
        """Return to a base that `check_base` found to fit."""
        for name, born in self._born.items():
            self.frozen[name].copy_(snapshot.get(f"{BASE}{name}", born))
        if cycles and not self._born:
            self.digest  # noqa: B018 (as above)
            for site in self.sites:
                weight = self.frozen[site.weight]
                self._born[site.weight] = weight.detach().clone()
                weight.copy_(snapshot[f"{BASE}{site.weight}"])
        self.cycles = cycles

    def check_base(self, snapshot: Mapping[str, Tensor], cycles: int) -> None:
        """Raises: ValueError where a snapshot's base is another one."""
        shapes = {s.weight: tuple(self.frozen[s.weight].shape) for s in self.sites}
        check_base(snapshot, cycles, self.digest, shapes)

    def take(self) -> Adapter:
        """A copy of the adapter, for the base as it is now."""
        digest = digest_of(self.frozen, {}) if self.cycles else self.digest
        values = {n: p.detach().clone().cpu() for n, p in self._numbers.items() if "lora_" in n}
        return as_adapter(values, self.sites, self.config, digest)

    @torch.no_grad()
    def put(self, adapter: Adapter) -> None:
        """Let the numbers of another adapter be this one's.

        Raises:
            ValueError: It is of another base, rank or shape; nothing is changed.
        """
        digest = digest_of(self.frozen, {}) if self.cycles else self.digest
        own = {n: p for n, p in self._numbers.items() if "lora_" in n}
        for name, value in fitted(adapter, own, self.config, digest).items():
            own[name].copy_(value)


def base_digest(model: nn.Module) -> str:
    """What tells the weights of a plain model from others; an adapter's card has its base's."""
    return digest_of(dict(model.named_parameters()), {})


def check_base(
    snapshot: Mapping[str, Tensor], cycles: int, digest: str, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises: ValueError where a snapshot is of an adapter on another base.

    Args:
        cycles: Merges that the snapshot counts.
        shapes: Of the matrices that merges change, by their plain names.
    """
    found = snapshot.get(DIGEST)
    if found is None or not torch.equal(found.cpu(), packed_digest(digest)):
        got = "no adapter's" if found is None else f"that of {unpacked_digest(found)[:12]}…"
        raise ValueError(
            f"expected a snapshot of an adapter on the base {digest[:12]}…, got {got}: it is of "
            "another base; `adopt` begins from a whole model's"
        )
    for name, shape in shapes.items() if cycles else ():
        merged = snapshot.get(f"{BASE}{name}")
        if merged is None or tuple(merged.shape) != shape:
            got = "nothing" if merged is None else str(tuple(merged.shape))
            raise ValueError(
                f"expected the merged base's {name} of shape {shape}, got {got}: the snapshot is "
                "of another base"
            )


def packed_digest(digest: str) -> Tensor:
    """A digest as 32 bytes of a tensor, which snapshots are made of."""
    return torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)


def unpacked_digest(packed: Tensor) -> str:
    return bytes(packed.flatten().to(torch.uint8).tolist()).hex()


def plain(name: str) -> str:
    """The name in the plain model of a parameter of its base under peft."""
    return name.removeprefix(OUTER).replace(".base_layer.", ".")


def sites_of(model: nn.Module) -> list[Site]:
    """The matrices with an adapter beside them, in the model's order."""
    found = []
    for name, module in model.named_modules():
        if OURS in getattr(module, "lora_A", {}):
            down, up = (f"{name}.lora_{x}.{OURS}.weight" for x in "AB")
            turned = bool(getattr(module, "fan_in_fan_out", False))
            found.append(Site(f"{plain(name + '.')}weight", down, up, turned))
    return found


def fresh(
    sites: Sequence[Site], numbers: Mapping[str, Tensor], seed: int, cycle: int
) -> dict[str, Tensor]:
    """Initial numbers of an adapter: A as peft draws it (Kaiming, uniform), B zero.

    Each cycle of ReLoRA draws from a stream of its own.
    """
    generator = torch.Generator().manual_seed((seed << 20) + cycle)
    found = {}
    for site in sites:
        down = numbers[site.down]
        bound = 1 / math.sqrt(down.shape[1])  # kaiming_uniform_ with a = sqrt(5)
        drawn = torch.empty(down.shape).uniform_(-bound, bound, generator=generator)
        found[site.down] = drawn.to(down.device)
        found[site.up] = torch.zeros_like(numbers[site.up])
    return found


def as_adapter(
    numbers: Mapping[str, Tensor], sites: Sequence[Site], config: AdapterConfig, base: str
) -> Adapter:
    """Numbers by the names of the model with an adapter as an adapter of its own."""
    layers = tuple(s.weight.removesuffix(".weight") for s in sites)
    named = AdapterConfig(config.rank, config.alpha, layers, config.dropout, config.seed)
    return Adapter(named, {n.replace(f".{OURS}.", "."): v for n, v in numbers.items()}, base)


def fitted(
    adapter: Adapter, own: Mapping[str, Tensor], config: AdapterConfig, digest: str
) -> dict[str, Tensor]:
    """An adapter's numbers by the names that a model with an adapter gives them.

    Args:
        own: The model's adapter, by those names.
        digest: Of its base.

    Raises:
        ValueError: The adapter is of another base, rank or shape.
    """
    if adapter.base and adapter.base != digest:
        raise ValueError(
            f"expected an adapter of the base {digest[:12]}…, got one of {adapter.base[:12]}…: "
            "open it on the model it was trained on"
        )
    if adapter.config.rank != config.rank or adapter.config.scale != config.scale:
        raise ValueError(
            f"expected an adapter of rank {config.rank} and alpha {config.alpha:g}, got "
            f"{adapter.config.rank} and {adapter.config.alpha:g}: state these"
        )
    found = {n: adapter.weights.get(n.replace(f".{OURS}.", ".")) for n in own}
    for name, value in found.items():
        if value is None or value.shape != own[name].shape:
            got = "nothing" if value is None else str(tuple(value.shape))
            raise ValueError(
                f"expected {name} of shape {tuple(own[name].shape)} in the adapter, got {got}: it "
                "is of another base or stands beside other layers"
            )
    if len(adapter.weights) > len(own):
        raise ValueError(
            f"expected an adapter of {len(own)} tensors, got {len(adapter.weights)}: it stands "
            "beside more layers; name these as targets"
        )
    return {name: value for name, value in found.items() if value is not None}


# --- peft -----------------------------------------------------------------------------------------


@contextmanager
def _quiet() -> Iterator[None]:
    """peft warns of what is right here: of Conv1D, of tied heads, of several adapters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def lora_config(config: AdapterConfig) -> LoraConfig:
    """The same as peft has it."""
    from peft import LoraConfig

    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        target_modules=list(config.targets) or "all-linear",
        lora_dropout=config.dropout,
        task_type="CAUSAL_LM",
    )


def peft_settings(config: AdapterConfig) -> dict[str, object]:
    """What peft writes of an adapter, as JSON has it."""
    found: dict[str, object] = dict(lora_config(config).to_dict())
    for name, value in found.items():
        if isinstance(value, set):
            found[name] = sorted(value)
    return {**found, "peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": True}


def _wrapped(model: nn.Module, config: AdapterConfig) -> nn.Module:
    """The model with a fresh adapter, under peft.

    Raises:
        ValueError: peft finds nothing to put an adapter to.
    """
    from peft import get_peft_model

    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            # peft asks what kind of a thing a model is; one of ours may have no configuration.
            found: nn.Module = get_peft_model(model, lora_config(config))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(
            f"expected linear layers{_named(config)} that peft can put an adapter to in "
            f"{type(model).__name__}, got {reason(error)}: name others, or train the whole model"
        ) from None
    sites = sites_of(found)
    shared = {id(p) for p in model.parameters()}
    odd = [n for n, p in found.named_parameters() if "lora_" not in n and id(p) not in shared]
    if not sites or odd or any("lora_embedding" in n for n, _ in found.named_parameters()):
        raise ValueError(
            f"expected linear layers{_named(config)} in {type(model).__name__}, got none or "
            "embeddings: name linear layers, or train the whole model"
        )
    numbers = dict(found.named_parameters())
    with torch.no_grad():
        for name, value in fresh(sites, numbers, config.seed, 0).items():
            numbers[name].copy_(value)
    return found


def _named(config: AdapterConfig) -> str:
    return f" named {', '.join(config.targets)}" if config.targets else ""


@contextmanager
def _beside(base: nn.Module) -> Iterator[nn.Module]:
    """A model of the same weights, not copied, whose layers may be replaced."""
    flags = [(p, p.requires_grad) for p in base.parameters()]
    shared = {id(t): t for t in (*base.parameters(), *base.buffers())}
    try:
        yield copy.deepcopy(base, shared)  # what the memo names is taken as it is
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def adapted_twin(base: nn.Module, config: AdapterConfig) -> Adapted:
    """An `Adapted` that shares the base's weights and leaves the base as it is."""
    with _beside(base) as twin:
        return Adapted(twin, config)


def merge_adapters(
    base: nn.Module,
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    how: str,
    *,
    density: float = 0.5,
    seed: int = 0,
) -> Adapter:
    """Several adapters of one base as one, by peft's `add_weighted_adapter`.

    Args:
        base: The plain model; left as it is.
        weights: Factor of each adapter.
        how: One of `MERGES`. `linear` adds A and B apart, a rough approximation; `cat` is exact
            and has the sum of their ranks; `svd` is the best of the largest rank; `ties` (Yadav et
            al. 2023) prunes and elects signs; `dare` (Yu et al. 2024) drops numbers by lot.
        density: Share of the numbers that the pruning ways keep.
        seed: Of that lot.

    Raises:
        ValueError: Adapters of unlike shapes or bases, or another way of merging.
    """
    from peft import get_peft_model_state_dict

    if how not in MERGES:
        raise ValueError(f"expected a way of merging among {MERGES}, got {how!r}")
    if not adapters or len(adapters) != len(weights) or not 0 < density <= 1:
        raise ValueError(
            "expected a weight for each of at least one adapter, and 0 < density <= 1, got "
            f"{len(weights)} for {len(adapters)}, and {density}"
        )
    check_alike(adapters, ranks=how not in ("cat", "svd"))
    names = [f"adapter{i}" for i in range(len(adapters))]
    more = {"density": density} if how in PRUNING else {}
    with _beside(base) as twin, _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = _with_all(twin, adapters, names)
        model.add_weighted_adapter(names, list(weights), "merged", combination_type=how, **more)
        found = get_peft_model_state_dict(model, adapter_name="merged")
        shape = model.peft_config["merged"]
        config = AdapterConfig(int(shape.r), float(shape.lora_alpha), adapters[0].config.targets)
        return Adapter(config, {n: v.detach().clone() for n, v in found.items()}, adapters[0].base)


def check_alike(adapters: Sequence[Adapter], *, ranks: bool = True) -> None:
    """Raises: ValueError where adapters are of several bases, shapes or, if it matters, ranks."""
    first = adapters[0]
    for i, other in enumerate(adapters):
        if first.base and other.base and first.base != other.base:
            raise ValueError(
                f"expected adapters of one base, got {first.base[:12]}… and, as number {i}, "
                f"{other.base[:12]}…: only what was trained on one base can be merged"
            )
        if ranks and other.config.rank != first.config.rank:
            raise ValueError(
                f"expected adapters of one rank, got {first.config.rank} and, as number {i}, "
                f"{other.config.rank}: merge them by cat or svd"
            )
        mine, theirs = (
            {n: (v[0].shape[1], v[1].shape[0]) for n, v in a.deltas().items()}
            for a in (first, other)
        )
        if mine != theirs:
            raise ValueError(
                f"expected adapters of one shape, got others as number {i}: they stand beside "
                "other layers, or are of another base"
            )


def _with_all(model: nn.Module, adapters: Sequence[Adapter], names: Sequence[str]) -> nn.Module:
    """A model under peft with several adapters, the first of them active."""
    from peft import PeftModel, set_peft_model_state_dict

    found: Any = None
    for name, adapter in zip(names, adapters, strict=True):
        shape = lora_config(adapter.config)
        try:
            if found is None:
                found = PeftModel(model, shape, adapter_name=name)
            else:
                found.add_adapter(name, shape)
            set_peft_model_state_dict(found, dict(adapter.weights), adapter_name=name)
        except (ValueError, RuntimeError, KeyError) as error:
            raise ValueError(
                f"expected adapters that fit {type(model).__name__}, got {reason(error)}: they are "
                "of another base"
            ) from None
    assert isinstance(found, nn.Module)
    return found


def with_adapter(base: nn.Module, adapter: Adapter) -> nn.Module:
    """A model that shares the base's weights and has the adapter beside them, to be measured.

    Raises:
        ValueError: The adapter does not fit the base.
    """
    with _beside(base) as twin, _quiet():
        return _with_all(twin, [adapter], [OURS]).eval()


def with_merged(base: nn.Module, adapter: Adapter) -> dict[str, Tensor]:
    """A plain model's weights with an adapter merged in, under a snapshot's names.

    Raises:
        ValueError: The adapter does not fit the base.
    """
    model = with_adapter(base, adapter)
    numbers = {n: p.detach() for n, p in model.named_parameters()}
    found = {plain(n): p.clone() for n, p in numbers.items() if "lora_" not in n}
    for site in sites_of(model):
        found[site.weight] += site.delta(numbers, adapter.config.scale)
    return {f"model.{name}": value for name, value in found.items()}


def arrow_model(
    base: nn.Module,
    folders: Sequence[Path],
    *,
    top: int = 3,
    temperature: float = 1.0,
    seed: int = 0,
) -> nn.Module:
    """A model that mixes saved adapters for each token and layer, by peft's Arrow.

    Ostapenko et al. 2024 (arXiv 2405.11157): an adapter's prototype is the first right singular
    vector of B A, and the `top` adapters whose prototypes a token's activations are closest to
    are mixed by a softmax. Nothing is trained.

    Args:
        base: The plain model; its weights are shared and left as they are.
        folders: Of adapters of one base, rank and shape, as `save_adapter` wrote them and
            `open_adapter` has looked at them.
        seed: Of the power iteration that finds the prototypes, at the first tokens.
    """
    from peft import ArrowConfig, create_arrow_model

    most = min(top, len(folders))
    shape = ArrowConfig(top_k=most, router_temperature=temperature, rng_seed=seed)
    with _beside(base) as twin, _quiet():
        of_peft: Any = twin  # a PreTrainedModel to it
        model: nn.Module = create_arrow_model(of_peft, [str(f) for f in folders], shape)
        return model.eval()
