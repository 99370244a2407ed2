"""Runs of agents, from settings to a run folder."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from compressive_transformer.checkpoint import CONFIG
from compressive_transformer.errors import Stopped, UsageError
from compressive_transformer.rl.agent import Agent
from compressive_transformer.rl.config import AgentConfig
from compressive_transformer.rl.envs import Environments, make_envs
from compressive_transformer.rl.folder import AgentRun, config_content, make_agent
from compressive_transformer.rl.score import AgentScore, evaluate_agent
from compressive_transformer.rl.trainer import AgentProgress, AgentTrainer
from compressive_transformer.storage import is_count, write_json
from compressive_transformer.tasks.folder import open_run
from compressive_transformer.tasks.resume import is_scored, newest
from compressive_transformer.train.faults import Diverged
from compressive_transformer.train.log import Display, Metrics
from compressive_transformer.train.parallel import World, join
from compressive_transformer.train.saver import Saver
from compressive_transformer.train.sinks import check_sinks, open_sinks


def train_agent(config: AgentConfig, *, resume: Path | None = None) -> tuple[Path, AgentScore | None]:
    """Trains an agent and leaves a run folder.

    Args:
        config: environment, budget, core; on resume all settings of the run, changed or not.
        resume: the run to go on with.

    Returns:
        The run folder and a score of new episodes; no score in all processes but the first.

    Raises:
        UsageError: the settings can't be used, or the run can't be resumed so.
        Stopped: SIGINT or SIGTERM came; the run was saved.
    """
    check_sinks(config.sinks)
    with join(config.device) as world:
        envs = environments(config, world)
        try:
            torch.manual_seed(config.seed)
            agent = make_agent(config, envs.spaces).to(world.device)
            run, lock = open_run(config.out, "rl", resume, world)
            with lock:
                return run, _Session(config, run, agent, envs, world, resuming=resume is not None).train()
        finally:
            envs.close()


def environments(config: AgentConfig, world: World | None = None) -> Environments:
    """Those that an agent is trained in; of several processes this one's.

    Raises:
        UsageError: they can't be shared out evenly to processes and minibatches.
    """
    share = (world or World(device=torch.device("cpu"))).share(config.envs, "environments")
    if len(share) % config.learn.minibatches:
        raise UsageError(
            f"{len(share)} environments of a process can't be divided into {config.learn.minibatches} "
            "minibatches; use a multiple"
        )
    return make_envs(
        config.env,
        config.env_options,
        num_envs=len(share),
        workers=config.workers,
        seed=config.seed + share.start,
    )


class _Session:
    """What happens around the windows of a run: display, metrics, checkpoints; the first process tells."""

    def __init__(
        self,
        config: AgentConfig,
        run: Path,
        agent: Agent,
        envs: Environments,
        world: World,
        *,
        resuming: bool,
    ):
        self.config, self.run, self.agent, self.world = config, run, agent, world
        self.trainer = AgentTrainer(
            agent, envs, config, world=world, on_record=self.record, on_pause=self.pause
        )
        said = [f"{sum(p.numel() for p in agent.parameters()):,} parameters; run folder {run}"]
        offset = 0
        self._saved: int | None = None
        if resuming:
            checkpoint, facts = newest(run, world)
            if not is_count(facts.get("metrics")):
                raise UsageError(f"{checkpoint}/facts.json lacks metrics; it is of another version")
            same = self.trainer.restore(checkpoint, facts)
            if self.trainer.done >= 1 and is_scored(run, "score"):
                raise UsageError(
                    f"the run is at its end (step {self.trainer.step:,}, {self.trainer.seconds / 60:.1f} "
                    "minutes); give a larger --steps or --minutes to go on"
                )
            offset, self._saved = facts["metrics"], self.trainer.step
            episodes = "" if same else f"; {config.env} can't be saved, so its episodes begin anew"
            said.append(f"goes on from step {self.trainer.step:,}{episodes}")
        self.metrics = self.display = None
        if world.first:
            write_json(run / CONFIG, config_content(config, envs.spaces))
            sinks = open_sinks(config.sinks, run, asdict(config), step=self.trainer.step)
            self.metrics = Metrics(run, offset=offset, sinks=sinks)
            self.display = Display("step")
        self.saver = Saver(run, world, config.save, failed=lambda why: self.say(f"warning: {why}"))
        for line in said:
            self.say(line)
        if resuming:
            self._keep("resume", step=self.trainer.step)

    def train(self) -> AgentScore | None:
        """Runs the trainer, and scores the agent in the first process.

        Raises:
            Stopped: a signal came, and the run was saved.
            UsageError: the loss is no number.
        """
        go_on = f"go on with: compressive train --resume {self.run}"
        try:
            with self.display or nullcontext(), self.trainer.signals.heeded():
                stopped = None
                try:
                    self.trainer.run()
                except Stopped as reason:
                    stopped = Stopped(f"{reason} and saved; {go_on}")
                except Diverged as error:
                    left = self._saved is not None
                    raise UsageError(f"{error}; {go_on}" if left else str(error)) from None
                finally:
                    saved = self.saver.wait()
                    self.saver.close()
                if not saved:
                    raise UsageError("the run could not be saved at its end; see the warning above")
                if stopped:
                    raise stopped
            if not self.world.first:
                return None
            score = evaluate_agent(AgentRun(path=self.run, agent=self.agent, config=self.config))
            self._keep("score", step=self.trainer.step, **asdict(score))
            return score
        finally:
            if self.metrics:
                self.metrics.close()

    def record(self, progress: AgentProgress) -> None:
        """Shows and keeps a record."""
        self._keep("train", **asdict(progress))
        if self.display:
            self.display.advance(progress.done, describe(progress))

    def pause(self, trainer: AgentTrainer) -> None:
        """Saves."""
        if trainer.step == self._saved:
            return
        facts = trainer.facts() | {"metrics": self.metrics.offset if self.metrics else 0, "score": None}
        self.saver.save(trainer.step, trainer.tensors(), facts, None)
        self._saved = trainer.step
        self._keep("saved", step=trainer.step)

    def say(self, text: str) -> None:
        """Prints a line, once for all processes."""
        if self.display:
            self.display.say(text)

    def _keep(self, event: str, **values: Any) -> None:
        if self.metrics:
            try:
                self.metrics.write(event, **values)
            except OSError as error:
                self.say(f"warning: {self.metrics.path} can't be written ({error.strerror})")


def describe(p: AgentProgress) -> str:
    """One line: return, success, speed, time left."""
    left = p.seconds * (1 - p.done) / max(p.done, 1e-9)
    said = [
        f"return {_shown(p.episode_return, '6.2f')}",
        f"success {_shown(p.success, '4.0%')}",
        f"entropy {p.losses['entropy']:.2f}",
        f"{p.steps_per_second:,.0f} steps/s",
        f"{int(left // 60)}:{int(left % 60):02d} left",
    ]
    if p.delay is not None:
        said.insert(2, f"delay {p.delay}")
    return "  ".join(said)


def _shown(value: float, form: str) -> str:
    return f"{value:{form}}" if math.isfinite(value) else "–"
