"""Encoders of the benchmark in PyTorch: MobileNetV2 and MiT as mmsegmentation builds them, the others are published
ones.

Each is a module whose forward gives the maps that ours gives, [b, c, h, w], finest first, with the list `channels`; its
`layout` says which import table reads its state dict.
"""

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn


def conv_bn(inputs, outputs, kernel=1, stride=1, dilation=1, groups=1, activation=True):
    """Convolution, BatchNorm and ReLU6 by the names of mmcv's ConvModule."""
    padding = dilation * (kernel // 2)
    block = nn.Sequential()
    block.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False)
    block.bn = nn.BatchNorm2d(outputs)
    if activation:
        block.activate = nn.ReLU6(inplace=True)
    return block


class InvertedResidual(nn.Module):
    def __init__(self, inputs, outputs, stride, dilation, expansion):
        super().__init__()
        hidden = inputs * expansion
        layers = [conv_bn(inputs, hidden)] if expansion != 1 else []
        layers += [conv_bn(hidden, hidden, 3, stride, dilation, hidden), conv_bn(hidden, outputs, activation=False)]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """At output stride 8; only the first block of a layer is dilated."""

    layout = "mmseg"
    channels = [24, 32, 96, 320]

    def __init__(self):
        super().__init__()
        self.conv1, inputs = conv_bn(3, 32, 3, 2), 32
        plan = zip(
            (1, 6, 6, 6, 6, 6, 6),
            (16, 24, 32, 64, 96, 160, 320),
            (1, 2, 3, 4, 3, 3, 1),
            (1, 2, 2, 1, 1, 1, 1),
            (1, 1, 1, 2, 2, 4, 4),
            strict=True,
        )
        for layer, (expansion, outputs, blocks, stride, dilation) in enumerate(plan, 1):
            made = []
            for i in range(blocks):
                first = (stride, dilation) if i == 0 else (1, 1)
                made.append(InvertedResidual(inputs, outputs, *first, expansion))
                inputs = outputs
            self.add_module(f"layer{layer}", nn.Sequential(*made))

    def forward(self, x):
        x, maps = self.conv1(x), []
        for layer in range(1, 8):
            x = getattr(self, f"layer{layer}")(x)
            if layer in (2, 3, 5, 7):
                maps.append(x)
        return maps


class PatchEmbed(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride):
        super().__init__()
        self.proj, self.norm = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.LayerNorm(outputs, 1e-6)

    def forward(self, x):
        x = self.proj(x)
        return self.norm(x.flatten(2).transpose(1, 2)), x.shape[2:]


class Attention(nn.Module):
    def __init__(self, channels, heads, reduction):
        super().__init__()
        self.heads, self.sr = heads, None
        self.q, self.kv, self.proj = (nn.Linear(channels, n * channels) for n in (1, 2, 1))
        if reduction > 1:
            self.sr, self.norm = nn.Conv2d(channels, channels, reduction, reduction), nn.LayerNorm(channels, 1e-6)

    def forward(self, x, size):
        b, n, c = x.shape
        q = self.q(x).view(b, n, self.heads, -1).transpose(1, 2)
        if self.sr is not None:
            x = self.sr(x.transpose(1, 2).reshape(b, c, *size)).flatten(2).transpose(1, 2)
            x = self.norm(x)
        k, v = self.kv(x).view(b, x.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


class MixFFN(nn.Module):
    def __init__(self, channels, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.dwconv = nn.Module()
        self.dwconv.dwconv = nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden)

    def forward(self, x, size):
        x = self.fc1(x)
        x = self.dwconv.dwconv(x.transpose(1, 2).reshape(x.shape[0], x.shape[2], *size))
        return self.fc2(F.gelu(x.flatten(2).transpose(1, 2)))


class MixBlock(nn.Module):
    def __init__(self, channels, heads, reduction):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels, 1e-6), nn.LayerNorm(channels, 1e-6)
        self.attn, self.mlp = Attention(channels, heads, reduction), MixFFN(channels, 4 * channels)

    def forward(self, x, size):
        x = x + self.attn(self.norm1(x), size)
        return x + self.mlp(self.norm2(x), size)


