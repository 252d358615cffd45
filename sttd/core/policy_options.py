"""The numbers in the scheduling rules."""

from __future__ import annotations

import attrs

from sttd.core.types import JobClass


@attrs.frozen(kw_only=True)
class PolicyOptions:
    """The numbers in the rules of `core/policy.py`. Holds are seconds that one call may keep a worker busy."""

    final_hold_s: float = 2.0  # finals behind it would queue anyway; batching shortens that queue
    final_stretch: float = 3.0  # 4 of base on two cores: 1.3 times the throughput
    speculative_hold_s: float = 0.5  # about the rest of the pause that a speculation runs in
    interim_hold_s: float = 0.3  # what a final may find in front of it; one interim step of 350 ms stays possible
    file_hold_s: float = 1.0
    quiet_file_hold_s: float = 4.0  # room for batches of 8 windows, as faster-whisper's own pipeline has
    quiet_s: float = 10.0
    file_share: float = 0.10
    fairness_s: float = 20.0
    slack_s: float = 30.0
    speculation_wait_s: float = 1.0
    waiting_files: int = 16  # two calls of 8 windows: one runs, one waits
    waiting_per_uid: int = 256
    shrunk_s: float = 300.0
    first_call_s: float = 1.0  # guess before a model's first call
    max_calls: int = 32  # over all models: the number of threads
    final_workers: int = 1

    def hold_s(self, job_class: JobClass, *, quiet: bool) -> float:
        """How long a call may be expected to take for a job of this class to join it."""
        match job_class:
            case JobClass.FINAL:
                return self.final_hold_s
            case JobClass.SPECULATIVE:
                return self.speculative_hold_s
            case JobClass.INTERIM:
                return self.interim_hold_s
            case _:
                return self.quiet_file_hold_s if quiet else self.file_hold_s
