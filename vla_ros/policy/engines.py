"""Ways to run one policy: torch eager, torch.compile, ONNX Runtime in fp32 and with int8 weights.

    images, ids, mask, state ──► engine ──► action logits, steps-to-go logits

All of them read the weights that practice trains (adapter.state) from the model's own tensors: the exported graph takes
these as inputs, and the session's inputs lie on the same memory. So a swap is one copy, whichever engine runs, and no
exporter folds LoRA into the frozen weights. An engine that answers otherwise than eager does is refused when it is built.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from vla_ros.errors import VlaRosError
from vla_ros.policy import adapter
from vla_ros.policy.prompt import MAX_WORDS, Prompt, WordPrompt
from vla_ros.robots.shapes import picture_shape

if TYPE_CHECKING:
    from vla_ros.policy.policy import Model

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]  # images, ids, mask, state of one observation (B = 1), as forward() takes them
INPUTS, OUTPUTS = ("images", "tokens", "mask", "state"), ("action", "steps_to_go")

# Of the largest difference to eager's logits, relative to their range. fp32 differs by the order of its sums, int8 by its
# rounding of weights and activations; a weight in the wrong place, or LoRA lost, moves logits by their whole range.
TOLERANCE = {"compiled": 1e-3, "onnx": 1e-3, "int8": 0.1}
NAMES = ("eager", *TOLERANCE)

logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision's absence, in a robot's log


class Eager:
    """torch as in training; what the others are compared with. Not thread-safe, as its weights change in place."""

    def __init__(self, model: Model) -> None:
        self.model = model.eval()

    @torch.inference_mode()
    def __call__(self, images: Tensor, tokens: Tensor, mask: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Action logits [1, chunk, action_dim, bins] and steps-to-go logits [1, bins] of one observation."""
        out = self.model(*(t.to(self.model.device) for t in (images, tokens, mask, state)))
        return out["action"].cpu(), out["steps_to_go"].cpu()

    def swap(self, weights: dict[str, Tensor]) -> None:
        """Copy checked weights into the live tensors; called between two inferences by the thread that infers."""
        adapter.swap(self.model, weights)


class Compiled(Eager):
    """torch.compile. Compiles in the first calls, for tens of seconds; needs a C++ compiler."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        if " " in torch.__file__:  # its call of the linker does not quote the path
            raise VlaRosError(
                f"engine compiled: torch.compile cannot link where the path has a space: {torch.__file__}; expected an "
                "environment without one, or engine onnx"
            )
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler as error:
            raise VlaRosError(
                f"engine compiled: found no C++ compiler, expected g++ or the one that CXX names: {error}"
            ) from error
        self._forward = torch.compile(model)

    @torch.inference_mode()
    def __call__(self, images: Tensor, tokens: Tensor, mask: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        out = self._forward(images, tokens, mask, state)
        return out["action"], out["steps_to_go"]


class Onnx(Eager):
    """ONNX Runtime on one thread, in fp32 or with the frozen matrices in int8."""

    def __init__(self, model: Model, example: Inputs, int8: bool = False) -> None:
        super().__init__(model)
        import onnxruntime as ort

        if kinds := {p.dtype for p in model.parameters()} - {torch.float32}:
            raise VlaRosError(f"engine onnx: found weights of {kinds.pop()}, expected torch.float32; load the model in it")
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with tempfile.TemporaryDirectory() as folder:
            path = export(model, example, Path(folder))
            if int8:
                path = quantise(path)
            self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._binding = self._session.io_binding()
        for name, tensor in adapter.state(model).items():
            live = ort.OrtValue.ortvalue_from_numpy(tensor.detach().numpy())  # on the tensor's own memory, no copy
            self._binding.bind_ortvalue_input(name, live)

    def __call__(self, images: Tensor, tokens: Tensor, mask: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        for name, tensor in zip(INPUTS, (images, tokens, mask, state), strict=True):
            self._binding.bind_cpu_input(name, tensor.numpy())
        for name in OUTPUTS:
            self._binding.bind_output(name)
        self._session.run_with_iobinding(self._binding)
        action, togo = self._binding.copy_outputs_to_cpu()
        return torch.from_numpy(action), torch.from_numpy(togo)


class _Exported(nn.Module):
    """forward() with the trained tensors as inputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, images: Tensor, tokens: Tensor, mask: Tensor, state: Tensor, weights: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        out = functional_call(self.model, weights, (images, tokens, mask, state))
        return out["action"], out["steps_to_go"]


