"""The demonstration, cut down to two steps an arm."""

import json

from experiments import demo
from se_jax.report import results
from tests import tiny


def cut(config):
    """Turns an arm into seconds of work."""
    config.num_steps = 2
    config.optimizer.warmup_steps = 1
    config.model.encoder.update(tiny.ENCODER)
    config.model.decoder.channels = 8
    config.data.update(num_train=8, num_val=2, batch_size=8, image_size=(32, 32), crop=(32, 32))
    config.eval.update(every_steps=2, batch_size=2)


def test_both_arms_run_from_the_same_start_and_the_page_holds_both(tmp_path, capsys):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "config.json").write_text("{}")  # of an earlier, different demonstration: it is replaced
    results = demo.run(tmp_path, change=cut)
    assert {name: result["equalizer"] for name, result in results.items()} == demo.ARMS
    configs = [json.loads((tmp_path / mode / "config.json").read_text()) for mode in demo.ARMS.values()]
    assert [config["model"]["equalizer"].pop("mode") for config in configs] == ["none", "explicit"]
    assert configs[0] == configs[1]
    printed, page = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    for name in demo.ARMS:
        assert name in printed and name in page
    assert "What it does not show" in printed and "What it does not show" in page
    assert "ppm" in printed and "pool6" in printed  # the calibration's table


def test_side_by_side_shows_the_difference():
    first = {"iou": {"ball": 0.5, "box": None}, "miou": 0.5}
    second = {"iou": {"ball": 0.625, "box": 0.1}, "miou": 0.3625}
    table = results.side_by_side({"without": first, "with": second})
    lines = {line.split()[0]: line.split()[1:] for line in table.splitlines()}
    assert lines["ball"] == ["50.00", "62.50", "+12.50"]
    assert lines["box"] == ["-", "10.00", "-"]
    assert lines["mean"] == ["of", "1", "of", "2", "classes", "50.00", "36.25", "-13.75"]
