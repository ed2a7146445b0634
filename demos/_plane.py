"""Two classes of points in the plane, what a model says everywhere behind them, and its loss."""

from typing import Any

import numpy as np
from _live import BLUE, INK, ORANGE
from matplotlib.figure import Figure

Limits = tuple[float, float]
# Ten bands from pale orange through white to pale blue.
BANDS = "#F6BF97 #F8CDAE #FADBC5 #FCE9DC #FEF7F2 #F2F8FC #DDECF6 #C8E0F0 #B2D4EA #9DC8E4".split()


class Plane:
    """Points, shaded field and boundary above; the loss below.

    `classes` names the two classes and gives their points (N, 2). The field goes from `low` to
    `high` in ten bands and the boundary is half way. `cells` are the points (M, 2) to evaluate.
    """

    def __init__(
        self, figure: Figure, classes: dict[str, Any], x: Limits, y: Limits, low: float, high: float
    ) -> None:
        self.figure = figure
        self.top, self.bottom = figure.subplots(2, 1, height_ratios=(3.4, 1))
        style = {"edgecolors": "white", "linewidths": 0.7, "s": 45, "zorder": 3}
        (name0, points0), (name1, points1) = classes.items()
        self.top.scatter(*points0.T, c=ORANGE, marker="o", label=name0, **style)
        self.top.scatter(*points1.T, c=BLUE, marker="^", label=name1, **style)
        self.top.plot([], [], color=INK, lw=2, label="boundary")
        self.top.set(xlim=x, ylim=y, xlabel="$x_0$", ylabel="$x_1$")
        self.top.legend(loc="lower left")
        self.top.grid(False)
        self.grid = np.meshgrid(np.linspace(*x, 161), np.linspace(*y, 141))
        self.cells = np.stack([axis.ravel() for axis in self.grid], 1).astype(np.float32)
        self.levels = np.linspace(low, high, 11)
        self.shades: list[Any] = []
        (self.loss,) = self.bottom.plot([], [], color=INK, lw=2)

    def update(self, field: Any, losses: list[float], label: str, title: str) -> None:
        """Show the field, an array (M,) or (M, 1), and the loss of every step so far."""
        first = not self.shades
        for shade in self.shades:
            shade.remove()
        field = np.clip(field.reshape(self.grid[0].shape), self.levels[0], self.levels[-1])
        shaded = self.top.contourf(*self.grid, field, levels=self.levels, colors=BANDS)
        line = self.top.contour(*self.grid, field, [self.levels[5]], colors=INK, linewidths=2)
        self.shades = [shaded, line]
        if first:
            scale = self.figure.colorbar(shaded, pad=0.01, aspect=30, label=label)
            scale.outline.set_visible(False)
        self.loss.set_data(range(len(losses)), losses)
        self.bottom.set(xlabel="iteration", ylabel="loss", ylim=(0, 1.1 * max(losses)))
        self.top.set_title(title)
