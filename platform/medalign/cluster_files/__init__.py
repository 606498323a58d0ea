"""Files of clusters: Ray's autoscaler YAML for AWS and GCP, objects for KubeRay, from one settings class.

Everything is checked before it is written, and says nothing secret: a token reaches the nodes as a file or by KubeRay.
"""

from medalign.cluster_files.render import render, write
from medalign.cluster_files.settings import ClusterSettings

__all__ = ["ClusterSettings", "render", "write"]
