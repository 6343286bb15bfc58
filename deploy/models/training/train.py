"""Train the demo model; interrupt it at any time and go on with the same command.

    python -m deploy.models.training.train --out FOLDER --steps 6000 [--view 364] [--crops 0]
    python -m deploy.models.training.train --out FOLDER --steps 9000 --view 728 --crops 0.15

The first lines train on a coarse grid of patches, which is about ten times cheaper; convolutions,
rotary positions and the (interpolated) position table carry over to the real one. Each batch is a
pure function of the seed and the step, so a resumed run sees what an uninterrupted one would.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from deploy.models.training.batches import IGNORED, Batch, Batches, Talk
from deploy.models.training.network import VIEW, Sizes, StepVl
from deploy.models.training.vocabulary import build_tokenizer

SAVE_SECONDS = 120.0
WARM_UP = 200


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then a cosine down to a twentieth."""
    if step < WARM_UP:
        return peak * (step + 1) / WARM_UP
    done = (step - WARM_UP) / max(1, steps - WARM_UP)
    return peak * (0.05 + 0.95 * (1 + math.cos(math.pi * min(1.0, done))) / 2)


def see(model: StepVl, batch: Batch) -> Tensor:
    """Embeddings of all views and crops, in the order in which the rows hold them.

    Crops are only looked at, not learned from: what they teach, the views teach too.
    """
    if not len(batch.views):
        return torch.empty(0, model.sizes.hidden)
    views = iter(model.see(batch.views))
    with torch.no_grad():
        crops = iter(model.see(batch.crops) if len(batch.crops) else ())
    return torch.cat([next(views) if kind == "view" else next(crops) for kind in batch.order])


def loss_of(model: StepVl, batch: Batch) -> tuple[Tensor, float]:
    """Mean cross-entropy of the learned tokens, and the share predicted right."""
    hidden = model(batch.tokens, see(model, batch), batch.is_picture, batch.positions, batch.mask)
    # A token's target is the next one of the same segment, and rows hold segments one by one.
    targets = batch.targets[:, 1:]
    learned = targets != IGNORED
    logits = model.lm_head(hidden[:, :-1][learned])
    right = (logits.argmax(-1) == targets[learned]).float().mean().item()
    return F.cross_entropy(logits, targets[learned]), right


class Run:
    """A model, its optimiser and how far they are; kept in one file."""

    def __init__(self, out: Path, seed: int) -> None:
        torch.manual_seed(seed)
        self.tokenizer = build_tokenizer()
        self.model = StepVl(Sizes(self.tokenizer.get_vocab_size()))
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-8)
        self.step = 0
        self.seconds = 0.0
        self._file = out / "run.pt"
        self._curve = out / "curve.jsonl"

    def load(self) -> None:
        """Go on where an earlier run stopped, if there was one."""
        if self._file.exists():
            state = torch.load(self._file, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        """Replace the file whole."""
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "sizes": asdict(self.model.sizes),
        }
        temporary = self._file.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(self._file)

    def note(self, **figures: float) -> None:
        """Add a line to the learning curve."""
        line = json.dumps({"step": self.step, "seconds": round(self.seconds), **figures})
        with self._curve.open("a") as curve:
            curve.write(f"{line}\n")
        print(line, flush=True)


def train(run: Run, options: argparse.Namespace) -> None:
    """From ``run.step`` to ``options.steps``."""
    talk = Talk(run.tokenizer, options.view, options.crops)
    batches = Batches(talk, run.tokenizer, options.rows, options.seed, run.step)
    # One worker keeps the order of the batches; it draws while the model learns.
    loader = DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=4)
    saved = time.monotonic()
    losses: list[float] = []
    rights: list[float] = []
    for batch in loader:
        began = time.monotonic()
        rate = learning_rate(run.step, options.steps, options.rate)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        loss, right = loss_of(run.model, batch)
        run.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        run.optimizer.step()
        run.step += 1
        run.seconds += time.monotonic() - began
        losses.append(loss.item())
        rights.append(right)
        if run.step % 50 == 0:
            run.note(
                loss=round(sum(losses) / len(losses), 4),
                right=round(sum(rights) / len(rights), 4),
                view=options.view,
            )
            losses, rights = [], []
        if time.monotonic() - saved > SAVE_SECONDS or run.step >= options.steps:
            run.save()
            saved = time.monotonic()
        if run.step >= options.steps:
            return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--view", type=int, default=364, help="side of the square view, pixels")
    parser.add_argument("--crops", type=float, default=0.0, help="share of large pictures")
    parser.add_argument("--rows", type=int, default=16, help="rows in a batch")
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.view > VIEW:
        parser.error(f"the real view is {VIEW} pixels; a larger one teaches nothing")
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    run = Run(options.out, options.seed)
    run.load()
    train(run, options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
