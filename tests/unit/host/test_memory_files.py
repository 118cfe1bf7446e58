from __future__ import annotations

import os
from pathlib import Path

import pytest

from kata_dind.host.memory_files import find_memory_file, give_zeros_back

BLOCK = 256 * 1024


@pytest.mark.parametrize("written", [[], [0], [5], [0, 1, 7], [3, 7], list(range(8))])
def test_zeros_are_given_back_and_the_rest_stays(written: list[int]) -> None:
    fd = os.memfd_create("kata-dind-test")
    try:
        os.truncate(fd, 8 * BLOCK)
        for block in range(8):
            os.pwrite(fd, bytes(BLOCK), block * BLOCK)
        for block in written:
            os.pwrite(fd, b"x", block * BLOCK + 1000)
        before = os.pread(fd, 8 * BLOCK, 0)
        file = find_memory_file(os.getpid(), "kata-dind-test")
        assert file is not None
        assert give_zeros_back(file) == (8 - len(written)) * BLOCK
        assert os.fstat(fd).st_blocks * 512 == len(written) * BLOCK
        assert os.pread(fd, 8 * BLOCK, 0) == before
    finally:
        os.close(fd)


def test_what_is_not_there_is_not_found() -> None:
    assert find_memory_file(os.getpid(), "kata-dind-none") is None
    with pytest.raises(FileNotFoundError):
        give_zeros_back(Path("/proc/self/fd/9999"))
