"""What lies under the kernels: instruction sets, thread counts, memory, randomness, tolerances."""

import ctypes
import gc
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import convlayers as cl
from convlayers import functional as F
from convlayers import kernels
from convlayers.errors import ConfigError
from convlayers.kernels import _memory, memory
from convlayers.randomness import generator, layer_generator, training_step
from convlayers.tolerance import largest_error, tolerance


def in_a_fresh_process(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


def test_the_baseline_is_always_there_and_the_fastest_is_chosen():
    assert "baseline" in kernels.available()
    done = in_a_fresh_process("from convlayers import kernels; print(kernels.isa())", CONVLAYERS_ISA="")
    assert done.stdout.strip() == kernels.available()[0]


@pytest.mark.parametrize("isa", kernels.available())
def test_the_environment_forces_an_instruction_set(isa):
    done = in_a_fresh_process("import convlayers; convlayers.show_config()", CONVLAYERS_ISA=isa, CONVLAYERS_NUM_THREADS="3")
    assert f"instruction set: {isa} " in done.stdout, done.stderr
    assert "threads: 3" in done.stdout
    assert f"convlayers {cl.__version__}" in done.stdout


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CONVLAYERS_ISA", "sse9", "CONVLAYERS_ISA=sse9: not available on this machine; it has "),
        ("CONVLAYERS_NUM_THREADS", "0", "CONVLAYERS_NUM_THREADS=0: it must be a whole number of at least 1"),
        ("CONVLAYERS_NUM_THREADS", "two", "CONVLAYERS_NUM_THREADS=two"),
        ("CONVLAYERS_NUM_THREADS", "-1", "CONVLAYERS_NUM_THREADS=-1"),
        ("CONVLAYERS_NUM_THREADS", "9" * 30, "CONVLAYERS_NUM_THREADS=999"),
    ],
)
def test_an_environment_that_cannot_be(name, value, message):
    done = in_a_fresh_process("import convlayers; convlayers.show_config()", **{name: value})
    assert done.returncode == 1
    assert message in done.stderr
    command = "from convlayers.cli import main; import sys; sys.exit(main(['train', 'digits', '--epochs', '1']))"
    done = in_a_fresh_process(command, **{name: value})
    assert done.returncode == 2
    assert done.stderr.startswith("convlayers: " + message)
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_computes_with_one_thread_or_with_new_ones():
    """Threads do not survive a fork: a child that called its parent's would never come back."""
    code = """
import os, signal, numpy as np, convlayers as cl
from convlayers import functional as F
from convlayers.kernels import _threads
x, w = np.ones((8, 16, 32, 32), np.float32), np.ones((16, 16, 3, 3), np.float32)
cl.set_num_threads(2)
expected = F.conv2d(x, w)
child = os.fork()
if child == 0:
    signal.alarm(60)
    wrong = cl.get_num_threads() != 1 or not np.array_equal(F.conv2d(x, w), expected)
    if _threads.own:
        cl.set_num_threads(2)
        wrong |= _threads.workers() != 0 or not np.array_equal(F.conv2d(x, w), expected) or _threads.workers() != 1
    os._exit(int(wrong))
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_thread_counts():
    before = cl.get_num_threads()
    try:
        cl.set_num_threads(np.int64(3))
        assert cl.get_num_threads() == 3
        for wrong in (0, -1, 1.5, "2", None, True, np.array([2, 2]), 10**30):
            with pytest.raises(ConfigError, match="the number of threads must be"):
                cl.set_num_threads(wrong)
        assert cl.get_num_threads() == 3
    finally:
        cl.set_num_threads(before)


def test_using_puts_everything_back():
    before = kernels.isa(), kernels.get_num_threads()

    def fail():
        with kernels.using(isa="baseline", threads=7):
            assert (kernels.isa(), kernels.get_num_threads()) == ("baseline", 7)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (kernels.isa(), kernels.get_num_threads()) == before


def test_poison_is_what_nobody_wrote():
    with memory.poisoned():
        assert np.isnan(memory.empty((2, 3), np.dtype(np.float32))).all()
        assert (memory.empty((2,), np.dtype(np.uint8)) == memory.JUNK).all()
        assert (memory.empty((2,), np.dtype(np.intc)) == np.iinfo(np.intc).max).all()
        buffer = ctypes.string_at(scratch(100), 100)
        assert buffer == bytes([memory.JUNK]) * 100
        start, _ = scratch_of_threads(2, 100)
        assert ctypes.string_at(start, 200) == bytes([memory.JUNK]) * 200


def compiled_function(number, *types):
    """What kernels call: a function of ext/memory.pyx."""
    address = ctypes.pythonapi.PyCapsule_GetPointer
    address.restype, address.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    return ctypes.PYFUNCTYPE(ctypes.c_void_p, *types)(address(_memory.functions[number], None))


def scratch(nbytes, slot=0):
    return compiled_function(0, ctypes.c_ssize_t, ctypes.c_int)(nbytes, slot)


def scratch_of_threads(threads, nbytes):
    """The address, and the distance from one thread's to the next."""
    size = ctypes.c_ssize_t(nbytes)
    start = compiled_function(1, ctypes.c_int, ctypes.POINTER(ctypes.c_ssize_t))(threads, ctypes.byref(size))
    return start, size.value


