"""RECAP: values, advantages and indicators by hand, the words on their way, and a corridor in which advantage must tell."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import checkpoints
import corridor
import numpy as np
import pytest
import torch

from vla_ros.errors import VlaRosError
from vla_ros.learning.absorb import plan
from vla_ros.learning.acting import Actor
from vla_ros.learning.indicator import NEGATIVE, POSITIVE, WORDS, Guided, Unaware, behind, learn_words
from vla_ros.learning.recap import Recap, RecapConfig
from vla_ros.learning.value import BINS, advantages, cost_of_failure, indicators, out_of_fold, returns, two_hot
from vla_ros.policy import adapter
from vla_ros.policy import policy as checkpoint
from vla_ros.policy.policy import VlaPolicy

FEW = RecapConfig(horizon=2, steps=30, batch=32, value_steps=30, learning_rate=3e-3)


def method(
    folder: Path, config: RecapConfig = FEW, per_update: int = 24, tasks: tuple[str, ...] = ("reach", "push"), **model: object
) -> Recap:
    acting = corridor.model(**model)
    prompt = learn_words(acting, checkpoints.prompt(), 0)
    torch.manual_seed(0)
    cells = corridor.cells(adapter.add(acting), per_update, tasks)
    cells.prompt = prompt
    return Recap(cells, {"push": corridor.demonstrations("push", 6)}, config, folder)


def test_no_failure_is_above_a_success() -> None:
    longest, failure = cost_of_failure([3, 30], [5, 40])
    assert (longest, failure) == (40, 40)
    assert cost_of_failure([90], [5]) == (90, 90)
    slowest, fastest = returns(30, True, longest, failure), returns(5, False, longest, failure)
    assert slowest[0] == pytest.approx(-30 / 80)
    np.testing.assert_allclose(fastest, [-45 / 80, -44 / 80, -43 / 80, -42 / 80, -41 / 80, -0.5])
    assert slowest.min() > fastest.max()
    assert returns(40, False, longest, failure).min() == -1


def test_distributions_have_the_value_as_their_mean() -> None:
    values = torch.tensor([-1.0, -0.5, -0.1234, 0.0])
    spread = two_hot(values)
    assert spread.shape == (4, BINS)
    torch.testing.assert_close(spread @ torch.linspace(-1, 0, BINS), values)
    torch.testing.assert_close(spread.sum(1), torch.ones(4))
    assert (spread > 0).sum(1).max() <= 2


def test_advantages_by_hand() -> None:
    """Four steps of an episode that succeeds; L + C_fail is 10."""
    r, v = returns(4, True, 5, 5), np.array([-0.5, -0.3, -0.4, -0.1, -0.7], np.float32)
    # two steps of -0.1 each and V of what came of them, less V; within two steps of the end the return, whatever V says there
    np.testing.assert_allclose(advantages(v, r, 2), [-0.2 - 0.4 + 0.5, -0.2 - 0.1 + 0.3, -0.2 + 0.4, -0.1 + 0.1], atol=1e-6)
    np.testing.assert_allclose(advantages(v, r, 9), r[:4] - v[:4], atol=1e-6)
    failed = returns(2, False, 5, 5)
    np.testing.assert_allclose(advantages(v[:3], failed, 5), [-0.7 + 0.5, -0.6 + 0.3], atol=1e-6)


def test_thresholds_are_of_advantages_and_of_each_task() -> None:
    advantage = np.concatenate([np.arange(10), 100 + np.arange(10), [7.5, 2.5]]).astype(np.float32)
    task = np.array([0] * 10 + [1] * 10 + [0, 0], np.int32)
    autonomous = np.array([True] * 20 + [False] * 2)
    corrected = np.zeros(22, bool)
    corrected[[0, 10]] = True
    found = indicators(advantage, task, autonomous, corrected, 0.4)
    assert found[:10].tolist() == [True, *[False] * 5, *[True] * 4], "the best four of ten, and the corrected one"
    assert found[10:20].tolist() == found[:10].tolist(), "whatever the task's level"
    assert found[20:].tolist() == [True, False], "an expert's step is measured by the policy's"


def test_a_value_is_said_by_a_network_that_has_not_seen_the_episode() -> None:
    """Every episode has a feature of its own that tells its return by heart, and all of them one that tells it truly."""
    random = np.random.default_rng(0)
    episode = torch.arange(20).repeat_interleave(12)
    luck = torch.from_numpy(random.uniform(-1, 0, 20).astype(np.float32))[episode]
    own = torch.nn.functional.one_hot(episode).float()
    by_heart = out_of_fold(own, luck, episode, 4, 150, 0)
    assert float(torch.corrcoef(torch.stack([by_heart, luck]))[0, 1]) < 0.3, "another episode's luck is not known"
    truly = out_of_fold(torch.cat([own, luck[:, None]], 1), luck, episode, 4, 150, 0)
    assert float(torch.corrcoef(torch.stack([truly, luck]))[0, 1]) > 0.7


def test_the_words_are_new_and_the_old_ones_as_they_were() -> None:
    model, prompt = corridor.model(), checkpoints.prompt()
    before = model.language_model.get_input_embeddings().weight.detach().clone()
    extended = learn_words(model, prompt, 0)
    after = model.language_model.get_input_embeddings().weight.detach()
    assert after.shape[0] == before.shape[0] + len(WORDS) == model.config.language["vocab_size"]
    torch.testing.assert_close(after[: len(before)], before)
    assert float((after[-1] - after[-2]).norm()) > 0.1 * float(before.norm(dim=1).mean())
    texts = [checkpoints.TEXT, "touch the red cube"]
    for old, new in zip(prompt(texts), extended(texts), strict=True):
        assert torch.equal(old, new)
    ids, mask = behind(extended, POSITIVE)(texts)
    assert extended.tokenizer.decode(ids[1][mask[1] == 1]) == "touch the red cube advantage positive"
    assert learn_words(model, extended, 1) is extended
    again = corridor.model()
    learn_words(again, prompt, 0)
    assert torch.equal(again.language_model.get_input_embeddings().weight, after), "a resumed run has the same rows"


def test_a_saved_checkpoint_reads_the_indicator_by_itself(tmp_path: Path) -> None:
    model = corridor.model()
    extended = learn_words(model, checkpoints.prompt(), 0)
    texts = [checkpoints.TEXT]
    checkpoint.save(tmp_path, model, behind(extended, POSITIVE), {"stage": "recap"})
    loaded, prompt = checkpoint.load(tmp_path, "panda")
    assert torch.equal(prompt(texts)[0], extended([f"{texts[0]} advantage positive"])[0])
    assert not torch.equal(prompt(texts)[0], behind(extended, NEGATIVE)(texts)[0])
    image, state = np.full((16, 16, 3), 120, np.uint8), np.zeros(2, np.float32)
    said, told = VlaPolicy(loaded, prompt), VlaPolicy(model, extended)
    one, other = said.infer(image, texts[0], state, True), told.infer(image, f"{texts[0]} advantage positive", state, True)
    assert one.log_probability == pytest.approx(other.log_probability, abs=1e-5)


def test_samples_without_the_indicator_have_their_share(tmp_path: Path) -> None:
    recap = method(tmp_path)
    found = recap.cells.batch()
    recap._kept.add(found, 24)
    recap._take_in()
    positive = [np.arange(len(s.plain)) % 2 == 0 for s in recap._sources]
    sources, shares = recap._samples(positive)
    assert sum(shares) == pytest.approx(1)
    plain = [id(s.plain) for s in recap._sources]
    assert sum(share for s, share in zip(sources, shares, strict=True) if id(s) in plain) == pytest.approx(0.3)
    expert = next(k for k, s in enumerate(sources) if s is recap._sources[0].plain)
    assert sum(shares[expert : expert + 3]) == pytest.approx(0.5)
    rows = plan([len(s) for s in sources], shares, 1000, torch.Generator().manual_seed(0))
    owner = torch.bucketize(rows, torch.tensor([len(s) for s in sources]).cumsum(0), right=True)
    without = sum(int((owner == k).sum()) for k, s in enumerate(sources) if id(s) in plain)
    assert without == pytest.approx(300, abs=len(sources))


def test_an_iteration_begins_with_the_first_policy_and_ends_with_the_positive_one(tmp_path: Path) -> None:
    recap = method(tmp_path)
    first = recap.prompt
    found, figures = recap.iterate()
    assert sum(map(len, found.values())) == 24
    assert recap.prompt is not first, "a trained policy is asked for its better self"
    assert {"value_rank", "absorbed_loss", "positive_of_failures"} <= set(figures)
    once = {name: t.detach().clone() for name, t in adapter.state(recap.model).items()}
    with torch.no_grad():
        for tensor in adapter.state(recap.model).values():
            tensor.add_(1.0)
    recap.learn()
    for name, tensor in adapter.state(recap.model).items():
        torch.testing.assert_close(tensor, once[name], msg=f"{name}: what the last iterate was does not matter")
    adapter.swap(recap.model, recap._first)
    assert recap.prompt is first, "the stage-1 checkpoint does not know the words"


def test_a_restart_has_all_that_was_practised(tmp_path: Path) -> None:
    recap = method(tmp_path)
    recap.iterate()
    again = method(tmp_path)
    again.cells.skip(24)
    again.resume([])
    again.learn()
    for name, tensor in adapter.state(again.model).items():
        torch.testing.assert_close(tensor, adapter.state(recap.model)[name], atol=1e-4, rtol=1e-3, msg=name)


def test_a_judge_reads_the_instruction_without_the_indicator() -> None:
    judge, model = corridor.model(1), corridor.model()
    prompt = learn_words(model, checkpoints.prompt(), 0)
    image, state, texts = torch.zeros((1, 16, 16, 3), dtype=torch.uint8), torch.zeros(1, 2), [checkpoints.TEXT]
    with torch.no_grad():
        told = Unaware(judge, prompt).encode(image, *behind(prompt, POSITIVE)(texts), state)
        plain = judge.encode(image, *checkpoints.prompt()(texts), state)
    assert torch.equal(told.tokens, plain.tokens)
    assert torch.equal(told.mask, plain.mask)


def test_guidance_goes_beyond_the_indicator() -> None:
    model = corridor.model()
    prompt = learn_words(model, checkpoints.prompt(), 0)
    (ids, mask), state = behind(prompt, POSITIVE)([checkpoints.TEXT]), torch.zeros(1, 2)
    image = torch.full((1, 16, 16, 3), 120, dtype=torch.uint8)
    out = {}
    with torch.no_grad():
        for beta in (0.0, 1.0, 2.0):
            actor = Guided(model, prompt, 0.04, beta)
            out[beta] = actor.action_logits(actor.read(actor.encode(image, ids, mask, state))[0])  # type: ignore[arg-type]
        plain = model(image, *prompt([checkpoints.TEXT]), state)["action"]
        told = Actor(model, 0.04).action_logits(Actor(model, 0.04).read(model.encode(image, ids, mask, state))[0])
    torch.testing.assert_close(out[0.0], plain, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out[1.0], told, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out[2.0], 2 * told - plain, atol=1e-5, rtol=1e-5)


def test_bad_input_names_itself(tmp_path: Path) -> None:
    with pytest.raises(VlaRosError, match="guidance is 2 and head 'gaussian', expected head bins"):
        method(tmp_path, RecapConfig(guidance=2.0), head="gaussian")
    with pytest.raises(VlaRosError, match="drop is 1.0, expected more than 0 and less than 1"):
        RecapConfig(drop=1.0)
    pretrained = cast(Any, SimpleNamespace(config=SimpleNamespace(model_type="vla_ros_vlm")))
    with pytest.raises(VlaRosError, match="recap: found a policy of type vla_ros_vlm, expected vla_ros"):
        learn_words(pretrained, checkpoints.prompt(), 0)


def test_advantage_tells_a_policy_what_to_do(tmp_path: Path) -> None:
    """Nearly all samples are its own, two thirds of them of failures at first: what it is told makes the difference."""
    config = RecapConfig(
        horizon=2, steps=150, batch=64, value_steps=150, learning_rate=5e-3, label_sigma=0.0, expert_share=0.1
    )  # fmt: skip
    recap = method(tmp_path, config, 48, ("push",))
    before = corridor.success(recap.model, "push")
    for _ in range(2):
        _, figures = recap.iterate()
    assert figures["value_rank"] > 0.4
    assert figures["positive_of_successes"] > figures["positive_of_failures"] + 0.2
    rates = {}
    for name, prompt in (("positive", recap._positive), ("none", recap._plain), ("negative", recap._negative)):
        cells = corridor.cells(recap.model, 48, ("push",), 10_000)
        cells.prompt = prompt
        rates[name] = float(np.mean([p.episode.detected for p in cells.batch()["push"]]))
    assert rates["positive"] > before + 0.3
    assert rates["positive"] > rates["none"] > rates["negative"] + 0.2
