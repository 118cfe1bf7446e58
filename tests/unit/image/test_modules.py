from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kata_dind.image.modules import kept_modules, load_order, module_name, parse_dependencies

_MODULES_DEP = """\
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/fs/ext4/ext4.ko.xz: kernel/lib/crc16.ko.xz kernel/fs/mbcache.ko.xz
kernel/lib/crc16.ko.xz:
kernel/fs/mbcache.ko.xz:
kernel/sound/snd-hda.ko:
kernel/net/bridge/bridge.ko: kernel/oddly/placed.ko
kernel/oddly/placed.ko:
"""


def test_dependencies_are_parsed_nearest_first() -> None:
    dependencies = parse_dependencies(_MODULES_DEP)
    assert dependencies["kernel/drivers/virtio/virtio_ring.ko"] == ()
    assert dependencies["kernel/drivers/virtio/virtio_pci.ko"] == (
        "kernel/drivers/virtio/virtio.ko",
        "kernel/drivers/virtio/virtio_ring.ko",
    )


def test_modules_load_after_what_they_need_and_built_in_ones_are_left_out() -> None:
    names = ("virtio-pci", "erofs", "ext4", "virtio_pci")
    assert load_order(names, parse_dependencies(_MODULES_DEP)) == [
        "kernel/drivers/virtio/virtio_ring.ko",
        "kernel/drivers/virtio/virtio.ko",
        "kernel/drivers/virtio/virtio_pci.ko",
        "kernel/fs/mbcache.ko.xz",
        "kernel/lib/crc16.ko.xz",
        "kernel/fs/ext4/ext4.ko.xz",
    ]


def test_a_docker_guest_keeps_its_modules_and_theirs() -> None:
    kept = kept_modules(parse_dependencies(_MODULES_DEP))
    assert "kernel/oddly/placed.ko" in kept
    assert "kernel/sound/snd-hda.ko" not in kept
    assert kept_modules({}) == set()


def test_module_names_are_the_kernels() -> None:
    assert module_name("kernel/lib/crc-itu-t.ko.zst") == "crc_itu_t"


@given(st.integers(1, 12), st.data())
def test_the_load_order_of_any_chain_respects_every_dependency(length: int, data: st.DataObject) -> None:
    paths = [f"kernel/m{number}.ko" for number in range(length)]
    # Each module needs some earlier ones, and all that those need: so depmod writes it, the innermost last.
    needs: dict[str, tuple[str, ...]] = {}
    for number, path in enumerate(paths):
        direct = data.draw(st.sets(st.sampled_from(paths[:number]))) if number else set()
        closure = direct.union(*(needs[need] for need in direct))
        needs[path] = tuple(sorted(closure, key=paths.index, reverse=True))
    names = data.draw(st.permutations([module_name(path) for path in paths]))
    order = load_order(names, needs)
    assert sorted(order) == sorted(paths)
    assert all(order.index(need) < order.index(path) for path in paths for need in needs[path])
