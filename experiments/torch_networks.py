"""The benchmark's networks once more in PyTorch, as mmsegmentation builds them: ResNet and the six heads.

Module names are mmsegmentation's, so that `se_jax.importers` reads a peer's state dict and both sides can be checked to
compute the same function. Images and maps are [b, c, h, w], as torch has them.
"""

import torch
import torch.nn.functional as F
from torch import nn

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
GEOMETRY = {8: ((1, 2, 1, 1), (1, 1, 2, 4)), 16: ((1, 2, 2, 1), (1, 1, 1, 2)), 32: ((1, 2, 2, 2), (1, 1, 1, 1))}


class ConvModule(nn.Module):
    """Convolution, BatchNorm, ReLU."""

    def __init__(self, inputs, outputs, kernel, dilation=1, groups=1):
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel, 1, padding, dilation, groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)), inplace=True)


class SeparableConvModule(nn.Module):
    def __init__(self, inputs, outputs, kernel=3, dilation=1):
        super().__init__()
        self.depthwise_conv = ConvModule(inputs, inputs, kernel, dilation, groups=inputs)
        self.pointwise_conv = ConvModule(inputs, outputs, 1)

    def forward(self, x):
        return self.pointwise_conv(self.depthwise_conv(x))


class Block(nn.Module):
    """A residual block, basic or bottleneck."""

    def __init__(self, inputs, width, bottleneck, stride, dilation, average):
        super().__init__()
        outputs = 4 * width if bottleneck else width
        self.bottleneck = bottleneck
        spatial = {"stride": stride, "padding": dilation, "dilation": dilation, "bias": False}
        if bottleneck:
            self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
            self.conv2, self.bn2 = nn.Conv2d(width, width, 3, **spatial), nn.BatchNorm2d(width)
            self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        else:
            self.conv1, self.bn1 = nn.Conv2d(inputs, width, 3, **spatial), nn.BatchNorm2d(width)
            self.conv2, self.bn2 = nn.Conv2d(width, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            pool = [nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)] if average else []
            conv = nn.Conv2d(inputs, outputs, 1, 1 if average else stride, bias=False)
            self.downsample = nn.Sequential(*pool, conv, nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.bottleneck:
            y = self.bn3(self.conv3(F.relu(y, inplace=True)))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)


