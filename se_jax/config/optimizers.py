"""config.optimizer of published recipes: each a dict of options, which keyword arguments change."""

FREE_TEMPERATURE = (("log_temperature$", 0.0),)  # optimizer.decay_multipliers for decoder 'dupsampling'


# encoder -> the beginnings of its modules' names, stage by stage from the image on
STAGES = {
    "convnext": ("downsample_layers_0_|stages_0_|norm0", *(f"(downsample_layers_|stages_|norm){i}" for i in (1, 2, 3))),
    "efficientnet": ("conv_stem|bn1", *(f"blocks_{i}_" for i in range(7))),
    "hrnet": ("conv", "layer1_|transition1_", "stage2_|transition2_", "stage3_|transition3_", "stage4_"),
    "mit": tuple(f"layers_{i}_" for i in range(4)),
    "mobilenetv2": ("conv", *(f"layer{i}_" for i in range(1, 8))),
    "resnet": ("stem_", *(f"layer{i}_" for i in range(1, 5))),
    "swin": ("patch_embed_", *(f"stages_{i}_|norm{i}" for i in range(4))),
    "twins": tuple(f"(patch_embeds|layers|position_encodings|norm_list)_{i}" for i in range(4)),
    "vit": ("patch_embed|position|cls_token|register_tokens", "blocks_", "norm|feature_pyramid"),
    "xception": ("stem_", "blocks_[0-2]/", "blocks_"),
}


def layer_decay(encoder: str, decay: float) -> tuple[tuple[str, float], ...]:
    """optimizer.rate_multipliers that fall with the depth: decay^1 for an encoder's last stage, decay^n for its first.

    Stage by stage, for every encoder; heads keep the whole rate. Ours: what published recipes have by blocks stands
    below (`adamw_convnext`, `adamw_swin_layers`).

    Raises:
      ValueError: no such encoder.
    """
    if encoder not in STAGES:
        raise ValueError(f"there is no encoder {encoder!r}; expected one of {', '.join(STAGES)}")
    stages = STAGES[encoder]
    return tuple((f"^encoder/({stage})", decay ** (len(stages) - i)) for i, stage in enumerate(stages))


def sgd(**changes) -> dict:
    """config.optimizer; by default mmsegmentation's for CNNs: decay on everything, no warm-up."""
    return {
        "name": "sgd",  # or adamw
        "learning_rate": 0.01,
        "min_learning_rate": 1e-4,  # reached at the last step
        # a polynomial decay; 'poly_open', which reaches the minimum one step after the last; 'cosine'; 'step', which
        # falls at milestones; 'one_cycle', a cosine up and another down, without warm-up and minimum; or 'two_stage', a
        # poly_open to 0 where parameters of second_stage wait until the others are warm
        "schedule": "poly",
        "power": 0.9,  # of the polynomial decays
        "milestones": (),  # 'step' only: steps from which on the rate is `milestone_factor` times the one before
        "milestone_factor": 0.1,
        "warmup_steps": 0,
        "warmup": "linear",  # from warmup_factor times the rate up to it; or exponential; or constant, which jumps
        "warmup_factor": 1e-6,
        # 'two_stage' only: patterns found in the paths of parameters that wait, and for how long they then warm up
        "second_stage": (),
        "second_warmup_steps": 0,
        "momentum": 0.9,  # sgd only
        "nesterov": False,  # sgd only
        "weight_decay": 5e-4,
        "clip_norm": 0.0,  # largest L2 norm of all gradients together, to which longer ones are cut; 0: none is
        # (pattern found in the parameter's path, multiplier), the first found counts; see se_jax/training/optimizers.py
        "rate_multipliers": (),
        "decay_multipliers": (),
        # patterns of parameters that stay as they are, e.g. ("^encoder/",): no gradient, no decay, no optimiser state;
        # BatchNorms of frozen parts on running statistics
        "freeze": (),
        **changes,
    }


def adamw_swin(**changes) -> dict:
    """mmsegmentation's for Swin and Twins: no decay on LayerNorms and bias tables.

    Biases of linear layers and convolutions are decayed, Twins' positional ones too, and so are the heads' BatchNorms.
    """
    recipe = {
        "name": "adamw",
        "learning_rate": 6e-5,
        "min_learning_rate": 0.0,
        "power": 1.0,
        "warmup_steps": 1500,
        "weight_decay": 0.01,
        "decay_multipliers": (("norm|bias_table$", 0.0),),
    }
    return sgd(**recipe) | changes


