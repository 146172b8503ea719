"""Cost of one inference, from a camera frame and an instruction to action tokens (VlaPolicy.infer), by each engine of
vla_ros/policy/engines.py: of the small policy in its default shape, and of a policy on SmolVLM-256M (its real shape, random
weights, one camera of 512 x 512 px). Both carry LoRA, as in policy_node.

One thread. Every engine is a process of its own; they are built side by side, as many as there are cores, and then timed in
turns, so that each sees the same load of a shared machine, until SECONDS are over. Times are wall and processor time of a
call. `peak_mb` is the largest resident memory of the process with building (of onnx and int8: the export), `run_mb` that while
it infers. `best_over_eager` is p50 of eager over p50 of the fastest engine, `best_over_eager_cpu` the same of processor time.
`load` is the machine's, before and after.

Beside them LeRobot's ACT with its default network: one new chunk of 100 rows for every frame, of the same size. LeRobot wants
an older torch, so it may live in an environment of its own, .venv-lerobot, which `make bench-lerobot` prepares. Its SmolVLA
cannot be built without files from the hub, and is not here.

    python benchmarks/inference.py [--quick] [--json] [--lerobot PYTHON]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

Figures = dict[str, Any]
ENGINES = ("eager", "compiled", "onnx", "int8")
SIZES = {"small": 64, "smolvlm-256m": 512}  # px of the camera
CALLS = {"small": 50, "smolvlm-256m": 1}  # of each engine in a turn
SECONDS = {"small": 25.0, "smolvlm-256m": 50.0}  # of turns
QUICK = {"small": 6.0, "smolvlm-256m": 15.0}
TURNS = 3  # at least
LEROBOT = ROOT / ".venv-lerobot" / "bin" / "python"
WORDS = ("push", "reach", "the", "red", "blue", "cube", "cylinder", "to", "left", "right")
TEXT = "push the red cube to the left"


def small() -> tuple[Any, Any]:
    """VlaModel as VlaConfig() makes it, and its prompt."""
    from vla_ros.policy.model import VlaConfig, VlaModel
    from vla_ros.policy.prompt import WordPrompt

    return VlaModel(VlaConfig()), WordPrompt.of(WORDS)


def smolvlm() -> tuple[Any, Any]:
    """The shape of HuggingFaceTB/SmolVLM-256M: SigLIP-B/16 at 512 px, 64 tokens a picture, SmolLM2-135M."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, SmolVLMConfig

    from vla_ros.policy.vlm import VlmConfig, VlmModel, VlmPrompt

    special = ("<image>", "<fake_token_around_image>", "<global-img>", "<|im_start|>", "<end_of_utterance>")
    vocabulary = {word: i for i, word in enumerate(("<pad>", "<unk>", *special, *WORDS))}
    base = SmolVLMConfig(
        vision_config={
            "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "image_size": 512, "patch_size": 16,
        },
        text_config={
            "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49280, "max_position_embeddings": 8192,
            "rope_theta": 100000.0, "rms_norm_eps": 1e-5, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None,
        },
        scale_factor=4, image_token_id=vocabulary["<image>"],
    )  # fmt: skip
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", additional_special_tokens=list(special)
    )
    edge = SIZES["smolvlm-256m"]
    model = VlmModel(VlmConfig(base=base.to_dict(), image_size=(edge, edge)))
    return model, VlmPrompt(tokenizer, model.config.base_config(), cameras=1)


MODELS: dict[str, Callable[[], tuple[Any, Any]]] = {"small": small, "smolvlm-256m": smolvlm}


def policy_call(kind: str, engine: str) -> Callable[[np.ndarray, np.ndarray], Any]:
    """infer() of a policy with random weights."""
    import torch

    from vla_ros.policy import adapter, engines
    from vla_ros.policy.policy import VlaPolicy

    torch.manual_seed(0)
    model, prompt = MODELS[kind]()
    policy = VlaPolicy(model, prompt, engines.build(engine, adapter.add(model), prompt))
    return lambda image, state: policy.infer(image, TEXT, state, greedy=False)


