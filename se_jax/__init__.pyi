from .checkpoints import load_for_inference as load_for_inference
from .equalizer.calibrate import Row as Row
from .equalizer.calibrate import equalize as equalize
from .equalizer.calibrate import measure as measure
from .equalizer.calibrate import table as table
from .equalizer.fold import fold as fold
from .equalizer.fusion import Equalizer as Equalizer
from .equalizer.fusion import Fusion as Fusion
from .equalizer.fusion import FusionConv as FusionConv
from .equalizer.sites import find_sites as find_sites
from .evaluation.evaluator import evaluate as evaluate
from .evaluation.metrics import Metric as Metric
from .evaluation.predictor import Model as Model
from .evaluation.predictor import create as create
from .evaluation.predictor import load as load
from .exporters import export as export
from .losses.base import Loss as Loss
from .models.decoders.base import Decoder as Decoder
from .models.from_config import build as build
from .models.names import list_encoders as list_encoders
from .models.names import list_heads as list_heads
from .models.segmenter import Segmenter as Segmenter
from .models.segmenter import normalize as normalize
from .training.loop import train_and_evaluate as train_and_evaluate
from .training.simple import train as train

__version__: str
