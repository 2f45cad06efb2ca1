"""The posture of running processes, read from the kernel and compared with the Decision."""

from hardrun.verify.check import Check
from hardrun.verify.compare import compare, verify_process
from hardrun.verify.find import Sandbox, find_sandbox
from hardrun.verify.live import LivePosture, observe

__all__ = ["Check", "LivePosture", "Sandbox", "compare", "find_sandbox", "observe",
           "verify_process"]