def adamw_segformer(**changes) -> dict:
    """mmsegmentation's for SegFormer: as Swin's, with ten times the rate in the heads.

    The norms that end MiT's stages are decayed, as there: they have no "norm" in their names, nor in ours.
    """
    return adamw_swin(rate_multipliers=(("^(decoder|auxiliary)/", 10.0),)) | changes


def adamw_convnext(num_layers: int, **changes) -> dict:
    """mmsegmentation's for ConvNeXt: rates that fall with the depth, by stages; no decay on norms, biases and gamma.

    num_layers: 6 for ConvNeXt-T, 12 for the others. The output norms and the heads have the whole rate.
    """
    scopes = ("downsample_layers", "stages_0", "stages_1", "stages_2", "stages_3")
    rates = ((f"^encoder/{scope}", 0.9 ** (num_layers + 1 - level)) for level, scope in enumerate(scopes))
    recipe = {
        "learning_rate": 1e-4,
        "weight_decay": 0.05,
        "rate_multipliers": tuple(rates),
        "decay_multipliers": (("/(scale|bias|tap_bias|gamma)$", 0.0),),
    }
    return adamw_swin(**recipe) | changes


def sgd_eseg(batch_size: int, **changes) -> dict:
    """Ours for ESeg, whose paper's recipe is not known to us: as those of EfficientDet and Google's BiFPN segmentation.

    A rate of 0.08 for 64 images, half a cosine down to 0, Nesterov's momentum; to go with an average of the parameters.
    """
    recipe = {
        "learning_rate": 0.08 * batch_size / 64,
        "min_learning_rate": 0.0,
        "schedule": "cosine",
        "nesterov": True,
        "weight_decay": 4e-5,
    }
    return sgd(**recipe) | changes


def adamw_swin_layers(**changes) -> dict:
    """VWFormer's for Swin-B and Swin-L: rates that fall with the depth, two blocks of the third stage being a layer.

    Bias tables are decayed, as there; norms and biases are not.
    """
    third = [f"stages_2_blocks_({2 * i}|{2 * i + 1})/" for i in range(9)]
    layers = ["patch_embed", "stages_0_", "stages_1_", f"stages_2_downsample/|{third[0]}", *third[1:], "stages_3_"]
    recipe = {
        "learning_rate": 1e-4,
        "weight_decay": 0.05,
        "rate_multipliers": tuple((f"^encoder/({name})", 0.85 ** (13 - i)) for i, name in enumerate(layers)),
        "decay_multipliers": (("/(scale|bias|tap_bias)$", 0.0),),
    }
    return adamw_swin(**recipe) | changes


def adamw_mask2former(**changes) -> dict:
    """Mask2Former's: a tenth of the rate in the encoder, gradients cut to a norm of 0.01, detectron2's poly schedule.

    No decay on norms, bias tables and the three learned tables of the queries' decoder. Biases are decayed, and so is
    the pixel decoder's level encoding: there it is no module, which the rule goes by.
    """
    learned = "query_decoder/(query_feat|query_embed|level_embed)$"
    recipe = {
        "name": "adamw",
        "learning_rate": 1e-4,
        "min_learning_rate": 0.0,
        "schedule": "poly_open",
        "weight_decay": 0.05,
        "clip_norm": 0.01,
        "rate_multipliers": (("^encoder/", 0.1),),
        "decay_multipliers": ((f"norm|/gn/|/bn|bias_table$|{learned}", 0.0),),
    }
    return sgd(**recipe) | changes


def adamw_eomt(depth: int, layer_decay: float = 0.8, whole: int = 0, **changes) -> dict:
    """EoMT's, for an encoder of `depth` blocks: rates that fall with the depth, and start second there.

    Everything is decayed, norms, biases and tokens too. The embedding of patches and the tokens have the rate of the
    first block, the encoder's last norm and the head the whole one, and so have the last `whole` blocks.
    """
    decayed = range(depth - max(whole, 1))
    rates = [(f"^encoder/blocks_{block}/", layer_decay ** (depth - 1 - block)) for block in decayed]
    rates.append(("^encoder/(patch_embed|position|cls_token|register_tokens)", layer_decay ** (depth - 1)))
    recipe = {
        "name": "adamw",
        "learning_rate": 1e-4,
        "min_learning_rate": 0.0,
        "schedule": "two_stage",
        "warmup_steps": 500,
        "second_stage": ("^encoder/",),
        "second_warmup_steps": 1000,
        "weight_decay": 0.05,
        "clip_norm": 0.01,
        "rate_multipliers": tuple(rates) if layer_decay != 1 else (),
    }
    return sgd(**recipe) | changes
