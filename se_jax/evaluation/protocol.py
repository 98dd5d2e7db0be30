"""How an image becomes class ids, config.eval: whole or by windows, in one view or in twelve, as mmsegmentation has it.

Or by windows in even steps, EoMT's way.
"""

import dataclasses

MODES = ("whole", "slide", "spread")
RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # of an image's own size: the reference's test-time augmentation


@dataclasses.dataclass(frozen=True)
class View:
    """One way an image is shown to the network: at which (height, width), and whether left and right are swapped.

    fitted: the size that it is resized to before, if it is resized twice.
    """

    size: tuple[int, int]
    mirrored: bool = False
    fitted: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How an image becomes class ids; the options of config.eval, checked, with the defaults of those not given."""

    mode: str = "whole"
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    tta: bool = False
    scale: tuple[int, int] | None = None
    size_multiple: int = 1

    def views(self, size: tuple[int, int]) -> list[View]:
        """The views of an image of `size` = (height, width), in the reference's order."""
        if self.mode == "spread":
            return [View(self.seen_size(size))]
        if not self.tta:
            return [self._view(size, self.scale)]
        height, width = size
        scales = [(int(width * ratio + 0.5), int(height * ratio + 0.5)) for ratio in RATIOS]
        return [self._view(size, scale, mirrored) for scale in scales for mirrored in (False, True)]

    def _view(self, size: tuple[int, int], scale, mirrored: bool = False) -> View:
        """Sides are rounded up to `size_multiple` by a second resize, as by the reference's ResizeToMultiple."""
        fitted = input_size(*size, scale)
        rounded = _round_up(fitted[0], self.size_multiple), _round_up(fitted[1], self.size_multiple)
        return View(rounded, mirrored, None if fitted in (size, rounded) else fitted)

    def seen_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) to which images are resized by PIL before all else; their own but where mode is 'spread'.

        There the shorter side becomes the window's; halves are rounded to even numbers, as by Python.
        """
        if self.mode != "spread" or self.window is None:
            return size
        factor = max(self.window[0] / side for side in size)
        return round(size[0] * factor), round(size[1] * factor)

    def windows(self, length: int, axis: int) -> tuple[int, tuple[int, ...]]:
        """(length of a window, where windows start) along an axis (0: height) of a network input of that `length`."""
        if self.mode == "spread" and self.window is not None and length > self.window[axis]:
            window = self.window[axis]
            count = -(-length // window)
            step = window - (count * window - length) / (count - 1)
            return window, tuple(int(i * step) for i in range(count))
        if self.window is None or self.stride is None or length <= self.window[axis]:
            return length, (0,)
        window, stride = self.window[axis], self.stride[axis]
        count = -(-(length - window) // stride) + 1
        return window, tuple(min(i * stride, length - window) for i in range(count))  # the last ends at the border


def protocol(config) -> Protocol:
    """The Protocol that config.eval describes. Options it lacks have their defaults.

    Raises:
      ValueError: an option cannot be; names it.
    """
    mode, tta = config.get("mode", "whole"), config.get("tta", False)
    if mode not in MODES:
        raise ValueError(f"eval.mode is {mode!r}; expected one of {', '.join(MODES)}")
    if not isinstance(tta, bool):
        raise ValueError(f"eval.tta is {tta!r}; expected True (six scales, plain and mirrored) or False")
    scale = _pair(config, "scale", "(width, height), or None (no resize)")
    multiple = config.get("size_multiple", 1)
    if not isinstance(multiple, int) or multiple < 1:
        raise ValueError(f"eval.size_multiple is {multiple!r}; give a positive integer; 1 rounds no side up")
    if mode == "whole":  # the other two options wait for the other mode
        return Protocol(mode, None, None, tta, scale, multiple)
    window, stride = (_pair(config, name, "(height, width)") for name in ("window", "stride"))
    if mode == "spread":
        if window is None or window[0] != window[1]:
            raise ValueError(f"eval.window is {window}; eval.mode='spread' needs two equal positive integers")
        if tta or scale or multiple != 1:
            raise ValueError(
                "eval.tta, eval.scale and eval.size_multiple belong to other modes; eval.mode='spread' shows images at "
                "one size, whose shorter side is that of eval.window: leave them out"
            )
        return Protocol(mode, window)
    if window is None or stride is None:
        name = "window" if window is None else "stride"
        raise ValueError(f"eval.{name} is None; eval.mode='slide' needs two positive integers (height, width)")
    if any(step > side for step, side in zip(stride, window, strict=True)):
        raise ValueError(
            f"eval.stride {stride} is larger than eval.window {window}: pixels between windows would be left out; "
            "give a stride of at most the window"
        )
    longest = None if scale is None else _round_up(max(scale), multiple)
    if longest is not None and not tta and max(window) > longest:
        raise ValueError(
            f"eval.window {window} is larger than allowed: no side of an image fitted to eval.scale {scale} is longer "
            f"than {longest}; give a smaller window, or eval.mode='whole'"
        )
    return Protocol(mode, window, stride, tta, scale, multiple)


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def check(model, config) -> None:
    """Raises ValueError where config.eval would show a network images of sizes that it cannot take."""
    given, multiple = protocol(config), model.size_multiple
    if given.mode == "spread" and given.window:  # windows are all that it sees
        if rest := given.window[0] % multiple:
            sides = [side for side in (given.window[0] - rest, given.window[0] - rest + multiple) if side]
            raise ValueError(
                f"eval.window is {given.window}; expected sides that are multiples of {multiple}, as of all images of "
                f"this network: the next ones are {' and '.join(f'({side}, {side})' for side in sides)}"
            )
        return
    if given.size_multiple % multiple or any(side % multiple for side in given.window or ()):
        window = f" and eval.window {given.window}" if given.window else ""
        raise ValueError(
            f"eval.size_multiple is {given.size_multiple}{window}; the sides of this network's images are multiples of "
            f"{multiple}: set eval.size_multiple={multiple}{', and a window of such sides' if window else ''}"
        )


def _pair(config, name: str, expected: str) -> tuple[int, int] | None:
    value = config.get(name)
    if value is None:
        return None
    numbers = isinstance(value, (tuple, list)) and all(isinstance(side, (int, float)) for side in value)
    if not numbers or len(value) != 2 or any(int(side) != side or side < 1 for side in value):
        raise ValueError(f"eval.{name} is {value!r}; give two positive integers {expected}")
    return int(value[0]), int(value[1])


def input_size(height: int, width: int, scale: tuple[int, int] | None) -> tuple[int, int]:
    """(h, w) of the network's input: the largest of the image's shape whose sides fit into `scale`, long to long.

    `scale` is two numbers in any order, as in the reference's Resize(keep_ratio=True); None keeps the image's size.
    """
    if scale is None:
        return height, width
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)
