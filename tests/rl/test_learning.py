"""Agents learn what needs memory, and what they learn from is what they did."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from signs import Recall

from compressive_transformer.model import ModelConfig
from compressive_transformer.rl.actor import Actor
from compressive_transformer.rl.agent import Agent, Inputs
from compressive_transformer.rl.config import AgentConfig, LearnConfig
from compressive_transformer.rl.envs import Spaces, make_envs
from compressive_transformer.rl.learner import Learner, Spread
from compressive_transformer.rl.trainer import AgentTrainer
from compressive_transformer.train.faults import Diverged

SMALL = ModelConfig(
    dim=32,
    num_heads=2,
    num_layers=1,
    mlp_dim=32,
    position_features=8,
    segment=3,
    memory=3,
    compressed_memory=3,
    compression_rate=3,
)
"""Of the steps that a window of 6 looks back to, some are compressed."""
CORES = ("compressive", "transformer-xl", "lstm", "none")


def config_of(**settings: Any) -> AgentConfig:
    learn = LearnConfig(lr=4e-3, reward_scale=1.0, discount=0.9, entropy=0.01)
    usual: dict[str, Any] = {"envs": 16, "window": 6, "model": SMALL, "learn": learn, "steps": 6_000}
    return AgentConfig(**usual | settings)


def trainer_of(config: AgentConfig, envs: Any = None, **callbacks: Any) -> AgentTrainer:
    torch.manual_seed(config.seed)
    envs = envs or Recall(config.envs)
    agent = Agent(envs.spaces, config.core, config.core_config(), reward_scale=config.learn.reward_scale)
    return AgentTrainer(agent, envs, config, **callbacks)


def learnt(trainer: AgentTrainer, share: float = 0.95, steps: int = 15_000) -> bool:
    """Trains until so many of the last episodes succeed; False if they never do."""
    while trainer.step < steps:
        trainer.train_window(trainer.done)
        last = [episode.success for episode in trainer.episodes[-64:]]
        if len(last) == 64 and sum(last) >= share * 64:
            return True
    return False


@pytest.mark.parametrize(
    ("core", "algorithm"),
    [("compressive", "ppo"), ("compressive", "vtrace"), ("transformer-xl", "ppo"), ("lstm", "vtrace")],
)
def test_memory_is_learnt(core: Any, algorithm: Any):
    config = config_of(core=core)
    if algorithm == "vtrace":
        config = replace(config, learn=replace(config.learn, algorithm="vtrace", epochs=2, lr=2e-3))
    assert learnt(trainer_of(config))


def test_without_memory_there_is_nothing_to_learn():
    assert not learnt(trainer_of(config_of(core="none")), share=0.8, steps=8_000)


@pytest.mark.parametrize("core", CORES)
def test_a_window_has_the_probabilities_that_its_actions_had(core: Any):
    """Also in later windows, where episodes have ended at different steps, and after updates."""
    envs = make_envs("NonMatch-v0", ["objects=3", "length=7", "delay=1"], num_envs=4)
    config = config_of(core=core, envs=4, window=5)
    trainer = trainer_of(config, envs)
    for parameter in trainer.agent.policy.parameters():
        torch.nn.init.normal_(parameter)
    for _ in range(6):
        trainer.train_window(trainer.done)
    assert max(losses.ratio_error for losses in trainer.losses) < 1e-5


def test_a_window_keeps_one_state_whatever_its_length():
    config = config_of()
    actor = trainer_of(config).actor
    short, long = actor.window(2)[0], actor.window(40)[0]
    assert short.state.num_bytes() == long.state.num_bytes()
    assert long.rewards.shape == (40, config.envs)


def test_actions_that_are_numbers_are_learnt():
    """Reward is how near an action comes to the sign that was shown."""

    class Near(Recall):
        spaces = Spaces(observation_shape=(3,), low=(-1.0,), high=(1.0,))

        def step(self, actions: Any):
            sign = self.sign * 1.0
            moment = super().step((actions[:, 0] > 0.5).astype(int))
            return moment._replace(rewards=(1 - abs(actions[:, 0] - sign)).astype("float32") * moment.ended)

    config = config_of(core="lstm")
    assert learnt(trainer_of(config, Near(config.envs)), share=0.85)


def test_pixels_and_symbols_are_read():
    for shape in ((7, 7, 3), (40, 48, 3)):
        spaces = Spaces(observation_shape=shape, symbols=True, num_actions=2)
        agent = Agent(spaces, "compressive", SMALL)
        seen = torch.randint(0, 11, (5, 4, *shape), dtype=torch.uint8)
        inputs = Inputs(seen, torch.zeros(5, 4, dtype=torch.int64), torch.zeros(5, 4), seen[..., 0, 0, 0] < 2)
        whole = agent.features(inputs)
        one = agent.features(Inputs(*(x[3] for x in inputs)))
        torch.testing.assert_close(whole[3], one)
        assert len(whole.flatten(0, 1).unique(dim=0)) == 20


def test_the_last_action_and_reward_are_felt_but_not_those_of_another_episode():
    agent = Agent(Recall.spaces, "none", SMALL)
    inputs = Inputs(torch.zeros(1, 3), torch.tensor([0]), torch.tensor([0.0]), torch.tensor([False]))
    others = (inputs._replace(action=torch.tensor([1])), inputs._replace(reward=torch.tensor([2.0])))
    for other in others:
        assert not torch.equal(agent.features(inputs), agent.features(other))
        begun = (x._replace(resets=torch.tensor([True])) for x in (inputs, other))
        assert torch.equal(*(agent.features(x) for x in begun)) or other is others[0]
    first = [agent.features(x._replace(resets=torch.tensor([True]))) for x in (inputs, *others)]
    assert torch.equal(first[0], first[1])
    assert torch.equal(first[0], first[2])


def test_the_compressor_learns_from_its_own_loss_alone():
    """Without it, a window within one segment leaves the compressor as it is."""
    config = config_of(window=3, steps=1_000)
    trainer = trainer_of(config)
    actor = Actor(trainer.agent, Recall(16), torch.Generator().manual_seed(0))
    window = [actor.window(3)[0] for _ in range(4)][-1]
    trainer.agent.train()
    decision, compression = trainer.agent.learn(window.inputs, window.state)
    (decision.values.sum() + decision.policy.square().sum()).backward(retain_graph=True)
    named = dict(trainer.agent.named_parameters())
    compressor = [p for name, p in named.items() if "compressor" in name]
    assert compressor
    assert all(p.grad is None or not p.grad.any() for p in compressor)
    trainer.agent.zero_grad()
    compression.backward()
    assert all(p.grad is not None and p.grad.any() for p in compressor)
    assert all(p.grad is None or not p.grad.any() for name, p in named.items() if "compressor" not in name)


def test_windows_without_rewards_are_not_scaled_up():
    """Nine of ten have none: what they teach stays small beside what the tenth does."""
    spread = Spread()
    found = [spread.add(1.0 if window % 10 == 9 else 0.0) for window in range(1000)]
    assert found[-1] == pytest.approx(0.1**0.5, rel=0.1)
    assert Spread().add(0.25) == pytest.approx(0.5)


@pytest.mark.parametrize("algorithm", ["ppo", "vtrace"])
def test_what_a_limit_of_time_cut_off_is_not_lost(algorithm: Any):
    """As if the last state's value were paid out at the limit; of ends that are ends, nothing is."""
    trainer = trainer_of(config_of())
    window, _ = trainer.actor.window(6)
    limited = window.ended & (torch.arange(16) < 8)
    window = window._replace(limited=limited, values=torch.full_like(window.values, 3.0))
    assert limited.any()
    learn = replace(trainer.config.learn, algorithm=algorithm, reward_scale=2.0, discount=0.9)
    rewards, discounts = Learner(trainer.agent, learn)._scaled(window)
    assert rewards[limited].tolist() == pytest.approx((2 * window.rewards[limited] + 2.7).tolist())
    assert torch.equal(rewards[~limited], 2 * window.rewards[~limited])
    assert not discounts[window.ended].any()
    rewards, _ = Learner(trainer.agent, replace(learn, beyond_limits=False))._scaled(window)
    assert torch.equal(rewards, 2 * window.rewards)


def test_a_loss_that_is_no_number_stops_and_changes_nothing():
    trainer = trainer_of(config_of())
    window, _ = trainer.actor.window(6)
    before = {name: x.clone() for name, x in trainer.agent.state_dict().items()}
    window.rewards[2, 3] = float("nan")
    learner = Learner(trainer.agent, LearnConfig())
    with pytest.raises(Diverged, match="use a lower --learn"):
        learner.update(window, 0.0, torch.Generator())
    assert all(torch.equal(x, before[name]) for name, x in trainer.agent.state_dict().items())
