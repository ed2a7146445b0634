"""What the demos share: options, colours, and a figure that is a live window or a file.

With `--save` a demo needs no display and writes its last frame (.png) or all (.gif through Pillow,
.mp4 through ffmpeg). With neither a display nor `--save` it says so and saves a png.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.backends.registry import BackendFilter, backend_registry
from PIL import Image

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None

# The demos also run from a checkout in which microtorch is not installed.
sys.path.append(str(Path(__file__).resolve().parents[1]))
# Okabe and Ito's palette: told apart with every common colour blindness.
BLUE, ORANGE, INK, GREY = "#0072B2", "#D55E00", "#22303C", "#8A97A3"
plt.rc("font", size=11)
plt.rc("axes", edgecolor=GREY, labelcolor=INK, titlesize=12, grid=True)
plt.rc("axes.spines", top=False, right=False)
plt.rc(("text", "xtick", "ytick"), color=INK)
plt.rc("grid", color="#E6EAED")
FRAME, LAST_FRAME = 150, 2500  # milliseconds
FFMPEG = "ffmpeg -y -v error -f rawvideo -pix_fmt rgb24 -s 800x600 -r {} -i - -pix_fmt yuv420p"


def options(doc: str, argv: Sequence[str] | None, steps: int, seed: int) -> argparse.Namespace:
    """The options of a demo, from the command line or from `argv`."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--save", type=Path, metavar="FILE", help="a .png, .gif or .mp4 to write")
    for name, default in (("--steps", steps), ("--seed", seed)):
        parser.add_argument(name, type=int, default=default, help="(default %(default)s)")
    parser.add_argument("--compile", action="store_true", help="run each step as one program")
    parsed = parser.parse_args(argv)
    kind = parsed.save.suffix if parsed.save else ".png"
    if kind not in (".png", ".gif", ".mp4") or parsed.steps < 1:
        parser.error("--save takes a .png, .gif or .mp4 file, --steps a number from 1")
    if kind == ".mp4" and not shutil.which("ffmpeg"):
        parser.error("an .mp4 needs the program ffmpeg, which is not on the PATH; a .gif does not")
    return parsed


def compiled(args: argparse.Namespace, step: Callable[[], Any]) -> Callable[[], Any]:
    """The step, compiled where `--compile` asks for that."""
    from microtorch import compile

    return compile(step) if args.compile else step  # type: ignore[no-any-return]


class Live:
    """An 800 x 600 figure to draw on frame by frame; leaving the block saves or shows it."""

    def __init__(self, args: argparse.Namespace, name: str) -> None:
        self.save, self.count, self.name = args.save, args.steps, name
        self.frames: list[Image.Image] = []
        if self.save:
            plt.switch_backend("Agg")
        elif plt.get_backend() in backend_registry.list_builtin(BackendFilter.NON_INTERACTIVE):
            self.save = Path(f"{name}.png")
            print(f"There is no display, so the last frame goes to {self.save}.")
        self.figure = plt.figure(figsize=(8, 6), dpi=100, layout="constrained")

    def steps(self) -> Iterator[int]:
        """0, 1, 2... with a progress bar where tqdm is installed, until the window is closed."""
        steps = range(self.count)
        for step in tqdm(steps, self.name, leave=False, disable=None) if tqdm else steps:
            yield step
            if not plt.fignum_exists(self.figure.number):
                return

    def draw(self) -> None:
        """Show the figure as it is now, or keep it as the next frame."""
        if self.save is None:
            plt.pause(0.02)
        elif self.save.suffix != ".png":
            self.figure.canvas.draw()
            frame = Image.frombuffer("RGBA", (800, 600), self.figure.canvas.buffer_rgba())
            self.frames.append(frame.convert("RGB"))

    def __enter__(self) -> "Live":
        return self

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
            times = [FRAME] * len(rest) + [LAST_FRAME]
            first.save(path, save_all=True, append_images=rest, duration=times, loop=0)
        else:
            held = [self.frames[-1]] * (LAST_FRAME // FRAME)
            data = b"".join(frame.tobytes() for frame in self.frames + held)
            subprocess.run(
                [*FFMPEG.format(1000 / FRAME).split(), str(path)], input=data, check=True
            )
