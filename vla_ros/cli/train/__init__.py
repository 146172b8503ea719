"""Training: stage 1 (behaviour cloning and steps-to-go) of a policy on demonstrations.

examples:
  vla-ros train sft --robot panda --data runs/latest/episodes --policy runs/latest/policy --out runs/sft
  vla-ros train sft --robot panda --data demos.npz --policy small --steps 4000 --out runs/small
  vla-ros train sft --robot panda --data runs/latest/episodes --policy HuggingFaceTB/SmolVLM-256M-Instruct --lora 16 \\
      --precision bf16 --batch 64 --accumulate 8 --out runs/smolvlm
  accelerate launch --num_processes 4 -m vla_ros.cli train sft ...        several GPUs or machines: the same command

`--data`: folders of recorded episodes (*.mcap; those that ended in success) and files of demonstrations (*.npz), together.
`--policy`: `small` (the project's own model, from scratch), a checkpoint that vla-ros wrote, or a pretrained image-text model,
a folder or a hub name: SmolVLM, Idefics3, PaliGemma, BLIP-2, Qwen2.5-VL, Qwen3-VL.

The success detector's calibration on the held-out episodes is written beside the checkpoint, which can then be launched as
`judge:=` as well.

A run that was killed goes on where it was when the same command is given again. The checkpoint is the one with the least
held-out loss; figures of the run lie beside it in log.jsonl, and in TensorBoard's format where it is installed.

exit status: 0 done; 2 bad input.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="sft")
    sft = verbs.add_parser("sft", help="stage 1: behaviour cloning and steps-to-go")
    sft.add_argument("--robot", default="panda", help="name in config/robots, or a path to a contract (panda)")
    sft.add_argument("--data", nargs="+", type=Path, required=True, metavar="PATH", help="folders of *.mcap, files *.npz")
    sft.add_argument("--policy", required=True, help="small | a checkpoint's folder | a hub name")
    sft.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    sft.add_argument("--judge", action="store_true", help="steps-to-go alone: a judge, for any policy's episodes")
    sft.add_argument("--skip-bad", action="store_true", help="leave out episodes that cannot be read, list and count them")
    sft.add_argument("--head", choices=("bins", "gaussian", "laplace"), default="bins", help="of a new policy (bins)")
    sft.add_argument("--token-learner", type=int, default=0, metavar="N", help="its head reads N tokens, pooled from all")
    sft.add_argument("--prefix", type=int, default=0, metavar="ROWS", help="learn to go on from a running chunk")
    sft.add_argument("--lora", type=int, default=0, metavar="RANK", help="LoRA in the language model; 0: train everything (0)")
    sft.add_argument("--targets", default="", metavar="REGEX", help="modules that get LoRA (attention, MLP)")
    sft.add_argument("--checkpointing", action="store_true", help="recompute activations: less memory, a third slower")
    sft.add_argument("--steps", type=int, help="optimiser steps (4000)")
    sft.add_argument("--batch", type=int, help="frames per step, of all processes (64)")
    sft.add_argument("--accumulate", type=int, help="parts that a process takes its share of a batch in (1)")
    sft.add_argument("--learning-rate", type=float, metavar="LR", help="(5e-4)")
    sft.add_argument("--ema", type=float, help="decay of the averaged weights, which are the ones kept; 0: none (0.999)")
    sft.add_argument("--precision", choices=("no", "bf16", "fp16"), help="mixed precision (no)")
    sft.add_argument("--held-out", type=float, metavar="SHARE", help="share of episodes for the figures and the early stop (0.1)")
    sft.add_argument("--evaluate-every", type=int, metavar="STEPS", help="(250)")
    sft.add_argument("--patience", type=int, help="evaluations without a better one, then it stops; 0: never (6)")
    sft.add_argument("--seed", type=int, help="(0)")


def run(args: argparse.Namespace) -> int:
    from vla_ros.cli.train import sft

    return sft.run(args)
