"""Changes samples at random, so that few of them are not learned by heart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dc_compiler.ort.data import Feed

Array = np.ndarray
IMAGE = 8  # least extents of what may be moved by a pixel


@dataclass(frozen=True)
class Changes:
    """What is done to every sample of a batch.

    Args:
        shift: images (inputs [n, channels, height, width]) move by up to so many pixels in each direction.
        mirror: half of the images swap left and right.
        mix: share of the samples to which inputs of floats get a part of another sample's.
    """

    shift: int = 0
    mirror: bool = False
    mix: float = 0.0

    @property
    def any(self) -> bool:
        """Whether anything changes."""
        return self.shift > 0 or self.mirror or self.mix > 0

    def apply(self, inputs: Feed, generator: np.random.Generator) -> Feed:
        """The batch, changed; all images of a sample alike."""
        count = len(next(iter(inputs.values())))
        if self.shift:
            inputs = shifted(inputs, self.shift, generator)
        if self.mirror:
            flipped = generator.random(count) < 0.5
            inputs = mirrored(inputs, flipped)
        if self.mix:
            others = generator.permutation(count)
            shares = np.where(generator.random(count) < self.mix, generator.random(count), 1.0).astype(np.float32)
            inputs = {k: _mixed(v, others, shares) if v.dtype.kind == "f" else v for k, v in inputs.items()}
        return inputs


def shifted(inputs: Feed, most: int, generator: np.random.Generator) -> Feed:
    """Every image of [n, channels, height, width] inputs moved by -most..most pixels; its edge pixels fill the gap."""
    result = dict(inputs)
    for name, images in inputs.items():
        if images.ndim == 4:
            n, _, height, width = images.shape
            padded = np.pad(images, ((0, 0), (0, 0), (most, most), (most, most)), mode="edge")
            windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
            down, right = generator.integers(0, 2 * most + 1, (2, n))
            result[name] = np.ascontiguousarray(windows[np.arange(n), :, down, right])
    return result


def mirrored(inputs: Feed, flipped: Array) -> Feed:
    """The images of [n, channels, height, width] inputs with left and right swapped where ``flipped``, bool [n]."""
    where = flipped[:, None, None, None]
    return {k: np.where(where, v[..., ::-1], v) if v.ndim == 4 else v for k, v in inputs.items()}


def is_image(inputs: Array) -> bool:
    """Whether inputs [n, ...] are images that can move by a pixel: of floats, with one channel or three."""
    if inputs.ndim != 4 or inputs.dtype.kind != "f":
        return False
    return inputs.shape[1] in (1, 3) and min(inputs.shape[2:]) >= IMAGE


def _mixed(values: Array, others: Array, shares: Array) -> Array:
    share = shares.reshape(-1, *[1] * (values.ndim - 1)).astype(values.dtype)
    return np.asarray(share * values + (1 - share) * values[others])
