"""Train the demo model; interrupt it at any time and go on with the same command.

    python -m deploy.models.training.train --out FOLDER --steps 1500 --easy
    python -m deploy.models.training.train --out FOLDER --steps 8000 --large 0.1

First easy pictures, then all. ``--view 364`` trains on a coarser grid of patches, which is somewhat
cheaper; convolutions, rotary positions and the (interpolated) position table carry over. Each batch
is a pure function of the seed and its number, so a resumed run sees what an uninterrupted one
would. ``--start CHECKPOINT`` begins with the weights of an exported checkpoint.

On a GPU, where drawing takes longer than learning, many processes draw and one learns:

    python -m deploy.models.training.train --device cuda --makers 15 --rows 48 --batches 4 ...
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from tokenizers import Tokenizer
from torch import Tensor
from torch.func import functional_call
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F

from deploy.models.training.batches import QUESTION_TOKENS, Batches
from deploy.models.training.checkpoint import load_checkpoint
from deploy.models.training.network import VIEW, Batch, Sizes, StepVl
from deploy.models.training.vocabulary import build_tokenizer

SAVE_SECONDS = 60.0
WARM_UP = 150
FIRST_SCALE = 0.01  # of the tower's attention, where it begins
MEETING = "processes.tmp"  # where they find each other


def learning_rate(step: int, first: int, last: int, peak: float) -> float:
    """Linear warm-up from ``first`` on, then a cosine down to a twentieth at ``last``."""
    if step - first < WARM_UP:
        return peak * (step - first + 1) / WARM_UP
    done = (step - first - WARM_UP) / max(1, last - first - WARM_UP)
    return peak * (0.05 + 0.95 * (1 + math.cos(math.pi * min(1.0, done))) / 2)


def in_steps(pictures: Tensor, step: int = 16) -> Tensor:
    """With empty ones behind, to a multiple of ``step``. On a GPU every new number costs a search
    for the best way to compute it, which takes longer than the computing."""
    if pictures.device.type == "cpu":
        return pictures
    return F.pad(pictures, (0, 0, 0, 0, 0, 0, 0, -len(pictures) % step))


def see(model: StepVl, batch: Batch) -> Tensor:
    """Embeddings of all views and crops, in the order in which the rows hold them, [n, hidden].

    Crops are only looked at, not learned from: what they teach, the views teach too.
    """
    if not batch.order:
        return torch.empty(0, model.sizes.hidden)
    dtype = model.lm_head.weight.dtype
    seen = {"view": iter(model.see(in_steps(batch.pixels("view")).to(dtype)))}
    if "crop" in batch.order:
        with torch.no_grad():
            seen["crop"] = iter(model.see(in_steps(batch.pixels("crop")).to(dtype)))
    return torch.cat([next(seen[kind]) for kind in batch.order])


class Loss(torch.nn.Module):
    """Mean cross-entropy of the learned tokens, and the share predicted right."""

    def __init__(self, model: StepVl) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        model = self.model
        pictures = see(model, batch)
        hidden = model(batch, pictures)
        targets = batch.targets.flatten()[batch.learned + 1]
        logits = model.lm_head(hidden.flatten(0, 1)[batch.learned]).float()
        right = (logits.argmax(-1) == targets).float().mean()
        return F.cross_entropy(logits, targets), right


def kept_tokenizer(out: Path, start: Path | None, *, new_words: bool = False) -> Tokenizer:
    """The run's own, or that of the checkpoint it starts with, or a new one.

    Kept, so that a later change to the talk does not renumber the words of a trained model.
    """
    file = out / "tokenizer.json"
    if not file.exists():
        if start is None or new_words:
            first = build_tokenizer()
        else:
            first = Tokenizer.from_file(str(start / file.name))
        first.save(str(file))
    return Tokenizer.from_file(str(file))


def in_new_words(model: StepVl, old: Tokenizer, new: Tokenizer) -> dict[str, Tensor]:
    """A model's weights for another tokenizer: a word begins as the mean of its old pieces."""
    weights = model.state_dict()
    pieces = []
    for text, number in sorted(new.get_vocab().items(), key=lambda item: item[1]):
        same = old.token_to_id(text)
        word = new.decode([number], skip_special_tokens=False)
        pieces.append([same] if same is not None else list(old.encode(word).ids))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.stack([weights[name][rows].mean(0) for rows in pieces])
    return weights


