"""The posture of running processes, read from the kernel and compared with the Decision."""

from hardrun.verify.check import Check, Evidence
from hardrun.verify.compare import compare
from hardrun.verify.find import Sandbox, find_sandbox
from hardrun.verify.live import LivePosture, observe
from hardrun.verify.whole import Verification, Verified, verify_at_gate, verify_sandbox

__all__ = ["Check", "Evidence", "LivePosture", "Sandbox", "Verification", "Verified", "compare",
           "find_sandbox", "observe", "verify_at_gate", "verify_sandbox"]