def export(model: Model, example: Inputs, folder: Path) -> Path:
    """Write the model as ONNX, for one observation; inputs are INPUTS and the tensors of adapter.state() by their names.

    A WordPrompt's ids are always MAX_WORDS long; longer ones are taken for a VlmPrompt's, whose length may change.
    """
    weights = {name: tensor.detach() for name, tensor in adapter.state(model).items()}
    length = {1: torch.export.Dim.DYNAMIC} if example[1].shape[1] > MAX_WORDS else None
    shapes = {
        "images": None, "tokens": length, "mask": length, "state": None, "weights": dict.fromkeys(weights),
    }  # fmt: skip
    path = folder / "policy.onnx"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch about torch
        torch.onnx.export(
            _Exported(model).eval(), example, path, kwargs={"weights": weights}, input_names=[*INPUTS, *weights],
            output_names=list(OUTPUTS), dynamic_shapes=shapes, dynamo=True, verbose=False,
            custom_translation_table={torch.ops.aten._is_all_true.default: _all_true},
        )  # fmt: skip
    return path


def _all_true(values: Any) -> Any:
    """aten::_is_all_true in ONNX, which transformers' check of a prompt's image tokens needs and the exporter lacks."""
    from onnxscript import opset18

    op: Any = opset18  # its stubs refuse that one result is the next argument
    return op.Equal(op.ReduceMin(op.Cast(values, to=7)), op.Constant(value_int=1))  # 7: int64


def quantise(path: Path) -> Path:
    """Constant matrices to int8, a scale for each column; activations are rounded as they come."""
    import onnx
    from onnxruntime.quantization import QuantType, quant_pre_process, quantize_dynamic

    graph = onnx.load(path)
    del graph.graph.value_info[:]  # the exporter's shapes contradict those that the quantiser infers
    inferred, out = path.with_name("inferred.onnx"), path.with_name("policy.int8.onnx")
    quant_pre_process(graph, inferred, skip_optimization=True, skip_symbolic_shape=True)
    quantize_dynamic(inferred, out, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8)
    return out


def image_shape(model: Model) -> tuple[int, ...]:
    """Of one observation's pictures: [(cameras,) H, W, 3]."""
    return picture_shape(getattr(model.config, "cameras", 1), model.config.image_size)


def examples(model: Model, prompt: Prompt) -> list[Inputs]:
    """Two random observations with a short and a long instruction."""
    generator = torch.Generator().manual_seed(0)
    words = ["push", "the", "red", "cube", "to", "the", "left"]
    if isinstance(prompt, WordPrompt):
        words = [w for w in prompt.tokenizer.get_vocab() if w not in prompt.tokenizer.all_special_tokens][:MAX_WORDS]
    made = []
    for text in (words[0], " ".join(words)):
        images = torch.randint(0, 256, (1, *image_shape(model)), generator=generator, dtype=torch.uint8)
        state = torch.rand((1, model.units.width), generator=generator) * 2 - 1
        made.append((images, *prompt([text]), state))
    return made


def build(name: str, model: Model, prompt: Prompt) -> Eager:
    """An engine for the model, ready at its full speed.

    Raises:
        VlaRosError: unknown name, no C++ compiler, a model that the engine cannot run, or one that it runs wrongly.
    """
    if name not in NAMES:
        raise VlaRosError(f"engine: found {name!r}, expected one of {', '.join(NAMES)}")
    if name == "eager":
        return Eager(model)
    observations = examples(model, prompt)
    try:
        engine = Compiled(model) if name == "compiled" else Onnx(model, observations[-1], int8=name == "int8")
        check(name, engine, observations)
    except VlaRosError:
        raise
    except Exception as error:  # whatever tracers, compilers and exporters raise
        root: BaseException = error
        while root.__cause__:
            root = root.__cause__
        reason = (str(root).strip() or type(root).__name__).splitlines()[0]
        raise VlaRosError(f"engine {name}: cannot run this {type(model).__name__}: {reason}") from error
    return engine


@torch.inference_mode()
def check(name: str, engine: Eager, observations: Sequence[Inputs]) -> None:
    """Compare with eager on the running weights and on changed ones: untrained LoRA is zero and would hide that it is lost.

    Raises:
        VlaRosError: the logits differ by more than TOLERANCE.
    """
    eager = Eager(engine.model)
    generator = torch.Generator().manual_seed(1)
    running = {key: tensor.detach().clone() for key, tensor in adapter.state(engine.model).items()}
    changed = {key: t + 0.02 * torch.randn(t.shape, generator=generator) for key, t in running.items()}
    try:
        for weights in (running, changed):
            engine.swap(weights)
            for inputs in observations:
                given = [tensor.clone() for tensor in inputs]  # made in inference mode as VlaPolicy's, or torch compiles again
                for output, found, expected in zip(OUTPUTS, engine(*given), eager(*given), strict=True):
                    off = difference(found, expected)
                    if not off <= TOLERANCE[name]:  # NaN is refused too
                        raise VlaRosError(
                            f"engine {name}: {output} logits differ from eager's by {off:.2g} of their range, "
                            f"expected at most {TOLERANCE[name]:g}; use engine eager"
                        )
    finally:
        engine.swap(running)


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference of two arrays of logits, relative to the range of the expected ones."""
    extent = expected.max() - expected.min()
    return float((found - expected).abs().max() / extent.clamp_min(1e-6))
