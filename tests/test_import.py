"""What importing the package costs: NumPy and small modules, nothing heavy.

Each case is a process of its own, since this one has imported everything already.
"""

import pytest
from process import run

from microtorch.kernels import link

COMPILERS = ("numba", "llvmlite")
HEAVY = (*COMPILERS, "matplotlib", "scipy", "torch", "PIL", "pandas", "tqdm")
# Standard library that only saving, printing or drawing needs.
ON_DEMAND = ("zipfile", "sqlite3", "asyncio", "xml", "http", "unittest", "multiprocessing")

# Modules that the site's own start-up files bring along are not ours.
LOADED = "import sys; before = set(sys.modules)\n{code}\nprint(*sorted(set(sys.modules) - before))"
WITHOUT_NUMPY = (
    "import sys, numpy; before = set(sys.modules)\n{code}\n"
    "print(*sorted(set(sys.modules) - before))"
)

# The logistic regression of the documents: two clouds of points, BCE, SGD with momentum.
LOGISTIC = """
import sys
import microtorch as torch
import microtorch.nn as nn
torch.manual_seed(10)
n_data = torch.ones(100, 2)
x0 = torch.normal(1.7 * n_data, 1) + 1
x1 = torch.normal(-1.7 * n_data, 1) + 1
train_x = torch.cat((x0, x1), 0)
train_y = torch.cat((torch.zeros(100), torch.ones(100)), 0)
class LR(nn.Module):
    def __init__(self):
        super(LR, self).__init__()
        self.features = nn.Linear(2, 1)
        self.sigmoid = nn.Sigmoid()
    def forward(self, x):
        return self.sigmoid(self.features(x))
net = LR()
loss_fn = nn.BCELoss()
optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
for iteration in range(100):
    y_pred = net(train_x)
    loss = loss_fn(y_pred.squeeze(), train_y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
mask = y_pred.ge(0.5).float().squeeze()
accuracy = (mask == train_y).sum().item() / train_y.size(0)
assert accuracy > 0.9, accuracy
info = torch.cache_info()
print(repr(loss.item()), info["compiled"], info["loaded"], "numba" in sys.modules,
      "matplotlib" in sys.modules, "llvmlite" in sys.modules)
"""


@pytest.fixture
def loaded(tmp_path):
    """The modules that a piece of code loads, by their full names."""

    def find(code, frame=LOADED):
        return set(run(frame.format(code=code), tmp_path, "-W", "error")[0].split())

    return find


def test_import_loads_nothing_heavy(loaded):
    found = loaded("import microtorch")
    assert "microtorch.tensor" in found
    assert not found & set(HEAVY)


def test_import_beside_numpy_loads_no_module_that_is_used_on_demand(loaded):
    found = loaded("import microtorch", WITHOUT_NUMPY)
    assert not found & {*HEAVY, *ON_DEMAND}


@pytest.mark.parametrize("module", ["nn", "optim", "autograd", "nn.functional"])
def test_submodules_load_nothing_heavy(loaded, module):
    assert not loaded(f"import microtorch.{module}") & set(HEAVY)


def test_tensors_that_compute_nothing_load_no_compiler(loaded):
    found = loaded(
        "import microtorch as torch\n"
        "x = torch.tensor([1.0, 2.0], requires_grad=True)\n"
        "layer = torch.zeros(3).reshape(3, 1).requires_grad_()\n"
        "layer.shape, x.grad, torch.get_num_threads(), torch.cache_info()"
    )
    assert not found & set(COMPILERS)


def test_import_writes_nothing_to_the_cache(tmp_path):
    run("import microtorch", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_warm_training_never_imports_numba(tmp_path):
    cold = run(LOGISTIC, tmp_path, "-W", "error")[0].split()
    warm = run(LOGISTIC, tmp_path, "-W", "error")[0].split()
    assert int(cold[1]) > 0
    assert cold[3] == "True"
    assert warm == [cold[0], "0", cold[1], "False", "False", str(not link.available())]


def test_names_loaded_on_demand_are_found(tmp_path):
    code = (
        "import sys, microtorch as torch\n"
        "names = list(torch._LAZY)\n"
        "assert all(getattr(torch, name) is not None for name in names)\n"
        "from microtorch import " + "save, load\n"
        "assert torch.save is save\n"
    )
    run(code, tmp_path, "-W", "error")


def test_unknown_name_says_what_might_be_meant(tmp_path):
    code = (
        "import microtorch\n"
        "try:\n    microtorch.tensr\n"
        "except AttributeError as error:\n    print(error)\n"
    )
    out, _ = run(code, tmp_path)
    assert "module 'microtorch'' object" not in out
    assert "has no attribute 'tensr'" in out
    assert "'tensor'" in out