def in_another_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def test_scratch_is_aligned_kept_and_a_threads_own():
    memory.forget_scratch()
    first = scratch(1000)
    assert first % 64 == 0
    assert scratch(500) == first
    # Others may lie behind, but not within.
    assert not -1000 < scratch(1000, 1) - first < 1000
    assert not -1000 < in_another_thread(lambda: scratch(1000)) - first < 1000


def test_a_kernels_threads_keep_their_places_while_memory_lasts():
    memory.forget_scratch()
    start, pitch = scratch_of_threads(3, 1000)
    assert start % 64 == 0
    assert pitch >= 1000
    assert pitch % 128 == 0
    # Less memory, and fewer threads: each works where it did.
    assert scratch_of_threads(2, 10) == (start, pitch)
    # More for fewer threads moves the second one, once and for all.
    _, wider = scratch_of_threads(1, 2000)
    assert wider >= 2000
    assert scratch_of_threads(3, 1000)[1] == wider
    assert in_another_thread(lambda: scratch_of_threads(3, 1000)[1]) == pitch


def test_poisoned_memory_of_threads_is_as_large_as_asked_for():
    scratch_of_threads(2, 5000)
    with memory.poisoned():
        assert scratch_of_threads(2, 1000)[1] == 1024
    assert scratch_of_threads(2, 1000)[1] == 1024


class Computing:
    """Garbage that computes when it is collected, with more scratch memory than the kernels it interrupts, and leaves more."""

    runs = 0

    def __init__(self, until):
        self.itself, self.until = self, until

    def __del__(self):
        if not self.until:
            Computing.runs += 1
            F.conv2d(np.ones((4, 16, 16, 16), np.float32), np.ones((32, 16, 3, 3), np.float32))
            Computing(self.until)


