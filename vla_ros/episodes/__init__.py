"""Episodes on disk: record, read, label. MCAP files that rosbag2 and Foxglove open."""

from vla_ros.episodes.data import EpisodeData, load_episode
from vla_ros.episodes.labels import label, read_label
from vla_ros.episodes.reader import EpisodeReader, Recorded
from vla_ros.episodes.writer import EpisodeWriter

__all__ = ["EpisodeData", "EpisodeReader", "EpisodeWriter", "Recorded", "label", "load_episode", "read_label"]