def _optimizers(model: StepVl) -> list[torch.optim.Optimizer]:
    """Muon for matrices between layers (each update is made orthogonal, so that fewer steps are
    needed), AdamW for the rest. ``share`` is a group's part of the learning rate: AdamW's steps
    on a convolution add up over its hundreds of inputs."""
    tables = ("embed_tokens.weight", "embedding", "lm_head.weight")
    named = dict(model.named_parameters())
    matrices = [p for name, p in named.items() if p.ndim == 2 and not name.endswith(tables)]
    convolutions = [p for p in named.values() if p.ndim == 4]
    taken = {id(p) for p in [*matrices, *convolutions]}
    others = [p for p in named.values() if id(p) not in taken]
    groups = [{"params": others, "share": 1.0}, {"params": convolutions, "share": 0.05}]
    matrix_groups = [{"params": matrices, "share": 1.0}]
    return [
        torch.optim.Muon(matrix_groups, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.02),
    ]


class Learned(NamedTuple):
    """What a batch showed: its kind, loss and share of tokens predicted right, each a scalar (that
    is still on the device, so that nothing waits for it)."""

    kind: str
    loss: Tensor
    right: Tensor


def means(history: list[Learned]) -> dict[str, float]:
    """Loss, share of tokens predicted right, and that share by kind."""
    figures = torch.tensor([[*map(float, one[1:])] for one in history])
    kinds = [one.kind for one in history]
    by_kind = {
        kind: figures[[k == kind for k in kinds], 1].mean().item() for kind in sorted({*kinds})
    }
    loss, right = figures.mean(0).tolist()
    figures_named = {"loss": loss, "right": right, **by_kind}
    return {name: round(value, 4) for name, value in figures_named.items()}


class Run:
    """A model, its optimisers and how far they are; kept in one file."""

    def __init__(self, out: Path, seed: int, start: Path | None, device: torch.device) -> None:
        torch.manual_seed(seed)
        self.device = device
        self.tokenizer = kept_tokenizer(out, start)
        self.model = StepVl(Sizes(self.tokenizer.get_vocab_size())).to(device)
        self.loss = Loss(self.model)
        self.optimizers = _optimizers(self.model)
        self.step = 0
        self.first = 0
        self.last = 0
        self.seconds = 0.0
        self._start = start
        self._file = out / "run.pt"
        self._curve = out / "curve.jsonl"

    def load(self) -> None:
        """Go on where an earlier run stopped, or start with a checkpoint's weights."""
        if self._file.exists():
            state = torch.load(self._file, weights_only=True, map_location=self.device)
            self.model.load_state_dict(state["model"])
            for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(kept)
            self.step, self.seconds = state["step"], state["seconds"]
            self.first, self.last = state["phase"]
        elif self._start:
            model, words = load_checkpoint(self._start)
            self.model.load_state_dict(in_new_words(model, words, self.tokenizer))

    def attend(self) -> None:
        """Let the tower's attention begin, where it was left out."""
        weights = self.model.state_dict()
        for name, weight in weights.items():
            if name.endswith("ls_1.gamma") and not weight.any():
                weights[name] = torch.full_like(weight, FIRST_SCALE)
        self.model.load_state_dict(weights)

    def begin_phase(self, last: int) -> None:
        """Learn until step ``last``; a new phase begins here, unless this one was interrupted."""
        if last != self.last:
            self.first, self.last = self.step, last

    def save(self) -> None:
        """Replace the file whole."""
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "phase": [self.first, self.last],
            "sizes": asdict(self.model.sizes),
        }
        temporary = self._file.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(self._file)

    def note(self, **figures: float | str) -> None:
        """Add a line to the learning curve."""
        line = json.dumps({"step": self.step, "seconds": round(self.seconds), **figures})
        with self._curve.open("a") as curve:
            curve.write(f"{line}\n")
        print(line, flush=True)

    def learn(self, batches: list[Batch], rate: float) -> list[Learned]:
        """One step, from the mean over some batches; the loss of each and its share of tokens
        predicted right.

        The arithmetic is in bfloat16, as in the engine; the weights are kept in float32.
        """
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["share"]
        learned = []
        for batch in batches:
            rounded = {name: p.bfloat16() for name, p in self.loss.named_parameters()}
            loss, right = functional_call(self.loss, rounded, (batch.to(self.device),))
            (loss / len(batches)).backward()
            learned.append(Learned(batch.kind, loss.detach(), right))
        self._average()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        return learned

    def _average(self) -> None:
        """Gradients become the mean over all processes."""
        for p in self.model.parameters():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        if dist.is_initialized() and dist.get_world_size() > 1:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            flat = torch.cat([g.flatten() for g in gradients])
            dist.all_reduce(flat)
            flat /= dist.get_world_size()
            parts = flat.split([gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))