class ResNet(nn.Module):
    def __init__(self, depth=50, variant="v1c", output_stride=8, width=64, multi_grid=None):
        super().__init__()
        if variant == "v1b":
            self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        else:
            layers = []
            for inputs, outputs, stride in ((3, width // 2, 2), (width // 2, width // 2, 1), (width // 2, width, 1)):
                conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
                layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            self.stem = nn.Sequential(*layers)
        bottleneck, inputs = depth >= 50, width
        for stage, (count, stride, dilation) in enumerate(zip(BLOCKS[depth], *GEOMETRY[output_stride], strict=True)):
            blocks = []
            for i in range(count):
                rate = max(dilation // 2, 1) if i == 0 else dilation
                if stage == 3 and multi_grid is not None:
                    rate = multi_grid[i]
                channels = width * 2**stage
                average = variant == "v1d"
                blocks.append(Block(inputs, channels, bottleneck, stride if i == 0 else 1, rate, average))
                inputs = channels * (4 if bottleneck else 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.channels = [width * 2**stage * (4 if bottleneck else 1) for stage in range(4)]

    def forward(self, x):
        x = self.stem(x) if hasattr(self, "stem") else F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, 2, 1)
        maps = []
        for stage in range(4):
            x = getattr(self, f"layer{stage + 1}")(x)
            maps.append(x)
        return maps


def resize(x, size):
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


class Head(nn.Module):
    def __init__(self, channels, num_classes):
        super().__init__()
        self.dropout = nn.Dropout2d(0.1)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features):
        return self.conv_seg(self.dropout(self.body(features)))


class FCNHead(Head):
    def __init__(
        self,
        inputs,
        channels,
        num_classes,
        num_convs=2,
        kernel_size=3,
        concat_input=True,
        in_index=3,
        resize_concat=False,
    ):
        super().__init__(channels, num_classes)
        self.in_index, self.resize_concat = in_index, resize_concat
        last = sum(inputs) if resize_concat else inputs[in_index]
        blocks = [ConvModule(last if i == 0 else channels, channels, kernel_size) for i in range(num_convs)]
        self.convs = nn.Sequential(*blocks)
        self.conv_cat = ConvModule(last + channels, channels, 3) if concat_input else None

    def body(self, features):
        x = features[self.in_index]
        if self.resize_concat:
            size = features[0].shape[2:]
            x = torch.cat([features[0], *(resize(feature, size) for feature in features[1:])], 1)
        y = self.convs(x)
        return y if self.conv_cat is None else self.conv_cat(torch.cat([x, y], 1))


def pyramid(inputs, channels):
    return nn.ModuleList(
        [nn.Sequential(nn.AdaptiveAvgPool2d(s), ConvModule(inputs, channels, 1)) for s in (1, 2, 3, 6)]
    )


class PSPHead(Head):
    def __init__(self, inputs, channels, num_classes):
        super().__init__(channels, num_classes)
        self.psp_modules = pyramid(inputs[3], channels)
        self.bottleneck = ConvModule(inputs[3] + 4 * channels, channels, 3)

    def pool(self, x):
        pools = [resize(module(x), x.shape[2:]) for module in self.psp_modules]
        return self.bottleneck(torch.cat([x, *pools], 1))

    def body(self, features):
        return self.pool(features[3])


class ASPPHead(Head):
    separable = False

    def __init__(self, inputs, channels, num_classes, dilations=(1, 12, 24, 36)):
        super().__init__(channels, num_classes)
        self.image_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvModule(inputs[3], channels, 1))
        branch = SeparableConvModule if self.separable else ConvModule
        self.aspp_modules = nn.ModuleList(
            ConvModule(inputs[3], channels, 1) if d == 1 else branch(inputs[3], channels, 3, d) for d in dilations
        )
        self.bottleneck = ConvModule((1 + len(dilations)) * channels, channels, 3)

    def body(self, features):
        x = features[3]
        branches = [resize(self.image_pool(x), x.shape[2:]), *(module(x) for module in self.aspp_modules)]
        return self.bottleneck(torch.cat(branches, 1))


class SepASPPHead(ASPPHead):
    separable = True

    def __init__(self, inputs, channels, num_classes, **options):
        super().__init__(inputs, channels, num_classes, **options)
        self.c1_bottleneck = ConvModule(inputs[0], 48, 1)
        self.sep_bottleneck = nn.Sequential(
            SeparableConvModule(channels + 48, channels), SeparableConvModule(channels, channels)
        )

    def body(self, features):
        x, c1 = super().body(features), self.c1_bottleneck(features[0])
        return self.sep_bottleneck(torch.cat([resize(x, c1.shape[2:]), c1], 1))


class UPerHead(PSPHead):
    def __init__(self, inputs, channels, num_classes):
        super().__init__(inputs, channels, num_classes)
        self.lateral_convs = nn.ModuleList(ConvModule(n, channels, 1) for n in inputs[:3])
        self.fpn_convs = nn.ModuleList(ConvModule(channels, channels, 3) for _ in range(3))
        self.fpn_bottleneck = ConvModule(4 * channels, channels, 3)

    def body(self, features):
        levels = [conv(x) for conv, x in zip(self.lateral_convs, features[:3], strict=True)] + [self.pool(features[3])]
        for i in (2, 1, 0):
            levels[i] = levels[i] + resize(levels[i + 1], levels[i].shape[2:])
        outputs = [conv(x) for conv, x in zip(self.fpn_convs, levels[:3], strict=True)] + [levels[3]]
        size = outputs[0].shape[2:]
        return self.fpn_bottleneck(torch.cat([outputs[0], *(resize(x, size) for x in outputs[1:])], 1))


class SegformerHead(Head):
    def __init__(self, inputs, channels, num_classes):
        super().__init__(channels, num_classes)
        self.convs = nn.ModuleList(ConvModule(n, channels, 1) for n in inputs)
        self.fusion_conv = ConvModule(len(inputs) * channels, channels, 1)

    def body(self, features):
        size = features[0].shape[2:]
        branches = [resize(conv(x), size) for conv, x in zip(self.convs, features, strict=True)]
        return self.fusion_conv(torch.cat(branches, 1))


HEADS = {
    "fcn": FCNHead,
    "psp": PSPHead,
    "aspp": ASPPHead,
    "segformer": SegformerHead,
    "sep_aspp": SepASPPHead,
    "uper": UPerHead,
}


class Segmentor(nn.Module):
    """Image [b, 3, h, w] -> logits at the head's resolution; in training also the auxiliary head's, where there is one.

    The encoder is any module whose forward gives maps, finest first, with their `channels`.
    """

    def __init__(self, encoder, head, num_classes, channels, auxiliary_channels=None, **options):
        super().__init__()
        self.backbone = encoder
        inputs = encoder.channels
        self.decode_head = HEADS[head](inputs, channels, num_classes, **options)
        self.auxiliary_head = None
        if auxiliary_channels:
            options = {"num_convs": 1, "concat_input": False, "in_index": 2}
            self.auxiliary_head = FCNHead(inputs, auxiliary_channels, num_classes, **options)

    def forward(self, x):
        features = self.backbone(x)
        logits = [self.decode_head(features)]
        if self.training and self.auxiliary_head is not None:
            logits.append(self.auxiliary_head(features))
        return tuple(logits) if self.training else logits[0]


def randomize(model, seed=0):
    """Running statistics and affine parameters that make a mistake show."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.2, 0.2),
            ):
                tensor.uniform_(low, high, generator=generator)
    return model
