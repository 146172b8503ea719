"""Training: stage 0 (where are the things that words name?), stage 1 (behaviour cloning and steps-to-go) on demonstrations, and
practice in simulation.

examples:
  vla-ros train sft --robot panda --data runs/latest/episodes --policy runs/latest/checkpoints/policy --out runs/sft
  vla-ros train sft --robot panda --data demos.npz --policy small --steps 4000 --out runs/small
  vla-ros train sft --robot panda --data runs/latest/episodes --policy HuggingFaceTB/SmolVLM-256M-Instruct --lora 16 \\
      --precision bf16 --batch 64 --accumulate 8 --out runs/smolvlm
  vla-ros train improve --sim --policy runs/sft --judge runs/judge --out runs/improve
  vla-ros train improve --sim --policy runs/sft --judge runs/judge --out runs/improve --workers 32 --side-by-side 6 \\
      --per-update 192 --ray                                              the episodes on a Ray cluster's machines
  vla-ros train ppo --sim --policy runs/sft --tasks reach --out runs/ppo
  vla-ros train ire-vla --sim --policy runs/sft --expert-data demos.npz --out runs/ire-vla
  vla-ros train recap --sim --policy runs/sft --expert-data demos.npz --per-update 192 --out runs/recap
  vla-ros train ground --env metaworld --tasks door-open-v3 --out runs/door-0
  vla-ros train sft --env metaworld --tasks door-open-v3 --demonstrations 60 --policy runs/door-0 --out runs/door
  vla-ros train sft --env metaworld --tasks door-open-v3 --demonstrations 60 --seed 7 --miss 0.5 --judge --policy runs/door-0 \\
      --out runs/door-judge
  vla-ros train ppo --env metaworld --tasks door-open-v3 --policy runs/door --out runs/door-ppo
  accelerate launch --num_processes 4 -m vla_ros.cli train sft ...        several GPUs or machines: the same command

ground: the small model learns which words name what it sees, as a pretrained one knows: few demonstrations then teach a motion to
something, not a motion. In simulated cells of ours, or with `--env` where the environment tells where things are.

`--data`: folders of recorded episodes (*.mcap; those that ended in success) and files of demonstrations (*.npz), together.
`--policy`: `small` (the project's own model, from scratch), a checkpoint that vla-ros wrote, or a pretrained image-text model,
a folder or a hub name: SmolVLM, Idefics3, PaliGemma, BLIP-2, Qwen2.5-VL, Qwen3-VL.

The success detector's calibration on the held-out episodes is written beside the checkpoint, which can then be launched as
`judge:=` as well.

A run that was killed goes on where it was when the same command is given again. The checkpoint is the one with the least
held-out loss; figures of the run lie beside it in log.jsonl, and in TensorBoard's format where it is installed.

improve: the policy practises in simulated cells; a frozen judge (`--judge`, with its calibration) rewards, ends episodes and
decides when to stop. Every update is a version in `versions` (`vla-ros policy list --store`), the best one is also written as
a checkpoint, `policy`. On a robot, trainer_node practises: `vla-ros action send_goal /improve`.

`--workers N`: N processes of this machine run the episodes, and with `--ray` they are spread over the machines of a Ray cluster
(`ray start --head` on one, `ray start --address=HEAD:6379` on the others; `pip install 'vla_ros[ray]'` on all). Each has cells,
policy and judge of its own; the two checkpoints are read under the same path everywhere, shared or copied, and their hashes are
compared. Groups of `--side-by-side` episodes share a forward pass; a worker takes one group after another, and an update waits
for whole batches. Episodes depend on the version, the scenes and `--side-by-side`, not on how many workers there are (to the bit
on processors of one kind), and a run may go on with another number. A worker that dies is named and replaced, its group runs
again. `--device cuda`: the networks of learner and workers on a GPU; on Ray each worker takes one.

ppo: reward 1 at success, by the judge's word (`--judge`) or, without one, by the simulator's truth. `config/training/ppo.yaml`
says whether the head and a critic learn, with the VLM frozen, or everything. Folder and options are those of improve.

ire-vla: such PPO on the head in turn with supervised learning of LoRA and head, on the demonstrations (`--expert-data`) and the
successes found, which lie in `successes`.

recap: what was practised, failures too, is learned from with the words "advantage positive" or "negative" behind the instruction,
always from the stage-1 checkpoint on. The checkpoint in `policy` reads every instruction with "advantage positive" by itself.

--env: somebody else's simulator in the place of ours, in an interpreter of its own (`make bench-metaworld`, ...). Any environment
that is registered with Gymnasium, shows pictures and takes a Box of actions is described by a file as in config/benchmarks:
where picture and state are, instruction of each task, size of an action, key of success, horizon. `--demonstrations N` where it
has a scripted expert; with `--miss` it begins some of them beside the object, so that a judge has seen that the motion alone is
no success. All methods, options and outputs are the same.

exit status: 0 done; 2 bad input.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="ground|sft|improve|ppo|ire-vla|recap")
    ground = verbs.add_parser("ground", help="stage 0 of the small model: pictures in which it is known where things are")
    _where(ground)
    ground.add_argument("--tasks", nargs="+", help="of a benchmark, whose things are shown (all)")
    ground.add_argument("--out", type=Path, required=True, help="folder of the checkpoint, for train sft --policy")
    ground.add_argument("--pictures", type=int, default=6000, help="to render (6000)")
    ground.add_argument("--steps", type=int, default=1500, help="optimiser steps of 64 pictures (1500)")
    ground.add_argument("--seed", type=int, default=0, help="(0)")
    sft = verbs.add_parser("sft", help="stage 1: behaviour cloning and steps-to-go")
    _where(sft)
    sft.add_argument("--data", nargs="+", type=Path, metavar="PATH", help="folders of *.mcap, files *.npz")
    told = "with --env and instead of --data: the environment's scripted expert shows each task so often"
    sft.add_argument("--demonstrations", type=int, default=0, metavar="N", help=told)
    sft.add_argument("--tasks", nargs="+", help="what the expert shows (all)")
    sft.add_argument("--noise", type=float, default=0.15, help="on what the expert executes, of -1..1 (0.15)")
    told = "probability that it first goes through the motions beside the object; a judge needs to see that (0)"
    sft.add_argument("--miss", type=float, default=0.0, metavar="P", help=told)
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
    told = "method and stopping rules; config/training/critic.yaml learns from all of practice, for harder tasks"
    improve = _practice(verbs, "improve", "stage 2: self-improvement in simulated cells", "self_improvement", told)
    improve.add_argument("--judge", type=Path, required=True, help="frozen stage-1 checkpoint with its calibration")
    improve.add_argument("--workers", type=int, default=0, metavar="N", help="processes for the episodes; 0: this one (0)")
    told = "put the workers on a Ray cluster: auto, HOST:PORT or ray://HOST:10001 (auto: this machine's, or RAY_ADDRESS)"
    improve.add_argument("--ray", nargs="?", const="auto", metavar="ADDRESS", help=told)
    improve.add_argument("--device", default="cpu", help="of the networks, as torch names it (cpu)")
    ppo = _practice(verbs, "ppo", "PPO on head and critic, or on everything, with a sparse reward", "ppo")
    ire = _practice(verbs, "ire-vla", "PPO on the head, then supervision of LoRA and head, in turn", "ire_vla")
    recap = _practice(verbs, "recap", "advantage-conditioned training on all of practice", "recap")
    for sparse in (ppo, ire, recap):
        sparse.add_argument("--judge", type=Path, help="its word is success, as on a real cell (else: the simulator's truth)")
    for supervised in (ire, recap):
        told = "demonstrations, as train sft's --data"
        supervised.add_argument("--expert-data", nargs="+", type=Path, required=True, metavar="PATH", help=told)


def _practice(
    verbs: Any, name: str, told: str, config: str, of_config: str = "method and stopping rules"
) -> argparse.ArgumentParser:
    """What every command that practises takes."""
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=told)
    verb.add_argument("--sim", action="store_true", help="practise in simulated cells (required without --env)")
    _where(verb)
    twin = "file of `vla-ros twin fit`: cells are drawn from its uncertainty (the cell as modelled)"
    verb.add_argument("--twin", type=Path, metavar="FILE", help=twin)
    verb.add_argument("--policy", type=Path, required=True, help="stage-1 checkpoint to start from")
    verb.add_argument("--out", type=Path, required=True, help="folder of versions, log and the best version's checkpoint")
    verb.add_argument("--episodes", type=int, default=2400, help="practice episodes at most (2400)")
    verb.add_argument("--per-update", type=int, default=48, metavar="N", help="whole episodes of one update (48)")
    group = "episodes of a group, which share a forward pass (half of --per-update; of --env at most 8, each a process)"
    verb.add_argument("--side-by-side", type=int, metavar="N", help=group)
    verb.add_argument("--tasks", nargs="+", help="what is practised (all)")
    verb.add_argument("--split", choices=("train", "held_out"), default="train", help="of objects and places (train)")
    verb.add_argument("--config", default=f"config/training/{config}.yaml", help=of_config)
    audit = "of the judge's verdicts, compared with the simulator's truth: for the rule `hacking` only (0.1)"
    verb.add_argument("--audit", type=float, default=0.1, metavar="SHARE", help=audit)
    verb.add_argument("--seed", type=int, default=300_000, help="of the first scene (300000)")
    return verb


def _where(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--robot", default="panda", help="name in config/robots, or a path to a contract (panda)")
    told = "instead of a robot: a benchmark, by name in config/benchmarks or path of such a file"
    verb.add_argument("--env", metavar="NAME", help=told)


def run(args: argparse.Namespace) -> int:
    module = import_module(f"vla_ros.cli.train.{args.verb.replace('-', '_')}")
    return int(module.run(args))
