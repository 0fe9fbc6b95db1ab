"""Whatever happens to a run, the result is right or the error clear, and nothing stored is lost.

What a single file's damage does is in test_checkpoints.py, broken data in tests/data, wrong values in
test_config.py. Here processes are killed, stopped and starved. Run as a script, this
file is the training that they are killed in.
"""

import http.server
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import torchvision
from cifar_files import make_cifar, md5
from PIL import Image

from simlab.config import PretrainConfig, SupervisedConfig
from simlab.data import Images, from_arrays, load_data
from simlab.data.folders import load_folder
from simlab.evaluate import encode, knn, linear_probe
from simlab.runs import Run
from simlab.train import pretrain, train_supervised, untrained

ROOT = Path(__file__).parents[2]
FOLDERS = [str(ROOT), str(ROOT / "tests" / "train"), str(ROOT / "tests")]
# for processes that run this file, or import from it: simlab, the file, and what it imports
PYTHON = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(FOLDERS)}
SMALL = {
    "encoder": "tiny", "view_size": 8, "epochs": 1, "batch_size": 16,
    "method": "simsiam proj_dim=16 pred_dim=8", "knn_k": 5, "precision": "float32", "device": "cpu", "threads": 1,
}  # fmt: skip


def data(number=64, classes=4, images=None):
    generator = torch.Generator().manual_seed(0)
    if images is None:
        images = torch.randint(0, 256, (number, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(number) % classes
    return from_arrays(images, labels, images[:20], labels[:20])


def worker(folder, epochs):
    def on_epoch(_):
        time.sleep(0.1)

    config = PretrainConfig(**SMALL | {"epochs": int(epochs)})
    pretrain(config, data(), folder=folder, progress=False, on_epoch=on_epoch)


# ------------------------------------------------------------------------------------------- kill -9


def lines_of(folder):
    return sum(path.read_text().count("epoch ") for path in Path(folder).glob("*/train.log"))


def command_of(folder, epochs, processes, restarts):
    torchrun = [] if processes == 1 else [
        "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}",
        f"--max-restarts={restarts}",
    ]  # fmt: skip
    return [sys.executable, *torchrun, __file__, str(folder), str(epochs)]


def start(folder, epochs, processes=1, restarts=0):
    return subprocess.Popen(
        command_of(folder, epochs, processes, restarts), text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=PYTHON,
    )  # fmt: skip


def kill_and_go_on(folder, kills, processes, seed):
    """Kill `kills` times at random moments, one of several processes or all, then let it finish."""
    draw, epochs = random.Random(seed), 8 * kills
    training = start(folder, epochs, processes, kills)
    for number in range(kills):
        seen, until = lines_of(folder), time.monotonic() + 120
        early = number % 4 == 3  # while it loads, or takes up what is stored
        while not early and lines_of(folder) == seen and time.monotonic() < until:
            assert training.poll() is None, "it ended before it was killed"
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 3 if early else 0.6))
        workers = [p for p in psutil.Process(training.pid).children() if "python" in p.name()]
        if processes > 1 and workers and number % 3 < 2:  # torchrun starts all of them again
            draw.choice(workers).send_signal(signal.SIGKILL)
            time.sleep(0.2)  # until torchrun has seen it
        else:  # nobody is left, as when the machine goes down
            for process in (training, *workers):
                process.kill()
            training.wait()
            training = start(folder, epochs, processes, kills)
    assert training.wait(timeout=300) == 0


def trained_here(folder, epochs):
    """What `start` trains in a process of its own."""
    pretrain(PretrainConfig(**SMALL | {"epochs": epochs}), data(), folder=folder, progress=False)


def assert_same_bits(killed, never, epochs):
    assert (killed / "encoder.pt").read_bytes() == (never / "encoder.pt").read_bytes()
    rows = [Run(folder, {}).history.drop(columns="seconds") for folder in (killed, never)]
    assert rows[0].equals(rows[1]) and list(rows[0]["epoch"]) == list(range(1, epochs + 1))
    assert "resumes after epoch" in (killed / "train.log").read_text()
    rows = [line.split(",") for line in (killed / "knn.csv").read_text().splitlines()]
    assert rows[0] == ["now", "name", "epoch", "knn_acc"]
    epochs = [int(row[2]) for row in rows[1:]]
    assert epochs == sorted(set(epochs)), "an epoch measured twice is listed once"