def train(rank: int, options: argparse.Namespace) -> None:
    """From where the run is to ``options.steps``; process ``rank`` of ``options.processes``."""
    torch.set_num_threads(1)
    torch.backends.cuda.enable_cudnn_sdp(False)  # compiles for each length that it meets
    if options.processes > 1:
        store = f"file://{(options.out / MEETING).absolute()}"
        dist.init_process_group("gloo", store, rank=rank, world_size=options.processes)
    run = Run(options.out, options.seed, options.start, torch.device(options.device))
    run.load()
    if options.tower_attention:
        run.attend()
    run.begin_phase(options.steps)
    batches = Batches(
        run.tokenizer,
        view=options.view,
        rows=options.rows,
        seed=options.seed,
        large=options.large,
        told=options.told,
        search=options.search,
        easy=options.easy,
        questions=options.questions,
    )
    first, last = (step * options.batches * options.processes for step in (run.step, options.steps))
    stream = batches.those(range(first + rank, last, options.processes), options.makers)
    saved, history = time.monotonic(), []
    began = saved - run.seconds
    while run.step < options.steps:
        rate = learning_rate(run.step, run.first, run.last, options.rate)
        history += run.learn([next(stream) for _ in range(options.batches)], rate)
        run.step += 1
        run.seconds = time.monotonic() - began
        if rank:
            continue
        if run.step % 50 == 0:
            run.note(**means(history), view=options.view, device=options.device)
            history = []
        if time.monotonic() - saved > SAVE_SECONDS or run.step >= options.steps:
            run.save()
            saved = time.monotonic()
    if options.processes > 1:
        dist.destroy_process_group()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True, help="of the whole run so far")
    parser.add_argument("--view", type=int, default=VIEW, help="side of the square view, pixels")
    parser.add_argument("--large", type=float, default=0.0, help="share of large pictures")
    parser.add_argument(
        "--told", type=float, default=0.15, help="share of thoughts without pictures"
    )
    parser.add_argument(
        "--search", type=float, default=0.0, help="share of pictures searched without a thought"
    )
    parser.add_argument("--easy", action="store_true", help="single pictures of a few kinds")
    parser.add_argument("--rows", type=int, default=8, help="rows in a batch of one process")
    parser.add_argument("--batches", type=int, default=1, help="in a step of one process")
    parser.add_argument(
        "--questions", type=int, default=QUESTION_TOKENS, help="to each picture, tokens"
    )
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, help="that learn; 2 on a CPU, 1 elsewhere")
    parser.add_argument("--makers", type=int, default=0, help="processes that only draw")
    parser.add_argument("--device", default="cpu", help="where to learn: cpu or cuda")
    parser.add_argument(
        "--tower-attention", action="store_true", help="begin it, where it was left out"
    )
    parser.add_argument("--start", type=Path, help="a checkpoint to begin with")
    parser.add_argument("--new-words", action="store_true", help="not its tokenizer, but a new one")
    options = parser.parse_args()
    if options.view > VIEW:
        parser.error(f"the real view is {VIEW} pixels; a larger one teaches nothing")
    if options.processes is None:
        options.processes = 2 if options.device == "cpu" else 1
    options.out.mkdir(parents=True, exist_ok=True)
    kept_tokenizer(options.out, options.start, new_words=options.new_words)
    if options.processes == 1:
        train(0, options)
    else:
        (options.out / MEETING).unlink(missing_ok=True)
        # As daemons they end with this process, however it is ended.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        spawn(train, (options,), options.processes, daemon=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
