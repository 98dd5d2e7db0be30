"""PyTorch's side of `experiments.torch_peer`, run in a process of its own: needs nothing but PyTorch and numpy.

python -m experiments.torch_training FOLDER

Reads recipe.json, start.npz (initial weights by mmsegmentation's names), images.npy (normalised, float32 [steps, b, 3,
h, w]) and labels.npy (uint8 [steps, b, h, w]); writes final.npz and losses.json.
"""

import json
import os
import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F

from experiments import torch_networks

IGNORE = 255


def network(recipe: dict, weights: dict[str, np.ndarray]):
    """The network of a recipe with these weights, in training mode, without dropout.

    Raises:
      ValueError: the weights do not fit.
    """
    encoder = torch_networks.ResNet(**recipe["encoder"])
    peer = torch_networks.Segmentor(
        encoder, recipe["head"], recipe["num_classes"], recipe["channels"], **recipe["options"]
    )
    peer.decode_head.dropout.p = 0.0
    missing, unexpected = peer.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()}, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(
            f"the weights lack {', '.join(missing) or 'nothing'}, and have {', '.join(unexpected)} besides"
        )
    return peer.train()


def make_optimizer(options: dict, parameters):
    """torch's of config.optimizer; its rate is set at every step."""
    if options["name"] == "sgd":
        kind = {key: options[key] for key in ("momentum", "nesterov")}
        return torch.optim.SGD(parameters, 0.0, weight_decay=options["weight_decay"], **kind)
    return torch.optim.AdamW(parameters, 0.0, weight_decay=options["weight_decay"])


def train(recipe: dict, peer, images, labels) -> list[float]:
    """Trains in place, a step a batch; returns the losses."""
    optimizer, losses = make_optimizer(recipe["optimizer"], peer.parameters()), []
    for rate, image, label in zip(recipe["rates"], images, labels, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        label = torch.from_numpy(label.astype(np.int64))
        (logits,) = peer(torch.from_numpy(np.array(image)))
        logits = torch_networks.resize(logits, label.shape[1:])
        total = F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="sum")
        valid = max(int((label != IGNORE).sum()), 1)
        loss = total / (valid if recipe["average"] == "valid" else label.numel())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main(folder: pathlib.Path) -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    recipe = json.loads((folder / "recipe.json").read_text())
    with np.load(folder / "start.npz") as weights:
        peer = network(recipe, dict(weights))
    images, labels = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", "labels"))
    losses = train(recipe, peer, images, labels)
    np.savez(folder / "final.npz", **{name: tensor.numpy() for name, tensor in peer.state_dict().items()})
    (folder / "losses.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
