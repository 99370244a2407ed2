"""How many steps an agent acts and learns in a second, with each core, and where the time goes.

    python benchmarks/agents.py --out benchmarks/results/agents.json
    python benchmarks/agents.py --rounds 1 --windows 2 --envs 4                   # tries everything

The recipe ``rl`` on NonMatch-v0 with one core or another: windows of PPO, four passes over each. Each in a
process of its own, in rounds. Acting counts what it costs to decide, not the environment's own steps.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import Any, get_args

import torch

import harness
from compressive_transformer.recipes import rl
from compressive_transformer.rl.config import CoreName
from compressive_transformer.rl.folder import make_agent
from compressive_transformer.rl.run import environments
from compressive_transformer.rl.trainer import AgentTrainer

PARTS = ("environment", "acting", "learning")


def main() -> None:
    """Measures, prints a table, writes it down."""
    made = harness.parser(__doc__, (), sizes=False)
    made.add_argument("--envs", type=int, default=rl().envs, help=f"side by side (default: {rl().envs})")
    made.add_argument("--windows", type=int, default=20, help="in each measurement (default: 20)")
    made.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: 3)")
    a = harness.parse(made, child)
    tasks = {core: {"arm": core, "envs": a.envs, "windows": a.windows} for core in get_args(CoreName)}
    found = harness.in_rounds("agents", tasks, a.rounds, a.threads)
    rows = {core: summary(rounds) for core, rounds in found.items()}
    harness.record(a.out, f"{a.envs} environments", harness.about(a), rows)
    header = ("core", "steps/s", "acting, steps/s", "learning, steps/s", *PARTS)
    harness.show(f"agents, {a.envs} environments", header, [(core, *cells(m)) for core, m in rows.items()])


def child(task: dict[str, Any]) -> dict[str, Any]:
    """One core, once: seconds of each part of the windows after a first one."""
    base = rl()
    config = replace(base, core=task["arm"], envs=task["envs"], minutes=None, steps=10**9)
    torch.manual_seed(0)
    envs = environments(config)
    agent = make_agent(config, envs.spaces)
    trainer = AgentTrainer(agent, envs, config)
    trainer.train_window(0.0)
    before = dict(vars(trainer.actor.clock))
    seconds = harness.seconds(lambda: [trainer.train_window(0.0) for _ in range(task["windows"])])
    spent = {part: after - before[part] for part, after in vars(trainer.actor.clock).items()}
    steps = config.window * config.envs * task["windows"]
    parameters = sum(p.numel() for p in agent.parameters())
    return {"steps": steps, "seconds": seconds, "parameters": parameters} | spent


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over rounds."""
    if failed := [m for m in rounds if "failed" in m]:
        return failed[0]
    found = {part: median(m[part] / m["seconds"] for m in rounds) for part in PARTS}
    rates = {f"{part}_per_second": median(m["steps"] / m[part] for m in rounds) for part in PARTS[1:]}
    total = median(m["steps"] / m["seconds"] for m in rounds)
    return found | rates | {"steps_per_second": total, "parameters": rounds[0]["parameters"]}


def cells(m: dict[str, Any]) -> tuple[str, ...]:
    """A row of a table."""
    if "failed" in m:
        return m["failed"], *[""] * 5
    rates = (m["steps_per_second"], m["acting_per_second"], m["learning_per_second"])
    return *(f"{rate:,.0f}" for rate in rates), *(f"{m[part]:.0%}" for part in PARTS)


if __name__ == "__main__":
    main()