def test_kernels_keep_their_memory_when_garbage_computes():
    """A collection may run other kernels on the same thread wherever Python makes an object: never between a kernel's asking
    for scratch memory and its using it."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 4, 8, 8), np.float32), rng.standard_normal((4, 4, 3, 3), np.float32)

    def compute():
        y = [F.conv2d(x, w, algorithm=algorithm) for algorithm in ("direct", "winograd", "fft")]
        y += [F.conv2d(x, w[:, :1], groups=4), F.linear(x.reshape(2, -1), w.reshape(1, -1).repeat(7, 0)[:, :1].repeat(256, 1))]
        for algorithm in ("direct", "winograd"):
            y += F.conv2d_backward(y[0], x, w, algorithm=algorithm)
        return y

    expected, until, thresholds = compute(), [], gc.get_threshold()
    try:
        for often in range(1, 8):
            memory.forget_scratch()
            gc.set_threshold(often)
            Computing(until)
            for actual, wanted in zip(compute(), expected, strict=True):
                np.testing.assert_array_equal(actual, wanted)
    finally:
        gc.set_threshold(*thresholds)
        until.append("now")
        gc.collect()
    assert Computing.runs > 100


def test_a_freed_array_is_handed_out_again():
    memory.release()
    in_use, idle = memory.usage()
    assert idle == 0
    large = np.dtype(np.float32)
    first = memory.empty((1000, 1000), large)
    address = first.ctypes.data
    assert address % 64 == 0
    assert memory.usage()[0] >= in_use + first.nbytes
    view = first[3:, ::2]
    del first
    second = memory.empty((1000, 1000), large)
    assert not np.shares_memory(view, second), "a view still needs the memory"
    del view
    assert memory.usage()[1] >= 4_000_000
    third = memory.empty((990, 1000), large)
    assert third.ctypes.data == address, "a block that fits lies idle"
    del second, third
    assert memory.usage()[0] == in_use
    memory.release()
    assert memory.usage() == (in_use, 0)


def pass_time():
    """Ask for so many small blocks that what was in use before is no longer lately."""
    for _ in range(5_000):
        memory.empty((10_000,), np.dtype(np.float64))


def test_idle_memory_is_given_back_when_sizes_change():
    pass_time()  # other tests may have used more than this one bounds
    memory.release()
    in_use, _ = memory.usage()
    for size in range(1_000_000, 9_000_000, 1_000_000):
        memory.empty((size,), np.dtype(np.float64))
        assert memory.usage()[1] <= max(in_use, 1) + 2 * 8 * size
    memory.release()


def test_what_inference_needs_is_not_given_back():
    """From layer to layer little is in use at once, and what lies idle is needed by the next call."""

    def infer():
        x = memory.empty((1_000_000,), np.dtype(np.float32))
        addresses = {x.ctypes.data}
        for size in (1_000_000, 2_000_000, 500_000, 1_000_000, 300_000):
            x = memory.empty((size,), np.dtype(np.float32))
            addresses.add(x.ctypes.data)
        return addresses

    memory.release()
    blocks = infer()
    total = sum(memory.usage())
    for _ in range(3):
        assert infer() <= blocks
        assert sum(memory.usage()) == total
    memory.release()


def test_a_larger_idle_block_serves_before_one_is_given_back():
    """Layers of so many sizes that one block of each is more than may be kept take no new memory either."""
    sizes = [1_900_000, 250_000, 1_400_000, 330_000, 1_050_000, 450_000, 800_000, 600_000]

    def infer():
        x, addresses = memory.empty((sizes[-1],), np.dtype(np.float32)), set()
        for size in sizes:
            x = memory.empty((size,), np.dtype(np.float32))
            addresses.add(x.ctypes.data)
        return addresses

    memory.release()
    blocks = infer()
    for _ in range(3):
        blocks |= infer()
    total = sum(memory.usage())
    for _ in range(8):
        assert infer() <= blocks
        assert sum(memory.usage()) == total
    memory.release()


def test_memory_that_was_needed_long_ago_is_given_back():
    memory.release()
    in_use, _ = memory.usage()
    large = memory.empty((4_000_000,), np.dtype(np.float64))
    del large
    pass_time()
    assert memory.usage()[1] <= in_use + 4 * 80_000
    memory.release()


def test_arrays_of_every_size_are_whole_and_apart():
    rng = np.random.default_rng(0)
    kept = []
    for value, size in enumerate(rng.integers(0, 40_000, 60)):
        array = memory.empty((int(size),), np.dtype(np.float32))
        array.fill(value)
        kept.append((value, array))
        if value % 3 == 0:
            kept.pop(int(rng.integers(len(kept))))
    for value, array in kept:
        assert (array == value).all()


@pytest.mark.parametrize("threads", [2, 3])
def test_training_gives_the_same_bits_for_any_thread_count(threads):
    def trained():
        model = cl.models.lenet5(seed=3)
        x = generator(1, "images").standard_normal((32, 1, 28, 28)).astype(np.float32)
        for step in range(3):
            y, tape = model.forward(x, step=step)
            model.zero_gradients()
            model.backward(y / len(y), tape, input_gradient=False)
            for name, value in model.parameters().items():
                value -= 0.1 * model.gradients()[name]
        return model.state_dict()

    with kernels.using(threads=1):
        expected = trained()
    with kernels.using(threads=threads):
        actual = trained()
    for name, value in expected.items():
        assert actual[name].tobytes() == value.tobytes(), name


STEP_OF_MODELS = """
import hashlib, os
import numpy as np
import convlayers as cl
from convlayers.kernels import _threads
if os.environ.get("TEST_WORKERS"):
    _threads.at_most(int(os.environ["TEST_WORKERS"]))
