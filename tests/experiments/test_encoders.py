"""The table of encoders counts what the reference's tables count."""

import pytest

from experiments import counts, encoders
from se_jax.models import ENCODERS


@pytest.mark.parametrize(
    ("name", "options", "millions", "gmac"),
    [
        ("convnext", {"variant": "tiny"}, 27.82, 23.3),
        ("hrnet", {"variant": "w18"}, 9.56, 17.1),
        ("mit", {"variant": "b0"}, 3.32, 3.2),
        ("mobilenetv2", {"output_stride": 8}, 1.81, 7.7),
        ("resnet", {"depth": 50, "output_stride": 8}, 23.53, 100.9),
        ("resnet", {"depth": 50, "output_stride": 32}, 23.53, 22.6),
        ("swin", {"variant": "tiny"}, 27.52, 25.5),
        ("swin", {"variant": "base", "window": 12}, 86.88, 93.4),
        ("twins", {"variant": "svt_small"}, 23.55, 17.2),
        ("twins", {"variant": "pcpvt_small"}, 23.59, 23.0),
    ],
)
def test_parameters_and_multiply_adds_are_the_references(name, options, millions, gmac):
    encoder = ENCODERS[name](**options)
    assert round(counts.parameters(encoder) / 1e6, 2) == millions
    assert round(counts.multiply_adds(encoder, counts.image(512, 512)) / 1e9, 1) == gmac


def test_a_line_a_size(capsys):
    encoders.main(["--size=64", "--only=mobilenetv2"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[2].startswith("| MobileNetV2 width 1.0, output_stride 8 | 1.81 |")
    assert lines[2].endswith("| mmseg, torchvision, timm |")
    with pytest.raises(SystemExit):
        encoders.main(["--only=vgg"])
    assert "names vgg; expected some of convnext" in capsys.readouterr().err
