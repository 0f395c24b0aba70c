"""sequential: one task after another, with nothing done against forgetting; and what continual methods share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from neuromix.core.errors import ConfigError
from neuromix.core.model import Model
from neuromix.core.registry import register_method
from neuromix.training.evaluate import evaluate
from neuromix.training.method import Method, Stage
from neuromix.training.optimiser import Rules
from neuromix.training.task_sequence import SequenceReport, TaskSequence

if TYPE_CHECKING:
    from neuromix.training.run import Run


class Phase(NamedTuple):
    """What a stage of a continual method does: learn task `task`, or go over what was stored of it and all before."""

    task: int
    replay: bool = False


@register_method("sequential")
class Sequential(Method):
    """A stage for each task of a sequence, each from the best weights of the one before.

    After each task all tasks so far are scored on test data; the accuracies are kept in results.json of the run. It
    suggests plain SGD at a constant rate, as the paper of HLOP trains, so that methods differ in nothing else.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.report: SequenceReport | None = None

    def training(self) -> dict[str, Any]:
        return {
            "epochs": 10,
            "optimiser": "sgd",
            "momentum": 0.0,
            "lr": 0.1,
            "warmup": 0.0,
            "final_lr": 1.0,
            "weight_decay": 0.0,
            "clip_norm": None,
        }

    def stage(self, i: int, run: Run) -> Stage | None:
        sequence = sequence_of(run)
        phases = self.phases(sequence)
        if i >= len(phases):
            run.task = sequence  # what is scored in the end
            return None
        phase = phases[i]
        task = sequence.first(phase.task + 1, self.stored()) if phase.replay else sequence.stage(phase.task)
        name = f"{'replay after ' if phase.replay else ''}task {phase.task + 1}"
        model = self.model_for(phase, run)
        rules = self.rules_for(phase, model)
        return Stage(
            name, model, task, self.epochs_of(phase, run), rules, best=True, note=self._note(sequence, phase)
        )

    def phases(self, sequence: TaskSequence) -> list[Phase]:
        """The stages: by default, one a task."""
        return [Phase(number) for number in range(len(sequence))]

    def phase(self, run: Run) -> Phase:
        """The stage that is under way."""
        return self.phases(sequence_of(run))[run.point.stage]

    def epochs_of(self, phase: Phase, run: Run) -> int:
        """How long a stage goes on."""
        return run.config.epochs

    def stored(self) -> int | None:
        """Samples a class that replay has; None: all."""
        return None

    def model_for(self, phase: Phase, run: Run) -> Model:
        """The model of a stage, made from that of the one before."""
        return run.model

    def rules_for(self, phase: Phase, model: Model) -> Rules:
        """Parameter rules of a stage."""
        return {}

    def after_stage(self, run: Run) -> dict[str, Any]:
        """Scores the tasks so far."""
        sequence, number = sequence_of(run), self.phase(run).task
        seen = sequence.first(number + 1)
        each = seen.accuracies()
        evaluate(
            run.model.to(run.fabric.device),
            seen,
            "test",
            batch_size=run.config.batch_size,
            seed=run.config.seed,
            fabric=run.fabric,
            also=(each,),
        )
        report = self.report or SequenceReport.of(sequence)
        self.report = report.after(number, each.compute())
        return {"sequence": self.report.to_dict()}

    def state_dict(self) -> dict[str, Any]:
        return {} if self.report is None else {"report": self.report.to_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.report = SequenceReport.from_dict(state["report"]) if "report" in state else None

    def _note(self, sequence: TaskSequence, phase: Phase) -> str:
        before = self.report.main.rows[-1] if self.report is not None and self.report.main.rows else ()
        known = f"; known so far: {', '.join(f'{accuracy:.4f}' for accuracy in before)}" if before else ""
        title = "replay of stored samples" if phase.replay else sequence.task_names[phase.task]
        return f"task {phase.task + 1} of {len(sequence)}: {title}{known}"


def sequence_of(run: Run) -> TaskSequence:
    """The sequence of tasks that a run goes through.

    Raises:
        ConfigError: its task is a single one.
    """
    if not isinstance(run.task, TaskSequence):
        raise ConfigError(
            "this method learns one task after another, and was given a single one; "
            "sequences are permuted-digits, split-digits, permuted-images and split-images"
        )
    return run.task.whole
