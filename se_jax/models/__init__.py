"""Networks: `build(config.model)` makes one from a config; the classes make one by hand.

model = Segmenter(ResNet(50), ASPPHead(num_classes=19))
variables = model.init(jax.random.key(0), images)

Names are imported on first use, so that each module here can be used without the others.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
