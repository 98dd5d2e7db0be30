"""Records vit_transformers.npz and eomt_transformers.npz: tiny networks of transformers, their weights drawn at random.

python tests/golden/record_transformers.py        with PyTorch and transformers, in an environment of their own
"""

import json
import pathlib

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent
SIZES = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2}
TABLE = {"patch_size": 4, "image_size": 20}
GATED = {"use_gated_mlp": True, "hidden_act": "silu"}
VITS = {  # part -> (class, arguments)
    "dinov2": ("Dinov2", TABLE),
    "registers": ("Dinov2WithRegisters", TABLE | {"use_swiglu_ffn": True}),
    "dinov3": ("DINOv3ViT", {"patch_size": 4, "num_register_tokens": 4, "intermediate_size": 96}),
    "gated": ("DINOv3ViT", {"patch_size": 4, "num_register_tokens": 4, "intermediate_size": 96} | GATED),
}
GRADIENTS = (
    "query.weight",
    "embeddings.cls_token",
    "layers.0.layer_scale1.lambda1",
    "layers.2.attention.q_proj.bias",
    "mask_head.fc1.bias",
    "upscale_block.block.0.conv2.weight",
)


def draw(network, seed: int):
    """Weights away from their neutral start, in steps of 1/256, in which they need little room."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in network.named_parameters():
            flat = x.squeeze()
            neutral = 1.0 if "norm" in name and name.endswith("weight") or "lambda" in name else 0.0
            tokens = "token" in name or "position" in name or name.startswith("query")
            spread = 0.3 if flat.ndim < 2 else 1.0 if tokens else x[0].numel() ** -0.5
            x.copy_(torch.round((neutral + spread * torch.randn(x.shape, generator=generator)) * 256) / 256)
    return network.eval()


def images(size, seed: int = 0):
    """Noise of two images, in steps of 1/64."""
    return torch.round(torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed)) * 64) / 64


def arrays(prefix: str, tensors) -> dict[str, np.ndarray]:
    return {f"{prefix}/{name}": tensor.detach().numpy() for name, tensor in tensors.items()}


def record_vits() -> tuple[dict, dict]:
    found, meta = {}, {}
    for part, (kind, options) in VITS.items():
        network = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**SIZES, **options))
        draw(network, 0)
        meta[part] = {"class": f"{kind}Model", "kwargs": SIZES | options}
        found |= arrays(f"{part}/sd", network.state_dict())
        for i, size in enumerate(((20, 20), (12, 28))):  # that of the table, and a wider one
            x = images(size)
            with torch.no_grad():
                tokens = network(pixel_values=x).last_hidden_state
            rows, columns = size[0] // 4, size[1] // 4
            patches = tokens[:, -rows * columns :].reshape(2, rows, columns, -1)
            found |= arrays(part, {f"in/{i}": x, f"out/{i}": patches})
    return found, meta


def record_eomt() -> tuple[dict, dict]:
    """All predictions, each masked by the one before, and gradients of a weighted sum of all of them."""
    options = {"patch_size": 16, "image_size": 64, "num_blocks": 2, "num_queries": 6, "num_labels": 3}
    options = SIZES | options | {"num_hidden_layers": 3}
    config = transformers.EomtConfig(**{key: value for key, value in options.items() if key != "num_labels"})
    config.num_labels = options["num_labels"]
    network = draw(transformers.EomtForUniversalSegmentation(config), 4)
    predictions, predict = [], network.predict
    network.predict = lambda tokens: predictions.append(predict(tokens)) or predictions[-1]
    x = images((64, 64))
    network(pixel_values=x)
    grid = [torch.nn.functional.interpolate(masks, size=(4, 4), mode="bilinear") for masks, _ in predictions[:-1]]
    margin = min(x.detach().abs().min().item() for x in grid)
    found = arrays("sd", network.state_dict()) | {"in": x.numpy()}
    total, generator = 0.0, torch.Generator().manual_seed(1)
    for p, pair in enumerate(predictions):
        for name, value in zip(("masks", "classes"), pair, strict=True):
            weights = torch.round(torch.randn(value.shape, generator=generator) * 8) / 8
            total = total + (value * weights).sum() / value[0].numel()
            found |= arrays(f"out/{p}", {name: value}) | arrays(f"in/weights/{p}", {name: weights})
    total.backward()
    found |= arrays("out/grad", {name: dict(network.named_parameters())[name].grad for name in GRADIENTS})
    shares = [(x > 0).float().mean().item() for x in grid]
    return found, {"kwargs": options, "margin": margin, "shares seen": shares}


def main() -> None:
    for name, record in (("vit", record_vits), ("eomt", record_eomt)):
        found, meta = record()
        facts = {"torch": torch.__version__, "transformers": transformers.__version__} | meta
        np.savez_compressed(HERE / f"{name}_transformers.npz", meta=json.dumps(facts), **found)
        print(name, facts)


if __name__ == "__main__":
    main()