class MixVisionTransformer(nn.Module):
    """MiT-B0, by the names of its authors."""

    layout = "official"
    channels = [32, 64, 160, 256]

    def __init__(self):
        super().__init__()
        inputs = 3
        for i, (width, heads, reduction) in enumerate(zip(self.channels, (1, 2, 5, 8), (8, 4, 2, 1), strict=True), 1):
            self.add_module(f"patch_embed{i}", PatchEmbed(inputs, width, *((7, 4) if i == 1 else (3, 2))))
            self.add_module(f"block{i}", nn.ModuleList(MixBlock(width, heads, reduction) for _ in range(2)))
            self.add_module(f"norm{i}", nn.LayerNorm(width, 1e-6))
            inputs = width

    def forward(self, x):
        maps = []
        for i in range(1, 5):
            x, size = getattr(self, f"patch_embed{i}")(x)
            for block in getattr(self, f"block{i}"):
                x = block(x, size)
            x = getattr(self, f"norm{i}")(x).transpose(1, 2).reshape(x.shape[0], x.shape[2], *size)
            maps.append(x)
        return maps


class Published(nn.Module):
    """A published classifier's intermediate maps.

    `norm_epsilon` gives each a LayerNorm, as segmentation networks have.
    """

    def __init__(self, layout, model, channels, norm_epsilon=None):
        super().__init__()
        self.layout, self.model, self.channels = layout, model, channels
        self.norms = nn.ModuleList(nn.LayerNorm(n, norm_epsilon) for n in channels) if norm_epsilon else None

    def forward(self, x):
        if self.layout == "timm":
            maps = self.model.forward_intermediates(x, indices=len(self.channels), intermediates_only=True)
        else:
            maps = []
            for i, part in enumerate(self.model.features):
                x = part(x)
                if i % 2:
                    maps.append(x.permute(0, 3, 1, 2))
        if self.norms is None:
            return maps
        last = [norm(x.permute(0, 2, 3, 1)) for norm, x in zip(self.norms, maps, strict=True)]
        return [x.permute(0, 3, 1, 2) for x in last]


class HRNet(nn.Module):
    """timm's HRNet-W18 with the bilinear upsampling of segmentation."""

    layout = "timm"
    channels = [18, 36, 72, 144]

    def __init__(self):
        super().__init__()
        self.model = timm.create_model("hrnet_w18")
        for module in self.model.modules():
            if isinstance(module, nn.Upsample):
                module.mode = "bilinear"

    def forward(self, x):
        model = self.model
        x = model.act1(model.bn1(model.conv1(x)))
        return model.stages(model.act2(model.bn2(model.conv2(x))))


class Xception(nn.Module):
    """timm's Xception-65 at output stride 16, and the maps inside its units that DeepLab's decoders read."""

    layout = "timm"
    channels = [256, 728, 728, 2048]

    def __init__(self):
        super().__init__()
        self.model, self.seen = timm.create_model("xception65", output_stride=16), []
        blocks = self.model.blocks
        for module in (blocks[1].stack.conv2, blocks[2].stack.conv2, blocks[18], blocks[-1]):
            module.register_forward_hook(lambda module, inputs, output: self.seen.append(output.clone()))

    def forward(self, x):
        self.seen.clear()
        self.model.blocks(self.model.stem(x))
        return list(self.seen)


def swin():
    # not timm's, which pads after the shift
    return Published("torchvision", torchvision.models.swin_t(), [96, 192, 384, 768], 1e-5)


def convnext():
    model = timm.create_model("convnext_tiny", drop_path_rate=0.4, ls_init_value=1.0)
    return Published("timm", model, [96, 192, 384, 768], 1e-6)


def twins():
    model = timm.create_model("twins_pcpvt_small", drop_path_rate=0.2)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5
    return Published("timm", model, [64, 128, 320, 512])


def efficientnet(variant):
    """B1 or Lite0, whose maps have as many channels."""
    model = timm.create_model(f"tf_efficientnet_{variant}", drop_path_rate=0.2)
    return Published("timm", model, [24, 40, 112, 320])


ENCODERS = {
    "convnext": convnext,
    "efficientnet": efficientnet,
    "hrnet": HRNet,
    "mit": MixVisionTransformer,
    "mobilenetv2": MobileNetV2,
    "swin": swin,
    "twins": twins,
    "xception": Xception,
}


def state_dict(encoder: nn.Module) -> dict[str, torch.Tensor]:
    """The encoder's tensors by the names of its layout."""
    names = {}
    for name, tensor in encoder.state_dict().items():
        scope, _, rest = name.partition(".")
        index, _, leaf = rest.partition(".")
        names[{"model": rest, "norms": f"norm{index}.{leaf}"}.get(scope, name)] = tensor
    return names
