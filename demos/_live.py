"""What the demos share: options, colours, and a figure that is a live window or a file.

With `--save` a demo needs no display and writes its last frame (.png) or all of them (.gif through
Pillow, .mp4 through ffmpeg). With neither a display nor `--save` it says so and saves a png.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.registry import BackendFilter, backend_registry
from PIL import Image

# The demos also run from a checkout in which microtorch is not installed.
sys.path.append(str(Path(__file__).resolve().parents[1]))
# Okabe and Ito's palette: told apart with every common colour blindness.
BLUE, ORANGE, INK, GREY = "#0072B2", "#D55E00", "#22303C", "#8A97A3"
# Ten bands from pale orange through white to pale blue.
BANDS = "#F6BF97 #F8CDAE #FADBC5 #FCE9DC #FEF7F2 #F2F8FC #DDECF6 #C8E0F0 #B2D4EA #9DC8E4".split()
STYLE = {
    "font.size": 11, "axes.titlesize": 12, "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": GREY, "axes.grid": True, "grid.color": "#E6EAED", "axes.axisbelow": True,
    "xtick.color": INK, "ytick.color": INK, "legend.edgecolor": "#D5DBE0",
    "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip
LAST_FRAME = 2500  # milliseconds


def options(doc: str, argv: Sequence[str] | None, steps: int, seed: int) -> argparse.Namespace:
    """The options of a demo, from the command line or from `argv`."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--save", type=Path, metavar="FILE", help="a .png, .gif or .mp4 to write")
    parser.add_argument("--steps", type=int, default=steps, help="at most (default %(default)s)")
    parser.add_argument("--seed", type=int, default=seed, help="default %(default)s")
    parsed = parser.parse_args(argv)
    kind = parsed.save.suffix if parsed.save else ".png"
    if kind not in (".png", ".gif", ".mp4") or parsed.steps < 1:
        parser.error("--save takes a .png, .gif or .mp4 file, and --steps a number from 1")
    if kind == ".mp4" and not shutil.which("ffmpeg"):
        parser.error("an .mp4 needs the program ffmpeg, which is not on the PATH; a .gif does not")
    return parsed


class Live:
    """An 800 x 600 figure to draw on frame by frame; leaving the block saves or shows it."""

    def __init__(self, args: argparse.Namespace, name: str, frame: int = 150) -> None:
        self.save: Path | None = args.save
        self.count, self.name, self.frame = args.steps, name, frame
        if self.save:
            plt.switch_backend("Agg")
        elif plt.get_backend() in backend_registry.list_builtin(BackendFilter.NON_INTERACTIVE):
            self.save = Path(f"{name}.png")
            print(f"There is no display, so the last frame goes to {self.save}.")
        plt.rcParams.update(STYLE)
        self.figure = plt.figure(figsize=(8, 6), dpi=100, layout="constrained")
        self.frames: list[Image.Image] = []

    def __enter__(self) -> "Live":
        return self

    def steps(self) -> Iterator[int]:
        """0, 1, 2... with a progress bar where tqdm is installed, until the window is closed."""
        bar: Any = range(self.count)
        try:
            from tqdm import tqdm

            bar = tqdm(bar, desc=self.name, leave=False, disable=None)
        except ImportError:
            pass
        for step in bar:
            yield step
            if not plt.fignum_exists(self.figure.number):
                return

    def draw(self) -> None:
        """Show the figure as it is now, or keep it as the next frame."""
        if self.save is None:
            plt.pause(0.02)
        elif self.save.suffix != ".png":
            self.figure.canvas.draw()
            pixels = np.asarray(self.figure.canvas.buffer_rgba())
            self.frames.append(Image.fromarray(pixels).convert("RGB"))

    def __exit__(self, failure: object, *_: object) -> None:
        if failure is None:
            plt.show() if self.save is None else self._write(self.save)
        plt.close(self.figure)

    def _write(self, path: Path) -> None:
        if path.suffix == ".png":
            self.figure.savefig(path)
        elif path.suffix == ".gif":
            # One palette without dithering: a file a tenth as large, and no flicker.
            last = self.frames[-1].quantize(128, dither=Image.Dither.NONE)
            first, *rest = [f.quantize(palette=last, dither=Image.Dither.NONE) for f in self.frames]
            times = [self.frame] * len(rest) + [LAST_FRAME]
            first.save(path, save_all=True, append_images=rest, duration=times, loop=0)
        else:
            frames = self.frames + self.frames[-1:] * (LAST_FRAME // self.frame)
            raw = f"-f rawvideo -pix_fmt rgb24 -s 800x600 -r {1000 / self.frame} -i -".split()
            command = ["ffmpeg", "-y", "-loglevel", "error", *raw, "-pix_fmt", "yuv420p", str(path)]
            subprocess.run(command, input=b"".join(f.tobytes() for f in frames), check=True)
