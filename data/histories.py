"""Random histories: analytic functions of the scaled time s = t/τ in [−1, 0], with exact derivatives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

TERMS, ROUGH_TERMS = 3, 8
NOISE_TERMS = 6
_DENSE = np.linspace(-1, 0, 257)  # where root mean squares are taken


@dataclass(frozen=True)
class Series:
    """Σ_j profile_j sin(frequency_j s + phase_j): J terms, profiles (J, C)."""

    frequency: np.ndarray
    phase: np.ndarray
    profile: np.ndarray

    def __call__(self, s: np.ndarray) -> np.ndarray:
        """Returns the values at scaled times s (H,), as (H, C)."""
        return np.sin(np.multiply.outer(s, self.frequency) + self.phase) @ self.profile

    def derivative(self, s: np.ndarray) -> np.ndarray:
        """Returns the derivative with respect to s, (H, C)."""
        return np.cos(np.multiply.outer(s, self.frequency) + self.phase) @ (self.frequency[:, None] * self.profile)


@dataclass(frozen=True)
class History:
    """φ(s) = offset + series(s), or offset · e^{series(s)} where positive.

    Noise changes φ to φ + noise(s), or to φ · e^{noise(s)} where positive.
    """

    offset: float
    series: Series
    is_positive: bool
    noise: Series | None = None

    def __call__(self, s: np.ndarray) -> np.ndarray:
        """Returns the values at scaled times s (H,), as (H, C)."""
        exponent = self.series(s) if self.noise is None else self.series(s) + self.noise(s)
        return self.offset * np.exp(exponent) if self.is_positive else self.offset + exponent

    def derivative(self, s: np.ndarray) -> np.ndarray:
        """Returns the derivative with respect to the scaled time s, (H, C)."""
        slope = (
            self.series.derivative(s) if self.noise is None else self.series.derivative(s) + self.noise.derivative(s)
        )
        return self(s) * slope if self.is_positive else slope


class Together:
    """N histories at the same scaled times. Those of one law share their sines and cosines, taken once a time."""

    def __init__(self, histories: Sequence[Callable[[np.ndarray], np.ndarray]]) -> None:
        self._histories, self._waves = histories, None
        if not all(isinstance(each, History) and each.noise is None for each in histories):
            return
        laws = {(each.is_positive, each.series.profile.shape, each.series.frequency.tobytes()) for each in histories}
        if len(laws) != 1:
            return
        self._is_positive, frequencies = histories[0].is_positive, histories[0].series.frequency
        self._offset = np.array([each.offset for each in histories])[:, None]
        n_terms, n_channels = histories[0].series.profile.shape
        phase = np.concatenate([each.series.phase for each in histories]).reshape(-1, n_terms)
        profile = np.concatenate([each.series.profile for each in histories]).reshape(-1, n_terms, n_channels)
        self._frequencies, owner = np.unique(frequencies, return_inverse=True)
        weights = np.stack([np.sin(phase), np.cos(phase)])[..., None] * profile  # (2, N, J, C)
        of_frequency = [weights[:, :, owner == index].sum(axis=2) for index in range(len(self._frequencies))]
        self._waves = np.concatenate(of_frequency)  # (2F, N, C): of the cosine and the sine of every frequency

    def __call__(self, s: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Returns the values at times s (H,) of the histories `rows` (R,), as (H, R, C)."""
        if self._waves is None:
            return np.stack([self._histories[row](s) for row in np.arange(len(self._histories))[rows]], axis=1)
        angles = np.multiply.outer(s, self._frequencies)
        waves = self._waves[:, rows]
        basis = np.stack([np.cos(angles), np.sin(angles)], axis=-1).reshape(len(s), -1)
        exponent = (basis @ waves.reshape(len(waves), -1)).reshape(len(s), *waves.shape[1:])
        return self._offset[rows] * np.exp(exponent) if self._is_positive else self._offset[rows] + exponent


@dataclass(frozen=True)
class RandomHistory:
    """A law of histories: offset, and sines of frequency πk with amplitudes ~ amplitude · N(0, 1)/k, k = 1 … 3.

    The offset is uniform over `offset`, or N(0, 1) where that is None. Every channel has sines of its own, unless
    `wave_numbers` is set: then channels are points of a periodic axis, and the terms are waves in space and time.
    A rough history has more terms.
    """

    is_positive: bool
    offset: tuple[float, float] | None = None
    amplitude: float = 1.0
    channels: int = 1
    wave_numbers: int | None = None

    def draw(self, generator: np.random.Generator, *, is_rough: bool = False) -> History:
        """Returns a random history."""
        offset = generator.standard_normal() if self.offset is None else generator.uniform(*self.offset)
        return History(float(offset), self._series(generator, ROUGH_TERMS if is_rough else TERMS), self.is_positive)

    def disturb(self, history: History, level: float, generator: np.random.Generator) -> History:
        """Returns the history with smooth noise, whose RMS is `level` of the history's: a factor where positive."""
        noise, values = self._series(generator, NOISE_TERMS), history(_DENSE)
        change = noise(_DENSE) * values if history.is_positive else noise(_DENSE)
        size = level * np.sqrt(np.mean(values**2) / np.mean(change**2))
        return replace(history, noise=replace(noise, profile=size * noise.profile))

    def _series(self, generator: np.random.Generator, terms: int) -> Series:
        if self.wave_numbers is None:
            k = np.repeat(np.arange(1, terms + 1), self.channels)
            size = self.amplitude * generator.standard_normal(len(k)) / k
            profile = size[:, None] * np.tile(np.eye(self.channels), (terms, 1))
            return Series(np.pi * k, generator.uniform(0, 2 * np.pi, len(k)), profile)
        k, m = (grid.ravel() for grid in np.meshgrid(np.arange(terms), np.arange(self.wave_numbers + 1)))
        weight = 1 / ((1 + k) * (1 + m))
        size = 2 * self.amplitude * weight / np.linalg.norm(weight) * generator.standard_normal(len(k))
        turn = generator.uniform(0, 2 * np.pi, (2, len(k)))
        waves = np.cos(2 * np.pi * np.multiply.outer(m, np.arange(self.channels) / self.channels) + turn[1][:, None])
        return Series(np.pi * k, turn[0], size[:, None] * waves)
