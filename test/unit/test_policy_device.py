"""A model on a GPU whose callers keep their tensors in main memory. The GPU is torch's fake one: it computes no numbers, but
knows where every tensor is, and mixes none."""

from __future__ import annotations

import checkpoints
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from vla_ros.errors import VlaRosError
from vla_ros.policy import adapter, device
from vla_ros.policy.model import VlaModel

CPU = torch.device("cpu")
GPU = torch.device("lazy:0")  # the one device that torch's fake tensors can be indexed on where it is not there


def observations(model: VlaModel, count: int) -> tuple[torch.Tensor, ...]:
    images = torch.zeros((count, *model.config.image_size, 3), dtype=torch.uint8)
    words = torch.ones((count, 12), dtype=torch.long)
    return images, words, words, torch.zeros((count, 2))


def on_fake_gpu() -> VlaModel:
    model = checkpoints.model()
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device=GPU)
                    tensors[name] = torch.nn.Parameter(fake, requires_grad=False) if tensors is module._parameters else fake
    return device.bridge(model, GPU)


def test_whatever_is_called_takes_and_gives_main_memory() -> None:
    with FakeTensorMode():
        model = on_fake_gpu()
        assert {p.device for p in model.parameters()} == {GPU}
        with pytest.raises(RuntimeError, match="same device"):
            model.vision_tower(torch.zeros((1, 3, 64, 64)))  # unlike the methods that are called from outside
        trunk = model.encode(*observations(model, 3))
        act, togo = model.read(trunk[:2])
        outs = model.action_logits(act), model.steps_to_go_head(togo)
        whole = model(*observations(model, 3))
    assert {t.device for t in (trunk.tokens, trunk.points, trunk.mask, act, togo, *outs, *whole.values())} == {CPU}
    assert [tuple(t.shape) for t in outs] == [(2, 1, 2, 21), (2, 61)]


def test_answers_and_gradients_are_the_models() -> None:
    plain, model = (adapter.add(checkpoints.model()) for _ in range(2))
    device.bridge(model, CPU)
    adapter.swap(model, adapter.state(plain))
    for m in (plain, model):
        m.action_logits(m.read(m.encode(*observations(m, 2)))[0]).square().sum().backward()
    for name, tensor in adapter.state(plain).items():
        torch.testing.assert_close(adapter.state(model)[name].grad, tensor.grad, rtol=0, atol=0)


def test_main_memory_changes_nothing_and_a_missing_gpu_is_named() -> None:
    model = checkpoints.model()
    assert device.put(model, "cpu").encode == model.encode
    assert "encode" not in vars(model)
    with pytest.raises(VlaRosError, match="device 'cuda:77': .*; expected cpu, or a GPU of this machine"):
        device.put(model, "cuda:77")
