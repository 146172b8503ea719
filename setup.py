"""pip install: the same package for machines without ROS 2 (under ROS 2, CMakeLists.txt installs it)."""

from __future__ import annotations

from pathlib import Path

from setuptools import find_packages, setup

SHARE = Path("share") / "vla_ros"
SHARED_FOLDERS = ("config", "launch", "urdf", "msg", "srv", "action")


def data_files() -> list[tuple[str, list[str]]]:
    """Every file of the shared folders, into share/vla_ros under the environment's prefix."""
    folders: dict[str, list[str]] = {str(SHARE): ["package.xml"]}
    for top in SHARED_FOLDERS:
        for file in sorted(Path(top).rglob("*")):
            if file.is_file():
                folders.setdefault(str(SHARE / file.parent), []).append(str(file))
    return list(folders.items())


OPENPI = ["msgpack>=1.0", "websockets>=15"]  # policies behind a server of openpi's protocol
RAY = ["ray>=2.40"]  # simulation workers on a cluster
ALOHA = ["h5py>=3.10"]  # import of ALOHA's HDF5 files
DEV = [
    *OPENPI, *ALOHA, "pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.100", "ruff>=0.6", "mypy>=1.11",
    "ruckig>=0.14", "types-PyYAML>=6.0",
]  # fmt: skip

setup(
    name="vla_ros",
    version="0.2.0",
    description="Vision-language-action policies on real arms inside hard safety limits, improving by themselves",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["vla_ros", "vla_ros.*"]),
    # The embedded rclpy lies outside the import path on purpose (embedded/site): find_packages does not see all of it.
    package_data={"vla_ros.embedded": ["site/**/*", "definitions/**/*"], "vla_ros": ["py.typed"]},
    exclude_package_data={"": ["**/__pycache__/*", "*.pyc"]},
    data_files=data_files(),
    install_requires=[
        "torch>=2.4",
        "transformers>=5",
        "peft>=0.12",
        "accelerate>=1.0",
        "tokenizers>=0.20",
        "safetensors>=0.4",
        "onnx>=1.16",
        "onnxruntime>=1.18",
        "onnxscript>=0.5",
        "numpy>=1.26",
        "numba>=0.60",
        "PyYAML>=6.0",
        "opencv-python-headless>=4.9",
        "mujoco>=3.3",
        "pin>=3.3",
        "coal>=3.0",
        "daqp>=0.8",
        "cyclonedds>=11.0",
        "rosbags>=0.11",
        "mcap>=1.6",
        "zstandard>=0.20",
        "gymnasium>=1.0",
        "rich>=13",
        "matplotlib>=3.8",
        "imageio-ffmpeg>=0.5",
        "pyarrow>=17",
    ],
    extras_require={"openpi": OPENPI, "ray": RAY, "aloha": ALOHA, "dev": DEV, "all": [*DEV, *RAY]},
    entry_points={"console_scripts": ["vla-ros = vla_ros.cli.__main__:main"]},
)
