"""A GPU that is lost, for the rest of the process; test_cuda_driver.py runs this."""

import gc

import pytest

import microtorch as torch

LOST = r"^CUDA error: .* \(CUDA_ERROR_ILLEGAL_ADDRESS\). All tensors on the GPU are lost"


def test_a_gpu_that_is_lost_is_said_to_be_and_the_cpu_goes_on(gpu):
    x, there = torch.arange(3.0), torch.arange(4.0).cuda()
    pinned, stream, event = torch.rand(3).pin_memory(), torch.cuda.Stream(), torch.cuda.Event()
    event.record()
    run = torch.compile(lambda x: x * 2)
    run(there), run(there)
    torch.cuda.synchronize()
    gpu.launches_left = 0
    y = there + 1
    for use in (y.cpu, torch.cuda.synchronize, event.query, stream.synchronize):
        with pytest.raises(RuntimeError, match=LOST):
            use()
    with pytest.raises(RuntimeError, match=LOST):
        torch.ones(3, device="cuda")
    with pytest.raises(RuntimeError, match=LOST):
        run(there)
    # Nobody speaks when what was there goes.
    del there, y, pinned, stream, event, run, use
    gc.collect()
    assert (x * 2).sum().item() == 6
