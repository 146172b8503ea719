"""Every family of image-text models: a tiny checkpoint is built, saved, loaded, trained for a step and asked for an action."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from vla_ros.errors import VlaRosError
from vla_ros.policy import adapter
from vla_ros.policy.model import VlaConfig
from vla_ros.policy.policy import VlaPolicy, load, save
from vla_ros.policy.vlm import OWN, VlmConfig, VlmModel, VlmPrompt, memory

WORDS = ("push", "reach", "the", "red", "cube", "to", "left")
SPECIAL = (
    "<image>", "<fake_token_around_image>", "<global-img>", "<|im_start|>", "<|im_end|>", "<end_of_utterance>",
    "<|vision_start|>", "<|vision_end|>",
)  # fmt: skip
VOCABULARY = {word: i for i, word in enumerate(("<pad>", "<unk>", "<bos>", "</s>", *WORDS, *SPECIAL))}
IMAGE, START, END = (VOCABULARY[name] for name in ("<image>", "<|vision_start|>", "<|vision_end|>"))
TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "vocab_size": len(VOCABULARY), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64,
    "patch_size": 16,
}  # fmt: skip
ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3]}
QWEN = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
ROBOT = {"image_size": (64, 64), "cameras": 2, "state_dim": 3, "action_dim": 2, "bins": 5, "chunk": 2, "robot": "panda"}
PUSH = "push the red cube"


def config(name: str) -> hf.PreTrainedConfig:
    if name in ("smolvlm", "idefics3"):
        kind = hf.SmolVLMConfig if name == "smolvlm" else hf.Idefics3Config
        text = {"model_type": "llama", **TEXT}
        return kind(text_config=text, vision_config=VISION, scale_factor=2, image_token_id=IMAGE)
    if name == "paligemma":
        vision = {"model_type": "siglip_vision_model", "projection_dim": 32, **VISION}
        text = {"model_type": "gemma", "head_dim": 16, **TEXT}
        return hf.PaliGemmaConfig(text_config=text, vision_config=vision, image_token_id=IMAGE, projection_dim=32)
    if name == "blip-2":
        text = {
            "model_type": "opt", "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "vocab_size": len(VOCABULARY), "word_embed_proj_dim": 32, "pad_token_id": 0, "bos_token_id": 3, "eos_token_id": 3,
        }  # fmt: skip
        former = {**TEXT, "encoder_hidden_size": 32}
        return hf.Blip2Config(
            vision_config=VISION, qformer_config=former, text_config=text, num_query_tokens=8, image_token_index=IMAGE
        )
    tokens = {"image_token_id": IMAGE, "vision_start_token_id": START, "vision_end_token_id": END}
    text = {**TEXT, "rope_scaling": ROPE, "head_dim": 16}
    if name == "qwen2_5_vl":
        vision = {**QWEN, "fullatt_block_indexes": [1], "patch_size": 14}
        return hf.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens)
    vision = {**QWEN, "deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    return hf.Qwen3VLConfig(text_config=text, vision_config=vision, **tokens)


def tokenizer() -> hf.PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", bos_token="<bos>", eos_token="</s>",
        additional_special_tokens=list(SPECIAL),
    )  # fmt: skip


@pytest.fixture(params=["smolvlm", "idefics3", "paligemma", "blip-2", "qwen2_5_vl", "qwen3_vl"])
def pretrained(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint as its makers would publish it."""
    torch.manual_seed(0)
    folder = tmp_path / request.param
    hf.AutoModel.from_config(config(request.param)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def policy_on(folder: Path) -> tuple[VlmModel, VlmPrompt]:
    torch.manual_seed(1)
    model = VlmModel.on(str(folder), ROBOT)
    words = hf.PreTrainedTokenizerFast.from_pretrained(folder)
    return model.eval(), VlmPrompt(words, model.config.base_config(), model.config.cameras)


def frames(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """images [count, 2, 64, 64, 3] and states [count, 3]."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (count, 2, 64, 64, 3), generator=generator, dtype=torch.uint8)
    return images, torch.rand((count, 3), generator=generator) * 2 - 1


def test_loads_trains_a_step_and_acts(pretrained: Path, tmp_path: Path) -> None:
    model, prompt = policy_on(pretrained)
    images, state = frames(4)
    ids, mask = prompt([PUSH, "reach the cube"] * 2)
    before = model(images, ids, mask, state)
    assert before["action"].shape == (4, 2, 2, 5)
    assert before["steps_to_go"].shape == (4, 61)

    adapter.add(model, rank=2)
    torch.testing.assert_close(model(images, ids, mask, state)["action"], before["action"])
    base = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # LoRA's second matrix starts at zero, so the first one moves with the second step
        loss = cross_entropy(model(images, ids, mask, state)["action"].flatten(0, 2), torch.zeros(16, dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trained = adapter.state(model)
    assert any("lora_" in name for name in trained)
    assert not any(part in name for name in trained for part in ("vision", "visual", "qformer"))
    assert all(p.grad is not None and p.grad.any() for p in trained.values())
    assert all(torch.equal(base[name], p) for name, p in model.named_parameters() if not p.requires_grad)

    one = VlaPolicy(model, prompt).infer(images[0].numpy(), PUSH, state[0].numpy(), greedy=True)
    assert one.tokens.shape == (2, 2)
    assert one.tokens.tolist() == model(images[:1], *prompt([PUSH]), state[:1])["action"][0].argmax(-1).tolist()


def test_half_precision_and_gradient_checkpointing_learn(pretrained: Path) -> None:
    model = VlmModel.on(str(pretrained), ROBOT, dtype=torch.bfloat16)
    prompt = VlmPrompt(tokenizer(), model.config.base_config(), 2)
    adapter.add(model, rank=2).train()
    model.base.gradient_checkpointing_enable()
    images, state = frames(4)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        logits = model(images, *prompt([PUSH] * 4), state)["action"]
        losses.append(cross_entropy(logits.flatten(0, 2), torch.zeros(16, dtype=torch.long)))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    assert next(model.base.parameters()).dtype == torch.bfloat16


def test_a_checkpoint_in_half_precision_where_it_is_told(pretrained: Path, tmp_path: Path) -> None:
    model, prompt = policy_on(pretrained)
    save(tmp_path / "ours", model, prompt, {})
    half, again = load(tmp_path / "ours", "panda", device="cpu:0", half=True)
    assert {p.dtype for p in half.base.parameters()} == {torch.bfloat16}
    assert {p.dtype for name, p in half.named_parameters() if not name.startswith("base.")} == {torch.float32}
    images, state = frames(2)
    wanted = VlaPolicy(model, prompt).infer(images[0].numpy(), PUSH, state[0].numpy(), True)
    found = VlaPolicy(half, again).infer(images[0].numpy(), PUSH, state[0].numpy(), True)
    assert np.isfinite(found.log_probability)
    assert found.log_probability == pytest.approx(wanted.log_probability, rel=0.05)


def test_our_checkpoint_answers_as_the_model_that_was_saved(pretrained: Path, tmp_path: Path) -> None:
    model, prompt = policy_on(pretrained)
    save(tmp_path / "ours", model, prompt, {})
    loaded, again = load(tmp_path / "ours", "panda")
    images, state = frames(2)
    for text in (PUSH, "reach the cube"):
        ids, mask = prompt([text] * 2)
        assert torch.equal(again([text] * 2)[0], ids)
        for key, value in model(images, ids, mask, state).items():
            torch.testing.assert_close(loaded(images, ids, mask, state)[key], value)
    with pytest.raises(VlaRosError, match="checkpoint is for robot 'panda'"):
        load(tmp_path / "ours", "aloha")


def test_every_camera_word_and_state_counts_and_company_does_not(pretrained: Path) -> None:
    model, prompt = policy_on(pretrained)
    images, state = frames(2)
    ids, mask = prompt([PUSH, "reach the cube to the left"])
    assert mask[:, -OWN:].all()
    assert not mask[0, 0]
    with torch.inference_mode():
        both = model(images, ids, mask, state)["action"]
        alone = model(images[:1], *prompt([PUSH]), state[:1])["action"][0]
        torch.testing.assert_close(both[0], alone, atol=1e-4, rtol=1e-4)
        for camera in range(2):
            other = images.clone()
            other[:, camera] = 255 - other[:, camera]
            assert (model(other, ids, mask, state)["action"] - both).abs().amax((1, 2, 3)).min() > 1e-5
        assert (model(images, ids, mask, -state)["action"] - both).abs().amax((1, 2, 3)).min() > 1e-5
        reached = model(images[:1], *prompt(["reach the red cube"]), state[:1])["action"][0]
        assert (reached - alone).abs().max() > 1e-5


def test_bad_input_is_refused(pretrained: Path) -> None:
    model, prompt = policy_on(pretrained)
    policy = VlaPolicy(model, prompt)
    state = np.zeros(3, np.float32)
    with pytest.raises(VlaRosError, match=r"expects \(2, 64, 64, 3\) uint8"):
        policy.infer(np.zeros((64, 64, 3), np.uint8), PUSH, state, greedy=True)
    with pytest.raises(VlaRosError, match="control token '<image>'"):
        prompt(["push <image>"])
    with pytest.raises(VlaRosError, match="instruction is empty"):
        prompt([" "])
    foreign = hf.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")))
    with pytest.raises(VlaRosError, match="image token"):
        VlmPrompt(foreign, model.config.base_config(), 1)
    with pytest.raises(VlaRosError, match="found no module that matches 'nothing'"):
        adapter.add(model, targets="nothing")


@pytest.mark.parametrize(
    ("name", "processor"),
    [
        ("smolvlm", Idefics3ImageProcessorPil(
            do_image_splitting=False, size={"longest_edge": 64}, max_image_size={"longest_edge": 64})),
        ("paligemma", SiglipImageProcessorPil(size={"height": 64, "width": 64})),
        ("blip-2", BlipImageProcessorPil(size={"height": 64, "width": 64})),
        ("qwen2_5_vl", Qwen2VLImageProcessorPil(patch_size=14, min_pixels=1, max_pixels=10**6)),
        ("qwen3_vl", Qwen2VLImageProcessorPil(
            patch_size=16, min_pixels=1, max_pixels=10**6, image_mean=[0.5] * 3, image_std=[0.5] * 3)),
    ],
)  # fmt: skip
def test_pixels_are_those_of_the_processor_of_transformers(name: str, processor: Any) -> None:
    model = VlmModel(VlmConfig(base=config(name).to_dict(), **ROBOT))
    height, width = model.family.size
    images = torch.randint(0, 256, (1, 2, height, width, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    ours = model.family.pixels(model.pixels(images))
    pictures = list(images[0].numpy())
    theirs = processor(images=[pictures] if name == "smolvlm" else pictures, return_tensors="pt")
    assert set(ours) <= set(theirs)
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key].to(value.dtype), atol=1e-5, rtol=1e-5)


def test_another_model_type_is_refused_and_memory_is_told() -> None:
    with pytest.raises(VlaRosError, match="model_type: found 'llama', expected one of smolvlm"):
        VlmModel(VlmConfig(base=hf.LlamaConfig(**TEXT).to_dict(), **ROBOT))
    assert VlaConfig.model_type != VlmConfig.model_type
    layer = torch.nn.Linear(10, 10, bias=False)
    assert memory(layer) == 100 * (4 + 12)
    assert memory(layer.requires_grad_(False)) == 400