@pytest.mark.long
def test_killed_once_at_a_random_moment_a_run_ends_in_the_same_bits(tmp_path):
    """In small what the next test does; two processes are killed in test_distributed.py."""
    seed = random.randrange(2**32)
    print(f"the moment from seed {seed}")
    training, until = start(tmp_path / "killed", 8), time.monotonic() + 120
    while not lines_of(tmp_path / "killed"):
        assert training.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    time.sleep(random.Random(seed).uniform(0, 0.5))
    training.kill()
    assert training.wait() == -signal.SIGKILL, "it ended before it was killed"
    for name in ("killed", "never"):
        trained_here(tmp_path / name, 8)
    folders = [next((tmp_path / name).glob("pretrain-*")) for name in ("killed", "never")]
    assert_same_bits(*folders, 8)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.distributed)])
@pytest.mark.parametrize("kills", [3, 20])
def test_killed_at_random_moments_a_run_ends_in_the_same_bits(processes, kills, tmp_path):
    seed = random.randrange(2**32)
    print(f"moments from seed {seed}")
    kill_and_go_on(tmp_path / "killed", kills, processes, seed)
    assert start(tmp_path / "never", 8 * kills, processes).wait(timeout=300) == 0
    killed, never = (next((tmp_path / name).glob("pretrain-*")) for name in ("killed", "never"))
    assert_same_bits(killed, never, 8 * kills)


# ------------------------------------------------------------------------------------- stopped, starved


@pytest.mark.notebook
def test_a_notebook_whose_kernel_dies_goes_on_when_it_is_run_again(tmp_path):
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    code = f"""
import os, signal, sys
sys.path[:0] = {FOLDERS}
from simlab.train import pretrain
from tiny_runs import pretrain_config, random_data
def die(history):
    if len(history) == 2 and not os.path.exists("died"):
        open("died", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
run = pretrain(pretrain_config(epochs=3), random_data(), folder="runs", progress=False, on_epoch=die)
print(len(run.history), "epochs")"""
    texts = []
    for attempt in range(2):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
        client = NotebookClient(notebook, timeout=120, kernel_name="python3",
                                resources={"metadata": {"path": str(tmp_path)}})  # fmt: skip
        if attempt == 0:
            with pytest.raises((DeadKernelError, CellExecutionError)):
                client.execute()
        else:
            client.execute()
            texts = [o["text"] for o in notebook.cells[0].outputs if "text" in o]
    assert "3 epochs" in "".join(texts)
    log = next((tmp_path / "runs").glob("*/train.log")).read_text()
    assert "resumes after epoch 2" in log


def test_a_run_stopped_by_the_user_keeps_what_it_has(tmp_path):
    def stop(history):
        raise KeyboardInterrupt

    config = PretrainConfig(**SMALL | {"epochs": 2})
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, data(), folder=str(tmp_path), progress=False, on_epoch=stop)
    run = pretrain(config, data(), folder=str(tmp_path), progress=False)
    assert run.finished and "resumes after epoch 1" in (run.folder / "train.log").read_text()


def peak() -> int:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def of_photos(folder):
    """Load large photos; prints the memory before in MB, and its peak from then on."""

    def peak_from_now() -> int:
        return (
            int(re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[0]) // 1024
        )

    Path("/proc/self/clear_refs").write_text("5")  # that of the imports is forgotten
    before = peak_from_now()
    images = load_data(f"{folder}/photos", image_size=64)
    print(before, peak_from_now(), len(images.train))


def printed_by_this_file(flag, folder):
    """The three numbers that this file prints last when it is run in a process of its own."""
    command = [sys.executable, __file__, flag, str(folder)]
    out = subprocess.run(command, text=True, capture_output=True, env=PYTHON)
    assert out.returncode == 0, out.stderr
    return map(int, out.stdout.split()[-3:])


@pytest.mark.slow
def test_large_photos_are_loaded_in_little_memory(tmp_path):
    """A photo takes 36 MB when it is decoded whole, and four or more are read at once."""
    photos = tmp_path / "photos"
    photos.mkdir()
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8))
    small.resize((4000, 3000), Image.Resampling.BICUBIC).save(photos / "0.jpg")
    for i in range(1, 200):
        os.link(photos / "0.jpg", photos / f"{i}.jpg")
    before, after, number = printed_by_this_file("--photos", tmp_path)
    print(f"{after - before} MB of memory")
    assert number == 160 and after - before < 36


