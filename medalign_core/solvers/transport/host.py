"""Whether the host may look at a tensor's numbers: on the CPU they are there, elsewhere a look waits for the device."""

from torch import Tensor


def may_read(tensor: Tensor) -> bool:
    """Return whether branching on this tensor costs nothing."""
    return tensor.device.type == "cpu"
