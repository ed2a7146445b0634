"""Two moons told apart by a perceptron made of scalar `Value` nodes, as in micrograd.

The net is 2-16-16-1 with ReLU; the loss is the hinge loss plus a small penalty on the weights.
Every number is a node, so a step makes a graph of some 70,000 of them.
"""

import random
from collections.abc import Sequence

import numpy as np
from _live import Live, compiled, options
from _plane import Plane

from microtorch import Value

N = 100  # points


class Layer:
    """Neurons with weights of their own; ReLU except in the last layer."""

    def __init__(self, n_in, n_out, relu):
        self.rows = [[Value(random.uniform(-1, 1)) for _ in range(n_in)] for _ in range(n_out)]
        self.biases = [Value(0.0) for _ in range(n_out)]
        self.relu = relu

    def __call__(self, x):
        """The outputs for one point, a list of n_in numbers or nodes."""
        z = [sum((w * v for w, v in zip(row, x, strict=True)), b)
             for row, b in zip(self.rows, self.biases, strict=True)]  # fmt: skip
        return [v.relu() for v in z] if self.relu else z

    def parameters(self):
        """All weights, then all biases."""
        return [w for row in self.rows for w in row] + self.biases

    def on_array(self, x):
        """The same layer on an array (N, n_in), without a graph."""
        z = x @ np.array([[w.data for w in row] for row in self.rows]).T
        z += [b.data for b in self.biases]
        return np.maximum(z, 0) if self.relu else z


def moons(rng):
    """Points (N, 2) on two interleaved half circles, and their labels -1 and 1."""
    angle = np.linspace(0, np.pi, N // 2)
    upper = np.stack([np.cos(angle), np.sin(angle)], 1)
    points = np.concatenate([upper, (1, 0.5) - upper]) + rng.normal(0, 0.1, (N, 2))
    return points, np.repeat([-1, 1], N // 2)


def main(argv: Sequence[str] | None = None) -> float:
    """Run the demo; the accuracy of the last step."""
    args = options(__doc__, argv, steps=100, seed=1337)
    random.seed(args.seed)
    x, y = moons(np.random.default_rng(args.seed))
    layers = [Layer(2, 16, True), Layer(16, 16, True), Layer(16, 1, False)]
    parameters = [p for layer in layers for p in layer.parameters()]
    losses, rows, labels, rate = [], x.tolist(), y.tolist(), Value(0.0)

    def step():
        scores = rows
        for layer in layers:
            scores = [layer(row) for row in scores]
        hinge = sum((1 - t * s).relu() for (s,), t in zip(scores, labels, strict=True))
        loss = hinge / N + 1e-4 * sum(p * p for p in parameters)
        for p in parameters:
            p.grad = 0.0
        loss.backward()
        for p in parameters:
            p.data -= rate.data * p.grad
        return loss, scores

    step = compiled(args, step)
    with Live(args, "micrograd_moons") as live:
        classes = {"class -1": x[y < 0], "class +1": x[y > 0]}
        plane = Plane(live.figure, classes, x=(-1.8, 2.8), y=(-1.4, 1.9), low=-2, high=2)
        plane.bottom.set_xlim(0, args.steps)
        for iteration in live.steps():
            rate.data = 1.0 - 0.9 * iteration / args.steps
            loss, scores = step()
            losses.append(loss.data)
            accuracy = np.mean([(s.data > 0) == (t > 0) for (s,), t in zip(scores, y, strict=True)])
            if iteration % 5 == 0 or iteration == args.steps - 1:
                field = plane.cells
                for layer in layers:
                    field = layer.on_array(field)
                title = f"Iteration {iteration}:  loss {loss.data:.3f},  accuracy {accuracy:.0%}"
                plane.update(field, losses, "score", title)
                live.draw()
    print(f"Iteration {iteration}: loss {losses[-1]:.4f}, accuracy {accuracy:.1%}")
    return float(accuracy)


if __name__ == "__main__":
    main()