def act_call(kind: str) -> Callable[[np.ndarray, np.ndarray], Any]:
    """LeRobot's ACT with random weights: a new chunk for every frame."""
    import torch
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy

    edge = SIZES[kind]
    camera, state_key = "observation.images.top", "observation.state"
    config = ACTConfig(
        input_features={
            camera: PolicyFeature(FeatureType.VISUAL, (3, edge, edge)), state_key: PolicyFeature(FeatureType.STATE, (2,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
        pretrained_backbone_weights=None, device="cpu",
    )  # fmt: skip
    policy = ACTPolicy(config).eval()

    @torch.inference_mode()
    def call(image: np.ndarray, state: np.ndarray) -> Any:
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        return policy.predict_action_chunk({camera: pixels, state_key: torch.from_numpy(state)[None]})

    return call


def serve(kind: str, engine: str) -> None:
    """The process of one engine: builds it and says so, then answers each line "n" with the times of n calls."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes elsewhere
    import torch

    torch.set_num_threads(1)
    start = perf_counter()
    call = act_call(kind) if engine == "lerobot-act" else policy_call(kind, engine)
    built = perf_counter() - start
    random = np.random.default_rng(0)
    edge = SIZES[kind]
    frames = random.integers(0, 256, (16, edge, edge, 3), np.uint8)
    states = random.uniform(-1, 1, (16, 2)).astype(np.float32)
    for k in range(CALLS[kind]):
        call(frames[k % 16], states[k % 16])
    print(json.dumps({"peak_mb": most_resident(), "build_s": built}), file=answers, flush=True)
    Path("/proc/self/clear_refs").write_text("5")  # the most so far starts anew
    for line in sys.stdin:
        wall, cpu, parts = [], [], []
        for k in range(int(line)):
            start_cpu, start = thread_time(), perf_counter()
            answer = call(frames[k % 16], states[k % 16])
            wall.append(perf_counter() - start)
            cpu.append(thread_time() - start_cpu)
            if engine != "lerobot-act":
                parts.append([answer.preprocess, answer.model, answer.post])
        print(json.dumps({"wall": wall, "cpu": cpu, "parts": parts, "run_mb": most_resident()}), file=answers, flush=True)


def most_resident() -> float:
    """[MB] of this process so far."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


class Worker:
    """serve() in a process of its own. `figures` is {"not_supported": reason} where it cannot run."""

    def __init__(self, python: str, kind: str, engine: str) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        command = [python, __file__, "--serve", kind, engine]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, bufsize=1
        )
        self._wall: list[float] = []
        self._cpu: list[float] = []
        self._parts: list[list[float]] = []
        self.figures: Figures = {}

    def wait(self) -> None:
        """Until it is built."""
        self.figures = self.figures or self._answer()

    def _answer(self) -> Figures:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return dict(json.loads(line))
        self._log.seek(0)
        lines = self._log.read().strip().splitlines() or [""]
        status = self._process.wait()
        reason = f"killed by signal {-status} (out of memory?)" if status < 0 else lines[-1]
        return {"not_supported": reason.removeprefix("vla_ros.errors.VlaRosError: ")}

    def turn(self, calls: int) -> None:
        if "not_supported" in self.figures:
            return
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended; its answer says why
            print(calls, file=self._process.stdin, flush=True)
        answer = self._answer()
        if "not_supported" in answer:
            self.figures = answer
            return
        self._wall += answer["wall"]
        self._cpu += answer["cpu"]
        self._parts += answer["parts"]
        self.figures["run_mb"] = answer["run_mb"]

    def end(self) -> Figures:
        """p50_ms, p99_ms, cpu_p50_ms; `split_ms` holds the medians of preprocess, model, post."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        if "not_supported" in self.figures:
            return self.figures
        p50, p99 = np.percentile(self._wall, [50, 99]) * 1e3
        split = (np.median(self._parts, axis=0) * 1e3).tolist() if self._parts else []
        return {
            "p50_ms": float(p50), "p99_ms": float(p99), "cpu_p50_ms": float(np.median(self._cpu) * 1e3),
            "split_ms": dict(zip(("preprocess", "model", "post"), split, strict=True)) if split else {},
            "calls": len(self._wall), **self.figures,
        }  # fmt: skip


def compare(kind: str, quick: bool, lerobot: str) -> Figures:
    """All engines of one policy, in turns."""
    workers: dict[str, Worker] = {}
    cores = os.cpu_count() or 1
    for engine in (*ENGINES, *(("lerobot-act",) if lerobot else ())):
        if len(workers) >= cores:  # exporting the large policy takes gigabytes
            list(workers.values())[-cores].wait()
        workers[engine] = Worker(lerobot if engine == "lerobot-act" else sys.executable, kind, engine)
    for worker in workers.values():
        worker.wait()
    turns, end = 0, perf_counter() + (QUICK if quick else SECONDS)[kind]
    while turns < TURNS or perf_counter() < end:
        turns += 1
        for engine, worker in workers.items():
            worker.turn(max(1, CALLS[kind] // 10) if engine == "lerobot-act" else CALLS[kind])
    rows = {engine: worker.end() for engine, worker in workers.items()}
    figures: Figures = dict(rows)
    ours = {name: rows[name] for name in ENGINES if "p50_ms" in rows[name]}
    if "eager" in ours:
        figures["best"] = best = min(ours, key=lambda name: ours[name]["p50_ms"])
        for key, of in (("best_over_eager", "p50_ms"), ("best_over_eager_cpu", "cpu_p50_ms")):
            figures[key] = ours["eager"][of] / ours[best][of]
    return figures


def has_lerobot(python: str) -> bool:
    return subprocess.run([python, "-c", "import lerobot"], capture_output=True, check=False).returncode == 0


def tell(kind: str, figures: Figures) -> None:
    """The table for people."""
    print(f"{kind:<14} {'p50 ms':>9} {'p99 ms':>9} {'cpu ms':>9} {'pre':>7} {'model':>9} {'post':>7} "
          f"{'peak MB':>8} {'run MB':>7} {'build s':>8} {'calls':>6}")  # fmt: skip
    for name, row in figures.items():
        if not isinstance(row, dict):
            continue
        if "not_supported" in row:
            print(f"  {name:<12} not supported: {row['not_supported']}")
            continue
        parts = (f"{row['split_ms'][key]:.3f}" if row["split_ms"] else "" for key in ("preprocess", "model", "post"))
        pre, model, post = parts
        print(f"  {name:<12} {row['p50_ms']:9.3f} {row['p99_ms']:9.3f} {row['cpu_p50_ms']:9.3f} {pre:>7} {model:>9} {post:>7} "
              f"{row['peak_mb']:8.0f} {row['run_mb']:7.0f} {row['build_s']:8.1f} {row['calls']:6}")  # fmt: skip
    if "best" in figures:
        print(f"  best: {figures['best']}, {figures['best_over_eager']:.2f} times as fast as eager "
              f"({figures['best_over_eager_cpu']:.2f} by processor time)")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the time")
    parser.add_argument("--json", action="store_true", help="figures as one JSON object in the last line")
    parser.add_argument("--model", choices=list(MODELS), help="default: each in turn")
    parser.add_argument("--lerobot", default=str(LEROBOT if LEROBOT.exists() else sys.executable), help="interpreter that has it")
    parser.add_argument("--serve", nargs=2, metavar=("MODEL", "ENGINE"), help="what the processes of the engines run")
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return
    lerobot = options.lerobot if has_lerobot(options.lerobot) else ""
    load = os.getloadavg()[0]
    figures: Figures = {}
    for kind in [options.model] if options.model else list(MODELS):
        figures[kind] = compare(kind, options.quick, lerobot)
        tell(kind, figures[kind])
    if not lerobot:
        print(f"lerobot: not installed for {options.lerobot}")
    figures["load"] = [load, os.getloadavg()[0]]
    print(f"load of the machine before and after: {load:.1f}, {figures['load'][1]:.1f} on {os.cpu_count()} cores")
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
