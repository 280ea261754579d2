"""A small neural network and its gradient, written out: one hidden layer, softmax on top."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demo.digits import CLASSES, PIXELS, Images, Labels

#: Slope of the hidden units below zero. Without it too large a learning rate only kills the
#: units (the loss stays finite); with it the weights grow until they overflow, as they do in
#: deep networks.
_LEAK = np.float32(0.1)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step of training saw before it changed the weights."""

    loss: float
    accuracy: float
    grad_norm: float


class Network:
    """64 pixels -> hidden units (leaky ReLU) -> 10 digits, in single precision.

    Overflow is part of training: a network that diverges holds infinities and NaN, and says
    so in its results, without warnings.
    """

    def __init__(self, rng: np.random.Generator, *, hidden: int = 32) -> None:
        self._w1 = _he(rng, PIXELS, hidden)
        self._b1 = np.zeros(hidden, np.float32)
        self._w2 = _he(rng, hidden, CLASSES)
        self._b2 = np.zeros(CLASSES, np.float32)

    def train(self, images: Images, labels: Labels, learning_rate: float) -> StepResult:
        """One step of stochastic gradient descent on the mean cross entropy of a minibatch."""
        with np.errstate(all="ignore"):
            sums, hidden, logits = self._forward(images)
            shifted = logits - logits.max(axis=1, keepdims=True)  # exp can't overflow below
            exps = np.exp(shifted)
            totals = exps.sum(axis=1, keepdims=True)
            rows = np.arange(len(labels))
            loss = (np.log(totals[:, 0]) - shifted[rows, labels]).mean()
            accuracy = (logits.argmax(axis=1) == labels).mean()

            d_logits = exps / totals
            d_logits[rows, labels] -= 1
            d_logits /= np.float32(len(labels))
            d_sums = d_logits @ self._w2.T * np.where(sums > 0, np.float32(1), _LEAK)
            gradients = (
                images.T @ d_sums,
                d_sums.sum(axis=0),
                hidden.T @ d_logits,
                d_logits.sum(axis=0),
            )
            norm = np.sqrt(sum(np.square(gradient).sum() for gradient in gradients))
            rate = np.float32(learning_rate)
            weights = (self._w1, self._b1, self._w2, self._b2)
            for weight, gradient in zip(weights, gradients, strict=True):
                np.subtract(weight, rate * gradient, out=weight)
        return StepResult(float(loss), float(accuracy), float(norm))

    def accuracy(self, images: Images, labels: Labels) -> float:
        """The share of images whose digit the network names."""
        with np.errstate(all="ignore"):
            _sums, _hidden, logits = self._forward(images)
        return float((logits.argmax(axis=1) == labels).mean())

    def _forward(self, images: Images) -> tuple[Images, Images, Images]:
        sums = images @ self._w1 + self._b1
        hidden = np.where(sums > 0, sums, _LEAK * sums)
        return sums, hidden, hidden @ self._w2 + self._b2


def _he(rng: np.random.Generator, inputs: int, outputs: int) -> Images:
    """Random weights that keep the size of signals (He et al. 2015, equation 10)."""
    return rng.normal(0, np.sqrt(2 / inputs), (inputs, outputs)).astype(np.float32)
