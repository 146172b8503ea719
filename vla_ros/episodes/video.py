"""Camera frames to MP4 and back, through the ffmpeg binary that comes with imageio-ffmpeg."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from vla_ros.errors import VlaRosError
from vla_ros.types import Image

CODEC, PIXELS = "h264", "yuv420p"


class VideoWriter:
    """One MP4 of equally spaced frames: frame k is shown at exactly k / fps.

    A key frame every second frame keeps random access cheap, which training needs; without B-frames no player shifts the
    first time stamp.

    Args:
        path: *.mp4, overwritten.
        size: px, height and width, both even (chroma is stored at half the resolution).
        fps: Hz.

    Raises:
        VlaRosError: odd size, or ffmpeg fails.
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: int) -> None:
        height, width = size
        if height % 2 or width % 2:
            raise VlaRosError(f"{path}: image size: found {height}x{width}, expected even numbers; store images instead")
        self.path, self.size, self.frames = path, size, 0
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24",
            "-s", f"{width}x{height}", "-r", str(fps), "-i", "-", "-an", "-c:v", "libx264", "-pix_fmt", PIXELS,
            "-g", "2", "-bf", "0", "-crf", "18", str(path),
        ]  # fmt: skip
        self._ffmpeg = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)

    def write(self, image: Image) -> None:
        """Appends one frame [H, W, 3] RGB."""
        if image.shape != (*self.size, 3) or image.dtype != np.uint8:
            raise VlaRosError(f"{self.path}: frame {self.frames}: found {image.dtype} {image.shape}, expected uint8 {self.size}")
        assert self._ffmpeg.stdin is not None
        try:
            self._ffmpeg.stdin.write(np.ascontiguousarray(image).data)
        except BrokenPipeError as error:
            raise self._failed() from error
        self.frames += 1

    def close(self) -> None:
        """Completes the file."""
        message = self._ffmpeg.communicate()[1]
        if self._ffmpeg.returncode:
            raise VlaRosError(f"{self.path}: ffmpeg: {message.decode(errors='replace').strip()}")

    def abort(self) -> None:
        """Ends ffmpeg; what it has written is of no use."""
        self._ffmpeg.kill()
        self._ffmpeg.communicate()

    def _failed(self) -> VlaRosError:
        assert self._ffmpeg.stderr is not None
        message = self._ffmpeg.stderr.read().decode(errors="replace").strip()
        return VlaRosError(f"{self.path}: ffmpeg ended after {self.frames} frames: {message or 'no message'}")


def read_video(path: Path, start: float, count: int, fps: float, size: tuple[int, int]) -> Iterator[Image]:
    """`count` frames [H, W, 3] RGB of an MP4, beginning with the one shown at `start` s.

    One frame is in memory at a time. `start` may be off by less than half a frame: times that a writer summed up from
    durations drift (LeRobot #3177).

    Raises:
        VlaRosError: no video, another size than `size` (height, width), or too few frames.
    """
    if not path.is_file():
        raise VlaRosError(f"{path}: found no such file, expected a video")
    before = max(0.0, start - 0.5 / fps)
    frames = imageio_ffmpeg.read_frames(
        str(path), input_params=["-ss", f"{before:.6f}"] if before else [],
        output_params=["-fps_mode", "passthrough", "-frames:v", str(count)],
    )  # fmt: skip
    try:
        meta = next(frames)
        width, height = meta["size"]
        if (height, width) != size:
            raise VlaRosError(f"{path}: image size: found {height}x{width}, expected {size[0]}x{size[1]}")
        seen = 0
        for frame in frames:
            yield np.frombuffer(frame, np.uint8).reshape(height, width, 3)
            seen += 1
        if seen != count:
            raise VlaRosError(f"{path}: from {start:.3f} s: found {seen} frames, expected {count} at {fps:g} Hz")
    except (OSError, RuntimeError) as error:
        raise VlaRosError(f"{path}: cannot be decoded: {str(error).strip().splitlines()[-1]}") from error
    finally:
        frames.close()
