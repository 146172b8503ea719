"""ALOHA's HDF5 files as demonstrations: joints in their order, grippers in metres, pictures, and what does not fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import yaml
from recordings import picture, small_aloha

from vla_ros.cli.__main__ import main
from vla_ros.episodes import EpisodeReader
from vla_ros.episodes.check import check_episode
from vla_ros.episodes.folder import find_episodes
from vla_ros.episodes.trajectory import load_trajectory
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.observation import resize

ROWS = 12
CAMERAS = ("cam_high", "cam_left_wrist", "cam_low")
CLOSED, OPEN = 0.01844, 0.05800  # m, config/drivers/aloha.yaml
POSTURE = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.4] * 2)  # grippers are shares


def qpos(row: int) -> np.ndarray:
    """[14]; the arms and grippers differ, so that nothing can be mixed up."""
    return POSTURE + row * np.array([0.01, 0, 0, 0, 0, 0, 0.02, -0.01, 0, 0, 0, 0, 0, -0.02])


def contents() -> dict[str, Any]:
    """Data sets of a file as ACT writes it."""
    images = {name: np.stack([picture(k, (64, 96), c) for k in range(ROWS)]) for c, name in enumerate(CAMERAS)}
    return {
        "observations/qpos": np.stack([qpos(k) for k in range(ROWS)]),
        "observations/qvel": np.tile([0.5, 0, 0, 0, 0, 0, 1.0], (ROWS, 2)),
        "observations/effort": np.zeros((ROWS, 14)),
        "action": np.stack([qpos(k + 1) for k in range(ROWS)]),
        **{f"observations/images/{name}": frames for name, frames in images.items()},
    }


def write(path: Path, data: dict[str, Any], compress: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as root:
        root.attrs["sim"], root.attrs["compress"] = False, compress
        for name, values in data.items():
            if compress and "images" in name:
                jpegs = [cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].ravel() for image in values]
                padded = np.zeros((len(jpegs), max(map(len, jpegs)) + 100), np.uint8)
                for row, jpeg in zip(padded, jpegs, strict=True):
                    row[: len(jpeg)] = jpeg
                values = padded  # noqa: PLW2901
            root.create_dataset(name, data=values)
        if compress:
            root.create_dataset("compress_len", data=np.zeros((len(CAMERAS), ROWS)))
            root.create_dataset("base_action", data=np.zeros((ROWS, 2)))
    return path


@pytest.fixture
def contract(tmp_path: Path) -> RobotContract:
    return small_aloha(tmp_path)


def imported(contract: RobotContract, source: Path, out: Path, *words: str) -> int:
    text = ("--instruction", "fold the cloth") if "--instruction" not in words else ()
    return main(["episodes", "import", str(source), "--robot", str(contract.path), "--out", str(out), *text, *words])


def refused(capsys: pytest.CaptureFixture[str], contract: RobotContract, source: Path, *words: str) -> str:
    out = source.parent / "out"
    assert imported(contract, source, out, *words) == 2
    assert not out.exists() or not list(out.iterdir())
    return capsys.readouterr().err


@pytest.mark.parametrize("compress", [False, True])
def test_a_file_comes_out_as_it_went_in(tmp_path: Path, contract: RobotContract, compress: bool) -> None:
    write(tmp_path / "act" / "episode_0.hdf5", contents(), compress)
    write(tmp_path / "act" / "episode_1.hdf5", contents(), compress)
    assert imported(contract, tmp_path / "act", tmp_path / "out") == 0
    paths = find_episodes(tmp_path / "out")
    assert [path.name for path in paths] == ["episode_0.mcap", "episode_1.mcap"]
    assert check_episode(paths[0], contract) == []
    data = load_trajectory(paths[0], contract)
    assert (data.instruction, len(data)) == ("fold the cloth", ROWS)
    expected = np.stack([qpos(k) for k in range(ROWS + 1)])
    expected[:, [6, 13]] = CLOSED + expected[:, [6, 13]] * (OPEN - CLOSED)
    np.testing.assert_allclose(data.positions, expected[:-1], atol=1e-6)
    np.testing.assert_allclose(data.commands, expected[1:], atol=1e-9)
    first = EpisodeReader(paths[0]).of("/observation")[0]
    np.testing.assert_allclose(first.velocity[[0, 6]], [0.5, OPEN - CLOSED])
    pictures = np.stack([[resize(picture(k, (64, 96), c), contract.observation.size) for c in (0, 1)] for k in range(ROWS)])
    assert data.cameras == ("cam_high", "cam_left_wrist")
    assert abs(data.images.astype(int) - pictures).mean() < (2.0 if compress else 1e-9), "the channels in their order"


def test_channels_cameras_and_units_that_are_others(tmp_path: Path, contract: RobotContract) -> None:
    data = contents()
    data["observations/images/top"] = data.pop("observations/images/cam_high")[..., ::-1]
    data["observations/images/cam_left_wrist"] = data["observations/images/cam_left_wrist"][..., ::-1]
    for name in ("observations/qpos", "action"):
        data[name][:, [6, 13]] = 0.03
    write(tmp_path / "a.hdf5", data)
    assert (
        imported(contract, tmp_path / "a.hdf5", tmp_path / "out", "--bgr", "--grippers", "metres", "--map", "cam_high:=top") == 0
    )
    found = load_trajectory(tmp_path / "out" / "a.mcap", contract)
    assert found.positions[0, 6] == pytest.approx(0.03)
    np.testing.assert_array_equal(found.images[0, 0], resize(picture(0, (64, 96)), contract.observation.size))


def test_a_slower_contract_takes_every_fifth_row(tmp_path: Path, contract: RobotContract) -> None:
    slow = yaml.safe_load(contract.path.read_text())
    slow["observation"]["rate"] = slow["action"]["rate"] = 10
    (tmp_path / "slow.yaml").write_text(yaml.safe_dump(slow))
    slower = RobotContract.load(tmp_path / "slow.yaml")
    assert imported(slower, write(tmp_path / "a.hdf5", contents()), tmp_path / "out") == 0
    data = load_trajectory(tmp_path / "out" / "a.mcap", slower)
    np.testing.assert_allclose(data.positions[:, 0], [0.0, 0.05], atol=1e-6)
    np.testing.assert_allclose(data.commands[:, 0], [0.05, 0.10], atol=1e-9, err_msg="what was sent last before the next one")


def test_an_interrupted_import_goes_on(tmp_path: Path, contract: RobotContract, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "act" / "a.hdf5", contents())
    torn = write(tmp_path / "act" / "b.hdf5", contents())
    whole = torn.read_bytes()
    torn.write_bytes(whole[: len(whole) // 2])
    assert imported(contract, tmp_path / "act", tmp_path / "out") == 2
    assert re.search(r"b.hdf5: found no readable HDF5 file .*\(1 episodes before it are in", capsys.readouterr().err)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.mcap"]
    torn.write_bytes(whole)
    assert imported(contract, tmp_path / "act", tmp_path / "out") == 0
    assert "1 episodes; 1 were there already; 0 skipped" in capsys.readouterr().out


def put(name: str, at: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        data[name][at] = value

    return change


def both(at: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        data["observations/qpos"][at] = data["action"][at] = value

    return change


GRIPPERS = (slice(None), [6, 13])
BAD: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no action": (lambda d: d.pop("action"), "found no action, expected it in a file of ALOHA; there are observations"),
    "sixteen": (lambda d: d.update(action=np.zeros((ROWS, 16))), r"action: found shape \[12, 16\], expected \[T, 14\]"),
    "shorter": (lambda d: d.update(action=d["action"][:-1]), "action: found 11 rows, expected 12 as in observations/qpos"),
    "not finite": (put("action", (3, 2), np.nan), "action: row 3: 'left_elbow': found nan, expected a finite number"),
    "radians": (both((4, 6), 1.49), r"'left_gripper' \(column 6\): found .* to 1.490, expected a share, .*radians"),
    "metres": (both(GRIPPERS, 0.03), "grippers: found all of them within 0.0300 to 0.0300, expected shares.*--grippers metres"),
    "another order": (both((slice(None), 1), 1.5), "'left_shoulder': found 1.5, .* rad; are the joints in another order"),
    "degrees": (both((slice(None), 1), -55.0), "'left_shoulder': found -55, expected -1.85.* rad; .*is it in degrees"),
    "no camera": (lambda d: d.pop("observations/images/cam_high"), "found cam_left_wrist, cam_low, expected 'cam_high'; --map"),
    "depth": (
        lambda d: d.update({"observations/images/cam_high": np.zeros((ROWS, 8, 8), np.uint8)}),
        r"image of 'cam_high': row 0: found shape \[8, 8\], expected \[H, W, 3\]",
    ),
    "no JPEG": (
        lambda d: d.update({"observations/images/cam_high": np.zeros((ROWS, 80), np.uint8)}), "row 0: found no valid JPEG",
    ),
    "a base that drives": (lambda d: d.update(base_action=np.full((ROWS, 2), 0.2)), "base_action: found 0.2, expected a base"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_named(
    tmp_path: Path, contract: RobotContract, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    change, message = BAD[name]
    data = contents()
    change(data)
    error = refused(capsys, contract, write(tmp_path / "a.hdf5", data))
    assert re.search(message, error), error
    assert "a.hdf5: " in error


def test_what_is_missing_is_asked_for(tmp_path: Path, contract: RobotContract, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "a.hdf5", contents())
    assert "--instruction is missing" in refused(capsys, contract, file, "--instruction", "")
    assert "joints: found 7, expected ALOHA's 14" in refused(capsys, RobotContract.load("panda"), file)
