"""Which arrays of a network keep their initial values although trained weights are at hand: config.init_skip."""

import re
from collections.abc import Iterable

from se_jax.models import Segmenter

CLASSIFIER = "classifier"


class Skip:
    """Says of an array, by its path such as 'decoder/conv_seg/kernel', whether it is left out.

    Args:
      spec: names with commas between them, or a sequence of names: 'classifier', the modules of all heads that belong
        to the classes (`Decoder.classifier`), or regular expressions that are searched for in the path.
      model: the Segmenter, or one of its parts.

    Raises:
      ValueError: one of them is no regular expression.
    """

    def __init__(self, spec, model):
        names = spec.split(",") if isinstance(spec, str) else spec
        self._classifier, self._patterns, self._asked = _classifier(model), {}, set()
        for name in filter(None, (name.strip() for name in names)):
            try:
                self._patterns[name] = re.compile(self._classifier if name == CLASSIFIER else name)
            except re.error as error:
                raise ValueError(
                    f"init_skip has {name!r}, which is no regular expression ({error}); expected {CLASSIFIER!r}, or "
                    "expressions found in a parameter's path such as decoder/conv_seg/kernel"
                ) from error

    def __call__(self, array: str) -> bool:
        self._asked.add(array)
        return any(pattern.search(array) for pattern in self._patterns.values())

    def check(self, arrays: Iterable[str]) -> None:
        """Raises ValueError where a name is found neither in these arrays nor in one that was asked about."""
        arrays = self._asked.union(arrays)
        for name, pattern in self._patterns.items():
            if not any(map(pattern.search, arrays)):
                raise ValueError(
                    f"init_skip has {name!r}, which is found in no parameter; their paths are like "
                    f"{', '.join(sorted(arrays)[:3])}"
                )

    def advice(self, differing: list[str]) -> str:
        """What to do where these arrays of trained weights do not fit."""
        if any(array.endswith("tap_bias") for array in differing):
            return (
                "\nIts equalizers are folded into its weights (tap_bias): --config.model.equalizer.mode=folded starts "
                "from them as they are"
            )
        if all(re.search(self._classifier, array) for array in differing):
            return "\nThey are of other classes: --config.init_skip=classifier starts the classifiers from chance"
        return (
            "\nAn array whose path holds one of these patterns starts from chance: --config.init_skip=PATTERN,PATTERN, "
            "where 'classifier' stands for the classifiers"
        )


def _classifier(model) -> str:
    """The pattern of the modules that belong to the classes."""
    heads = {"decoder": model.decoder, "auxiliary": model.auxiliary} if isinstance(model, Segmenter) else {"": model}
    scopes = (
        f"^{scope}/{name}/" if scope else f"(^|/){name}/"
        for scope, head in heads.items()
        for name in getattr(head, "classifier", ())
    )
    return "|".join(scopes) or "$^"