def streamed(folder):
    """Pretraining on a folder that is streamed; prints the peak of memory in MB, before and after."""
    config = PretrainConfig(**SMALL | {"view_size": 32, "image_size": 128})
    pixels = torch.randint(0, 256, (664, 3, 128, 128), dtype=torch.uint8)
    small = from_arrays(pixels[:64], None, pixels[64:])  # a whole batch for the measures, 32 MB
    pretrain(config, small, folder=f"{folder}/runs", progress=False)
    before = peak()
    images = load_folder(f"{folder}/images", 128, fits=0)
    pretrain(config, images, folder=f"{folder}/runs", progress=False)
    decoded = sum(len(split) for split in (images.train, images.test)) * 3 * 128**2 // 2**20
    print(before, peak(), decoded)


@pytest.mark.slow
def test_a_folder_larger_than_the_memory_limit_is_trained_on_within_it(tmp_path):
    (tmp_path / "images").mkdir()
    first = tmp_path / "images" / "0.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)).save(first)
    for i in range(1, 9000):
        os.link(first, first.with_name(f"{i}.jpg"))
    before, after, decoded = printed_by_this_file("--streamed", tmp_path)
    print(f"{decoded} MB of images, {after - before} MB of memory")
    # the sample for mean and std takes 2,000 images, 94 MB; the whole set 421 MB
    assert after - before < decoded // 2


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_download_that_breaks_off_is_named_and_the_next_one_is_whole(
    share, tmp_path, monkeypatch
):
    make = torchvision.datasets.CIFAR10
    make_cifar(tmp_path / "there", 10, monkeypatch)
    packed = tmp_path / shutil.make_archive(tmp_path / "packed", "gztar", tmp_path / "there")
    content = packed.read_bytes()
    sent = content[: int(share * len(content))]  # for now

    class Serve(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(make, "url", f"http://127.0.0.1:{server.server_port}/{make.filename}")
        monkeypatch.setattr(make, "tgz_md5", md5(packed))
        with pytest.raises(ConnectionError, match=f"cifar10 could not be downloaded to {tmp_path}"):
            load_data("cifar10", str(tmp_path / "here"), download=True)
        with pytest.raises(
            FileNotFoundError, match="download=True"
        ):  # what came is not taken for it
            load_data("cifar10", str(tmp_path / "here"))
        sent = content
        data = load_data("cifar10", str(tmp_path / "here"), download=True)
        server.shutdown()
    assert data.digest() == load_data("cifar10", str(tmp_path / "there")).digest()


# --------------------------------------------------------------------------- data that make no sense


@pytest.mark.parametrize("images", ["constant", "black", "one"])
def test_images_without_content_train_and_give_finite_numbers(images, tmp_path):
    values = {"constant": 77, "black": 0}.get(images, 255)
    made = torch.full((64, 8, 8), values, dtype=torch.uint8)
    if images == "one":  # one image that is not white
        made[0] = 0
    run = pretrain(PretrainConfig(**SMALL), data(images=made), folder=str(tmp_path), progress=False)
    assert np.isfinite(run.history.select_dtypes("number").to_numpy()).all()


def test_one_class_is_pretrained_on_and_refused_where_classes_are_asked_for(tmp_path):
    one = data(classes=1)
    run = pretrain(PretrainConfig(**SMALL), one, folder=str(tmp_path), progress=False)
    assert run.finished and "knn" not in run.history
    config = SupervisedConfig(**{k: v for k, v in SMALL.items() if k not in
                                 ("method", "knn_k")})  # fmt: skip
    with pytest.raises(ValueError, match="at least two classes"):
        train_supervised(config, one, folder=str(tmp_path), progress=False)


def test_labels_out_of_range_are_refused_with_the_image():
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"label 9 of image 2 is out of range: expected -1"):
        Images(images, torch.tensor([0, 1, 9, 0]), ("a", "b"))


def test_images_with_nan_are_refused():
    with pytest.raises(ValueError, match="images hold NaN or infinite values"):
        from_arrays(np.full((10, 8, 8), np.nan, dtype=np.float32), np.arange(10) % 2)


def test_weights_that_are_nan_are_refused_by_every_protocol():
    encoder = untrained(PretrainConfig(**SMALL), data())
    with torch.no_grad():
        encoder.stem[0].weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="NaN or infinity"):
        knn(encoder, data())
    with pytest.raises(FloatingPointError, match="NaN or infinity"):
        linear_probe(encode(encoder, data()))


@pytest.mark.parametrize("ending", ["", "/file"])
def test_a_data_folder_that_is_missing_is_named(ending, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(str(tmp_path / "gone"))):
        load_data(f"{tmp_path}/gone{ending}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    scripts = {"--streamed": streamed, "--photos": of_photos}
    if sys.argv[1] in scripts:
        scripts[sys.argv[1]](sys.argv[2])
    else:
        worker(*sys.argv[1:])
