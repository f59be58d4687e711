"""Memory of the machine, or of the container if that is less."""

from reid_ray.io import memory_limit as module
from reid_ray.io.memory_limit import memory_limit


def test_this_machine_has_some_memory():
    assert 2**26 < memory_limit() < 2**60


def test_a_container_may_have_less(tmp_path, monkeypatch):
    file = tmp_path / "memory.max"
    monkeypatch.setattr(module, "CGROUP_LIMITS", (str(tmp_path / "none"), str(file)))
    file.write_text("max\n")
    installed = memory_limit()
    file.write_text(f"{installed - 4096}\n")
    assert memory_limit() == installed - 4096
