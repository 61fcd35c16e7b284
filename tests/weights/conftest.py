"""Fixtures for checkpoint files."""

import pytest
from support import torch_files


@pytest.fixture(
    params=[torch_files.write_zip, torch_files.write_legacy], ids=["zip", "legacy"]
)
def write(request, tmp_path):
    """Writes a checkpoint in either format of PyTorch and returns its path."""

    def write(content, **options):
        request.param(tmp_path / "some.pth", content, **options)
        return tmp_path / "some.pth"

    return write