seen = hashlib.sha256()
for name in ("lenet5", "mnist_cnn", "resnet20", "mobilenet_small"):
    model = getattr(cl.models, name)()
    y, tape = model.forward(np.random.default_rng(0).standard_normal((6, *model.input_shape), np.float32))
    for array in (y, model.backward(np.ones_like(y), tape), *model.gradients().values()):
        seen.update(np.ascontiguousarray(array))
print(seen.hexdigest())
"""


@pytest.mark.parametrize(("threads", "workers"), [("2", "0"), ("5", "1"), ("40", ""), ("70", "2")])
def test_no_unit_of_work_is_lost(threads, workers):
    """Where there are fewer threads than were asked for, and more than have shares of their own."""
    limits = {"TEST_WORKERS": workers}
    one, other = (
        in_a_fresh_process(STEP_OF_MODELS, CONVLAYERS_NUM_THREADS=n, **given) for n, given in (("1", {}), (threads, limits))
    )
    assert one.stdout, one.stderr
    assert one.stdout == other.stdout, other.stderr


def test_a_draw_depends_on_what_it_is_for():
    def draw(*what):
        return generator(*what).integers(0, 2**62)

    assert draw(1, "weights", 2) == draw(1, "weights", 2)
    others = [draw(2, "weights", 2), draw(1, "masks", 2), draw(1, "weights", 3), draw(1, "weights"), draw(1, "weights", 2, 0)]
    assert len({draw(1, "weights", 2), *others}) == 6
    # Philox is specified to the bit: the same numbers on every machine and in every release.
    assert generator(0, "test", 1).integers(0, 1000, 4).tolist() == [819, 475, 555, 504]


def test_layers_draw_by_seed_step_and_place():
    def draws(seed, step, node):
        with training_step(seed, step) as place:
            place.node = node
            return layer_generator("test").integers(0, 2**62)

    values = {draws(*where) for where in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))}
    assert len(values) == 4
    assert draws(0, 1, 0) in values


def test_steps_nest_and_threads_have_their_own():
    with training_step(1, 1):
        outer = layer_generator("test").random()
        with training_step(2, 2):
            assert layer_generator("test").random() != outer
        assert layer_generator("test").random() == outer
        found = []
        thread = threading.Thread(target=lambda: found.append(layer_generator("test").random()))
        thread.start()
        thread.join()
        assert found[0] != outer


def test_tolerances_grow_with_the_square_root_of_the_sum():
    assert tolerance("float32", 100) == 10 * tolerance("float32", 1)
    assert tolerance(np.float64) < 1e-14
    assert tolerance("float32", 0) == tolerance("float32", 1)


def test_errors_are_relative_to_the_largest_value():
    a = np.array([1.0, 100.0])
    assert largest_error(a + np.array([0, 1]), a) == pytest.approx(0.01)
    assert largest_error(a[:1] + 0.5, a[:1]) == 0.5
    assert largest_error(np.array([0.1]), np.array([0.0])) == 0.1
    assert largest_error(a, a[:1]) == np.inf
    assert largest_error(a[:0], a[:0]) == 0
    for odd in (np.nan, np.inf, -np.inf):
        assert largest_error(np.array([odd, 1]), np.array([odd, 1])) == 0
        assert largest_error(np.array([odd, 1]), np.array([0.0, 1])) == np.inf
        assert largest_error(np.array([0.0, 1]), np.array([odd, 1])) == np.inf
    assert largest_error(np.array([np.inf]), np.array([-np.inf])) == np.inf
