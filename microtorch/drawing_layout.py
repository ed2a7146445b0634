"""The places of a drawn graph: layers from left to right, edges bent around what is between.

Sugiyama's method: a layer for each vertex, bends where an edge passes a layer, orders that
put neighbours side by side, then heights near those of the neighbours.
"""

import itertools

GAP_X, GAP_Y, MARGIN = 0.45, 0.16, 0.15
BEND = 0.08

Point = tuple[float, float]


class Layout:
    """Places of vertices with given sizes, numbered so that edges lead from lower to higher."""

    def __init__(self, sizes: list[Point], edges: list[tuple[int, int]]) -> None:
        """Compute `size` of the picture, `places` of the centres, and `routes` of the edges."""
        self._sizes = list(sizes)
        count = len(sizes)
        self._layers: list[list[int]] = []
        self._before: list[list[int]] = []
        self._after: list[list[int]] = []
        chains = self._with_bends(_depths(count, edges), edges)
        self._order()
        heights = self._heights()
        widths = [max(self._sizes[v][0] for v in layer) for layer in self._layers]
        centres, left = [], MARGIN
        for width in widths:
            centres.append(left + width / 2)
            left += width + GAP_X
        depth = {v: d for d, layer in enumerate(self._layers) for v in layer}
        top = max(heights[v] + s[1] / 2 for v, s in enumerate(self._sizes)) + MARGIN
        low = min(heights[v] - s[1] / 2 for v, s in enumerate(self._sizes)) - MARGIN
        self.size = (left - GAP_X + MARGIN, top - low)
        places = [(centres[depth[v]], heights[v] - low) for v in range(len(self._sizes))]
        self.places = places[:count]
        self.routes = [
            self._route(chain, places, [widths[depth[v]] for v in chain]) for chain in chains
        ]

    def _with_bends(self, depths: list[int], edges: list[tuple[int, int]]) -> list[list[int]]:
        """Fill layers and neighbours; the vertices that each edge passes, bends included."""
        depths = list(depths)
        chains = []
        for a, b in dict.fromkeys(edges):
            chain = [a]
            for d in range(depths[a] + 1, depths[b]):
                chain.append(len(depths))
                depths.append(d)
                self._sizes.append((0.0, BEND))
            chains.append([*chain, b])
        self._layers = [[] for _ in range(max(depths) + 1)]
        for v, d in enumerate(depths):
            self._layers[d].append(v)
        self._before, self._after = [[] for _ in depths], [[] for _ in depths]
        for chain in chains:
            for a, b in itertools.pairwise(chain):
                self._after[a].append(b)
                self._before[b].append(a)
        return chains

    def _order(self) -> None:
        """Sort each layer by the mean place of the neighbours, to and fro."""
        place = {v: k for layer in self._layers for k, v in enumerate(layer)}
        for turn in range(12):
            neighbours = self._after if turn % 2 == 0 else self._before
            for layer in self._layers[::-1] if turn % 2 == 0 else self._layers:
                mean = {
                    v: sum(place[n] for n in neighbours[v]) / len(neighbours[v])
                    if neighbours[v]
                    else place[v]
                    for v in layer
                }
                layer.sort(key=mean.__getitem__)
                place.update({v: k for k, v in enumerate(layer)})

    def _heights(self) -> list[float]:
        """The height of each vertex: near its neighbours, without touching in a layer."""
        heights = [0.0] * len(self._sizes)
        for layer in self._layers:
            self._spread(layer, heights)
        for turn in range(16):
            for layer in self._layers[::-1] if turn % 2 == 0 else self._layers:
                for v in layer:
                    near = self._before[v] + self._after[v]
                    if near:
                        heights[v] = sum(heights[n] for n in near) / len(near)
                self._spread(layer, heights)
        return heights

    def _spread(self, layer: list[int], heights: list[float]) -> None:
        """Move the vertices of a layer apart, as little as a common shift allows."""
        wanted = [heights[v] for v in layer]
        top = float("-inf")
        for v in layer:
            half = self._sizes[v][1] / 2
            heights[v] = max(heights[v], top + half)
            top = heights[v] + half + GAP_Y
        shift = sum(heights[v] - w for v, w in zip(layer, wanted, strict=True)) / len(layer)
        for v in layer:
            heights[v] -= shift

    def _route(self, chain: list[int], places: list[Point], widths: list[float]) -> list[Point]:
        """A curve from the right of the first to the left of the last, flat across each layer."""
        start, end = chain[0], chain[-1]
        points = [(places[start][0] + self._sizes[start][0] / 2, places[start][1])]
        for v, width in zip(chain[1:-1], widths[1:-1], strict=True):
            x, y = places[v]
            _curve_to(points, (x - width / 2, y))
            _curve_to(points, (x + width / 2, y))
        _curve_to(points, (places[end][0] - self._sizes[end][0] / 2, places[end][1]))
        return points


def _depths(count: int, edges: list[tuple[int, int]]) -> list[int]:
    """The layer of each vertex: the longest way to it; sources stand right before their use."""
    depths = [0] * count
    has_parents = [False] * count
    first_use: list[int | None] = [None] * count
    for a, b in sorted(edges, key=lambda edge: edge[1]):
        depths[b] = max(depths[b], depths[a] + 1)
        has_parents[b] = True
    for a, b in edges:
        use = first_use[a]
        first_use[a] = depths[b] if use is None else min(use, depths[b])
    return [
        d if has_parents[v] or use is None else use - 1
        for v, (d, use) in enumerate(zip(depths, first_use, strict=True))
    ]


def _curve_to(points: list[Point], end: Point) -> None:
    """Append a curve that leaves and arrives horizontally."""
    (x, y), (to_x, to_y) = points[-1], end
    middle = (x + to_x) / 2
    points += [(middle, y), (middle, to_y), end]
