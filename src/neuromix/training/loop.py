"""The one training loop: stages of epochs of steps, saved so that a run can go on exactly where it was.

A step is a batch. After each one the run is at a `Point`, and everything that the next step needs follows from
that point, the saved tensors and the seed.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from neuromix.core.checkpoint import load_checkpoint
from neuromix.core.errors import RunError
from neuromix.core.layout import transfer
from neuromix.core.model import Model
from neuromix.data.dataset import Loader
from neuromix.training.chance import stage_seed
from neuromix.training.devices import default_workers, to_channels_last
from neuromix.training.ema import Ema
from neuromix.training.evaluate import evaluate
from neuromix.training.method import Stage
from neuromix.training.observer import Observer
from neuromix.training.optimiser import learning_rate, make_optimiser
from neuromix.training.run import Best, Point, Run
from neuromix.training.run_folder import BEST, FINAL, LAST, STAGE, RunFolder
from neuromix.training.signals import Interrupted, StopSignals
from neuromix.training.snapshot import Snapshot
from neuromix.training.step import train_step
from neuromix.training.tally import Tally

_LOOK_EVERY = (
    10  # steps, on a device that runs ahead of Python: a look at its numbers makes Python wait for it
)
_WORTH_SAVING = 5.0  # seconds of training that an interrupted validation may lose


class Loop:
    """Trains a run to its end.

    Args:
        run: as it begins.
        folder: where everything is kept.
        observer: is told how it goes.
        signals: asked after each step whether to stop.
    """

    def __init__(self, run: Run, folder: RunFolder, observer: Observer, signals: StopSignals) -> None:
        self.run, self.folder, self.observer, self.signals = run, folder, observer, signals
        self._tally = Tally(run.fabric.device)
        self._lines = 0
        self._trained = False
        self._saved_at = time.monotonic()

    def fit(self, snapshot: Snapshot | None = None) -> None:
        """Goes through the stages, from the beginning or from a snapshot.

        Raises:
            RunError: the loss is not finite, memory is short, or a file cannot be written.
            Interrupted: a signal came.
        """
        try:
            self._go_through(snapshot)
        except torch.OutOfMemoryError as error:
            raise RunError("out of memory on the device; lower batch_size, or raise accumulate") from error
        except RuntimeError:
            if self.signals.received:  # which has ended the processes that read data as well
                self._interrupt(self.signals.received)
            raise

    def _go_through(self, snapshot: Snapshot | None) -> None:
        if snapshot is not None:
            self.run.point, self._lines = snapshot.point, snapshot.state["lines"]
            snapshot.restore_methods(self.run)
        for i in itertools.count(self.run.point.stage):
            stage = self._enter(i, snapshot)
            if stage is None:
                return
            self._train(stage)
            self._leave(i, stage)
            snapshot = None

    def finish(self) -> dict[str, dict[str, float]]:
        """Ends a run whose stages are over: lets the methods finish the best model, scores and keeps it."""
        run, folder = self.run, self.folder
        self._trained = True
        run.fabric.barrier()  # the first process has written what all read now
        run.model = load_checkpoint(folder.path / BEST)
        finished = run.method.finish(run)
        if run.method.finishes and run.fabric.is_global_zero:
            folder.save(FINAL, finished)
        finished.to(run.fabric.device)
        scores = {split: self._score(finished, split) for split in ("validation", "test")}
        if run.fabric.is_global_zero:
            folder.write_scores({**scores, "parameters": finished.num_parameters()})
        return scores

    def _enter(self, i: int, snapshot: Snapshot | None) -> Stage | None:
        """Makes the run ready for stage i: as it starts, or as it was at the snapshot."""
        run = self.run
        if snapshot is not None and i > 0 and run.method.has_stages:
            run.model = load_checkpoint(self.folder.path / STAGE.format(i))
        stage = run.method.stage(i, run)
        if stage is None:
            return None
        if snapshot is not None and snapshot.point == Point(i):  # saved as this stage began
            snapshot = None
        run.model, run.task = stage.model if snapshot is None else snapshot.model, stage.task
        self._set_up(stage)
        if snapshot is not None:
            snapshot.restore_training(run)
            self._tally = Tally(run.fabric.device, snapshot.sums)
        return stage

    def _set_up(self, stage: Stage) -> None:
        """Model, optimiser and data of a stage, at its start."""
        run, config, fabric = self.run, self.run.config, self.run.fabric
        run.model.to(fabric.device)
        if config.channels_last:
            to_channels_last(run.model)
        rules = {**run.model.parameter_rules(), **stage.rules}
        run.net, run.optimiser = fabric.setup(run.model, make_optimiser(run.model, config, rules))
        run.ema = Ema(run.model, config.ema) if config.ema > 0 else None
        run.step, run.best, self._tally = 0, None, Tally(fabric.device)
        data = run.task.data("train", augment=True)
        # A set that is smaller than a batch is one batch; else a short last batch is left out.
        short = len(data) < config.batch_size
        self._loader = Loader(
            data,
            config.batch_size,
            seed=stage_seed(config.seed, run.point.stage),
            shuffle=True,
            drop_last=not short,
            pad=short,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
            workers=default_workers(config, fabric),
            pin_memory=fabric.device.type == "cuda",
            collate=run.task.collate,
        )
        whole = stage.epochs * len(self._loader)
        self._steps = min(whole, config.max_steps or whole)

    def _leave(self, i: int, stage: Stage) -> None:
        """Ends stage i, and keeps what the next one starts from: a resumed run makes that stage again from it."""
        if stage.best:
            self.run.fabric.barrier()  # the first process has written what all read now
            transfer(self.run.model, load_checkpoint(self.folder.path / BEST).state_dict())
        results = [method.after_stage(self.run) for method in self.run.method]
        if any(results) and self.run.fabric.is_global_zero:
            self.folder.write_results({name: value for each in results for name, value in each.items()})
        self.run.point = Point(i + 1)
        if self.run.method.has_stages and self.run.fabric.is_global_zero:
            self.folder.save(STAGE.format(i + 1), self.run.model)
        self._save()

    def _train(self, stage: Stage) -> None:
        run, batches = self.run, len(self._loader)
        if stage.note and run.point == Point(run.point.stage):
            self.observer.note(stage.note)
        self.observer.stage(stage.name, run.point.stage, min(stage.epochs * batches, self._steps), run.step)
        while not self._over(stage):
            speed = self._epoch()
            self._end_epoch(stage, speed)

    def _over(self, stage: Stage) -> bool:
        run = self.run
        if run.point.batch > 0:  # an epoch is under way
            return False
        asked = stage.stop is not None and run.point.epoch > 0 and stage.stop(run)
        return run.point.epoch >= stage.epochs or run.step >= self._steps or asked or self._out_of_patience()

    def _out_of_patience(self) -> bool:
        run, patience = self.run, self.run.config.patience
        return patience is not None and run.best is not None and run.point.epoch - run.best.epoch >= patience

    def _epoch(self) -> float | None:
        """The steps of the present epoch that are left; gives the samples per second, None if none was left."""
        run, device = self.run, self.run.fabric.device
        begin, seen = time.perf_counter(), 0
        run.model.train()
        batches = self._loader.batches(run.point.epoch, run.point.batch)
        for batch in itertools.islice(batches, self._steps - run.step):
            train_step(run, batch.to(device), self._tally, self._steps)
            run.point = run.point._replace(batch=run.point.batch + 1)
            seen += batch.size * run.fabric.world_size
            last = run.point.batch == len(self._loader) or run.step == self._steps
            if last or device.type == "cpu" or run.step % _LOOK_EVERY == 0:
                self._look()
        return round(seen / (time.perf_counter() - begin), 1) if seen else None

    def _look(self) -> None:
        """Looks whether the run can go on, and saves it when it is time to."""
        run, config = self.run, self.run.config
        signal = torch.full_like(self._tally.bad, self.signals.received)
        bad, number = map(int, run.fabric.all_reduce(torch.stack([self._tally.bad, signal]), reduce_op="max"))
        step = Tally.bad_step(bad)
        if step is not None:
            raise RunError(self._not_finite(step))
        self.observer.batch(run.step, float(self._tally.last))
        if number:
            self._save()
            run.fabric.barrier()  # the first process to end makes torchrun end the others
            self._interrupt(number)
        by_step = config.checkpoint_steps is not None and run.step % config.checkpoint_steps == 0
        if by_step or time.monotonic() - self._saved_at > config.checkpoint_seconds:
            self._save()

    def _end_epoch(self, stage: Stage, speed: float | None) -> None:
        run, epoch = self.run, self.run.point.epoch + 1
        if time.monotonic() - self._saved_at > _WORTH_SAVING:
            self._save()
        _share_buffers(run.model, run.evaluated)
        for method in run.method:
            method.after_epoch(run)
        record: dict[str, Any] = {"stage": stage.name, "epoch": epoch, "step": run.step}
        record["train"] = {name: self._mean(loss) for name, loss in self._tally.means().items()}
        record["validation"] = self._score(run.evaluated, "validation")
        record |= {"lr": learning_rate(run.config, run.step - 1, self._steps), "samples_per_second": speed}
        if run.fabric.is_global_zero:
            self.folder.append(record)
        self._lines += 1
        self._keep_best(record["validation"][run.task.score], epoch)
        self.observer.epoch(record)
        run.point, self._tally = Point(run.point.stage, epoch), Tally(run.fabric.device)
        self._save()

    def _score(self, model: Model, split: str) -> dict[str, float]:
        run = self.run
        return evaluate(
            model,
            run.task,
            split,
            batch_size=run.config.batch_size,
            seed=run.config.seed,
            workers=default_workers(run.config, run.fabric),
            fabric=run.fabric,
            on_batch=lambda done, batches: self._while_scoring(split, done, batches),
        )

    def _keep_best(self, score: float, epoch: int) -> None:
        run = self.run
        higher = run.task.higher_is_better
        # Of equal scores the later one counts: it was trained for longer.
        if run.best is None or (score >= run.best.score if higher else score <= run.best.score):
            run.best = Best(score, epoch)
            if run.fabric.is_global_zero:
                self.folder.save(BEST, run.evaluated)

    def _mean(self, value: Tensor) -> float:
        """The mean over the processes, as many digits as metrics.jsonl shows."""
        mean = self.run.fabric.all_reduce(value)
        assert isinstance(mean, Tensor)
        return round(float(mean), 6)

    def _save(self) -> None:
        if self.run.fabric.is_global_zero:
            snapshot = Snapshot.take(self.run, self._tally.sums, self._lines)
            self.folder.save(LAST, self.run.model, snapshot.packed())
        self._saved_at = time.monotonic()

    def _while_scoring(self, split: str, done: int, batches: int) -> None:
        self.observer.evaluating(split, done, batches)
        # Several processes cannot agree here to stop: they may have unlike numbers of batches.
        if self.signals.received and self.run.fabric.world_size == 1:
            self._interrupt(self.signals.received)

    def _interrupt(self, number: int) -> None:
        where = "after training" if self._trained else f"in epoch {self.run.point.epoch + 1}"
        raise Interrupted(
            f"stopped {where}; go on with: neuromix train --resume --out {self.folder.path}", number
        )

    def _not_finite(self, step: int) -> str:
        last = self.folder.path / LAST
        kept = f"the last good checkpoint is {last}" if last.is_file() else "there is no checkpoint yet"
        return (
            f"loss or gradient is not finite at step {step} (epoch {self.run.point.epoch + 1}), so training stopped; "
            f"{kept}; a lower rate may help: --set train.lr={self.run.config.lr / 3:.1g}"
        )


def _share_buffers(*models: Model) -> None:
    """Gives all processes the running statistics of the first one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for model in models:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)
