from experiments import benchmark_masks
from se_jax.losses.masks import targets


def test_labels_have_about_ten_classes_as_those_of_ade20k():
    flags = benchmark_masks.parse_flags(["--size=64", "--batch=3"])
    batch = benchmark_masks.make_batch(flags)
    assert batch["image"].shape == (3, 64, 64, 3) and batch["size"].tolist() == [[64, 64]] * 3
    count = targets(batch["label"], benchmark_masks.CLASSES, 100).count
    assert all(8 <= n <= 10 for n in count)


def test_the_resident_size_is_that_of_this_process():
    before = benchmark_masks.resident("VmRSS")
    held = bytearray(b"1") * 50_000_000
    assert benchmark_masks.resident("VmRSS") - before > 0.8 * len(held)
    assert benchmark_masks.resident("VmHWM") >= benchmark_masks.resident("VmRSS")
