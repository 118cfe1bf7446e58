from __future__ import annotations

import dataclasses
import subprocess
import threading
from pathlib import Path

import pytest

from kata_dind.backend.containerd.disks import require_unused
from kata_dind.backend.containerd.plan import PodPlan
from kata_dind.dataroot.kinds import DATA_DISK, DATA_ROOT_SHARE, LOOP_FILE
from kata_dind.errors import DataRootBusy
from kata_dind.vocabulary import DataRootKind
from tests.unit.backend.containerd.test_plan import plan


def plan_at(directory: Path, kind: DataRootKind) -> PodPlan:
    made = plan(kind)
    return dataclasses.replace(made, own=dataclasses.replace(made.own, data_directory=directory))


@pytest.mark.parametrize(
    ("kind", "name"), [(DataRootKind.BLOCK, DATA_DISK), (DataRootKind.LOOP, f"{DATA_ROOT_SHARE}/{LOOP_FILE}")]
)
def test_a_disk_that_a_machine_without_a_pod_has_is_not_used(tmp_path: Path, kind: DataRootKind, name: str) -> None:
    made = plan_at(tmp_path, kind)
    require_unused(made)  # there is none
    (disk := tmp_path / name).parent.mkdir(exist_ok=True)
    disk.write_bytes(bytes(4096))
    require_unused(made)
    with disk.open("r+b") as file, subprocess.Popen(["sleep", "60"], stdin=file) as machine:
        file.close()
        with pytest.raises(DataRootBusy) as refused:
            require_unused(made, within_seconds=0.2)
        assert refused.value.summary == f"the disk of 'demo' is still in use by sleep (process {machine.pid})"
        threading.Timer(0.3, machine.kill).start()
        require_unused(made)  # waits for it
